"""Measuring a state on a split, and gathering predictions over a sweep."""

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfaces.data.streams import Stream
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.program import Program
from jaxfaces.engine.reader import Sweep

# What a sweep gave to whom, while it lives: measures, classes and pictures ask alike.
_collected: weakref.WeakKeyDictionary[Sweep, tuple] = weakref.WeakKeyDictionary()


def collect(
    predict: Callable[[Mapping[str, Any]], Any], batches: Iterable[Mapping[str, Any]]
) -> tuple[Any, dict[str, np.ndarray]]:
    """Predictions and columns of all rows of a sweep, padding left out.

    Asked again for the same `predict` and `Sweep` it gives the same arrays, which are
    therefore not to be written to.

    Args:
      predict: outputs for one batch, a pytree of arrays with one row an example.
      batches: the sweep, or batches of another origin.

    Returns:
      The outputs, a pytree of numpy arrays with a row an example, and of the columns
      of batches those that have one value a row ("label", "index", …).
    """
    if not isinstance(batches, Sweep):
        return _collect(predict, batches)
    asked, found = _collected.get(batches, (None, None))
    if asked is not predict or found is None:
        found = _collect(predict, batches)
        _collected[batches] = predict, found
    return found


def _collect(predict: Callable, batches: Iterable) -> tuple[Any, dict[str, np.ndarray]]:
    outputs: list[Any] = []
    gathered = []
    for batch in batches:
        valid = batch["valid"]
        # Fetched one batch behind, so that device and host work at the same time.
        if outputs:
            outputs[-1] = _fetch(*outputs[-1])
        outputs.append((predict(batch), valid))
        plain = {name: column for name, column in batch.items() if column.ndim == 1}
        gathered.append({name: column[valid] for name, column in plain.items()})
    outputs[-1] = _fetch(*outputs[-1])
    return (
        jax.tree.map(lambda *parts: np.concatenate(parts), *outputs),
        {name: np.concatenate([g[name] for g in gathered]) for name in gathered[0]},
    )


def _fetch(output: Any, valid: np.ndarray) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[valid], output)


class Examination:
    """A state on a split; every seed's sweeps are made, and predicted, once.

    Args:
      program: the run's.
      state: of all seeds.
      streams: of the split.
      options: how to read.
    """

    def __init__(
        self,
        program: Program,
        state: Any,
        streams: Mapping[str, Stream],
        options: Options,
    ):
        self._program, self._state = program, state
        self._streams, self._options = streams, options

    @functools.cached_property
    def _each(self) -> list[tuple[Callable, dict[str, Sweep]]]:
        """The prediction and the sweeps of every seed."""
        program = self._program
        states = [program.state_of(self._state, seed) for seed in range(program.seeds)]
        return [
            (
                program.predictor(program.variables(state)),
                {name: Sweep(s, self._options) for name, s in self._streams.items()},
            )
            for state in states
        ]

    def _asked(self, ask: Callable) -> list[Any]:
        """What the task answers for each seed."""
        return [
            ask(self._program.state_of(self._state, seed), *each, self._program.sizes)
            for seed, each in enumerate(self._each)
        ]

    def measures(self) -> list[dict[str, float]]:
        """The task's measures of the split, for each seed."""
        found = self._asked(self._program.task.evaluate)
        return [{name: float(value) for name, value in one.items()} for one in found]

    def classwise(self) -> dict[str, np.ndarray]:
        """The task's measures of each class, (seeds, classes); {} if it has none."""
        if not hasattr(self._program.task, "classwise"):
            return {}
        found = self._asked(self._program.task.classwise)
        return {name: np.stack([each[name] for each in found]) for name in found[0]}

    def figures(self) -> Mapping[str, Any]:
        """The task's figures, for the first seed; none if it makes none."""
        if not hasattr(self._program.task, "figures"):
            return {}
        one = self._program.state_of(self._state, 0)
        return self._program.task.figures(one, *self._each[0])


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
