"""Measuring a state on a split, and gathering predictions over a sweep."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfaces.data.streams import Stream
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.program import Program
from jaxfaces.engine.reader import Sweep


def collect(
    predict: Callable[[Mapping[str, Any]], Any],
    batches: Sweep,
    columns: Sequence[str] = ("label",),
) -> tuple[Any, dict[str, np.ndarray]]:
    """Predictions and columns of all rows of a sweep, padding left out.

    Args:
      predict: outputs for one batch, a pytree of arrays with one row an example.
      batches: the sweep.
      columns: which columns of the batches to gather too.

    Returns:
      The outputs, a pytree of numpy arrays with a row an example, and the columns.
    """
    outputs: list[Any] = []
    gathered = []
    for batch in batches:
        valid = batch["valid"]
        # Fetched one batch behind, so that device and host work at the same time.
        if outputs:
            outputs[-1] = _fetch(*outputs[-1])
        outputs.append((predict(batch), valid))
        gathered.append({name: batch[name][valid] for name in columns})
    outputs[-1] = _fetch(*outputs[-1])
    return (
        jax.tree.map(lambda *parts: np.concatenate(parts), *outputs),
        {name: np.concatenate([g[name] for g in gathered]) for name in columns},
    )


def _fetch(output: Any, valid: np.ndarray) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[valid], output)


def measure(
    program: Program, state: Any, streams: Mapping[str, Stream], options: Options
) -> list[dict[str, float]]:
    """The task's measures of a split, for each seed."""
    sweeps = {name: Sweep(stream, options) for name, stream in streams.items()}
    results = []
    for seed in range(program.seeds):
        one = program.state_of(state, seed)
        predict = program.predictor(program.variables(one))
        measures = program.task.evaluate(one, predict, sweeps, program.sizes)
        results.append({name: float(value) for name, value in measures.items()})
    return results


def classwise(
    program: Program, state: Any, streams: Mapping[str, Stream], options: Options
) -> dict[str, np.ndarray]:
    """The task's measures of each class, (seeds, classes); {} if it has none."""
    if not hasattr(program.task, "classwise"):
        return {}
    sweeps = {name: Sweep(stream, options) for name, stream in streams.items()}
    found = []
    for seed in range(program.seeds):
        one = program.state_of(state, seed)
        predict = program.predictor(program.variables(one))
        found.append(program.task.classwise(one, predict, sweeps, program.sizes))
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


def draw(
    program: Program, state: Any, streams: Mapping[str, Stream], options: Options
) -> Mapping[str, Any]:
    """The task's figures of a split, for the first seed; none if it makes none."""
    if not hasattr(program.task, "figures"):
        return {}
    sweeps = {name: Sweep(stream, options) for name, stream in streams.items()}
    one = program.state_of(state, 0)
    return program.task.figures(one, program.predictor(program.variables(one)), sweeps)


def parse_monitor(monitor: str) -> tuple[float, str]:
    """Splits "max:NAME" into (1.0, NAME) and "min:NAME" into (-1.0, NAME)."""
    direction, _, name = monitor.partition(":")
    if direction not in ("max", "min") or not name:
        raise RunError(
            f"a task's monitor must be max:NAME or min:NAME, got {monitor!r}"
        )
    return (1.0 if direction == "max" else -1.0), name


def monitored(monitor: str, measures: Sequence[Mapping[str, float]]) -> float:
    """The mean over seeds of the measure that chooses the best state."""
    _, name = parse_monitor(monitor)
    if name not in measures[0]:
        raise RunError(
            f"the task is monitored by {name!r}, but measures only {list(measures[0])}"
        )
    return float(np.mean([each[name] for each in measures]))
