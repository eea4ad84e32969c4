"""Tuning on validation data: as many trials for every arm, seeds of their own."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfaces.engine.errors import UsageError
from jaxfaces.studies import runs as runs_lib
from jaxfaces.studies.plan import Arm, Plan
from jaxfaces.studies.runs import Run

DRAW_SEED = 0
RATE = "lr"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of the tuned flags of an arm.

    Attributes:
      values: by flag.
      arm: the arm with these, measured on validation data.
      runs: one a tuning seed.
    """

    values: Mapping[str, str]
    arm: Arm
    runs: tuple[Run, ...]


def trials(plan: Plan) -> dict[str, list[Trial]]:
    """The trials of each arm, the same number for all; {} where nothing is tuned.

    They are drawn from the arm's grid without replacement, or are all of it. Arms with
    one grid have the same trials.

    Raises:
      UsageError: a flag or value is wrong, the numbers differ, or an arm that has a
        learning rate does not tune it.
    """
    if not any(arm.grid for arm in plan.arms):
        return {}
    found = {arm.name: _trials(arm, plan) for arm in plan.arms}
    if len({len(each) for each in found.values()}) > 1:
        numbers = ", ".join(f"{name} {len(each)}" for name, each in found.items())
        raise UsageError(
            f"the arms differ in their numbers of trials: {numbers}; --tune_trials=N "
            "draws as many from each grid"
        )
    return found


def _trials(arm: Arm, plan: Plan) -> list[Trial]:
    if RATE in arm.flags and RATE not in arm.grid:
        raise UsageError(
            f"arm {arm.name}: the learning rate is tuned too: --tune=lr=..."
        )
    grid = list(itertools.product(*arm.grid.values()))
    wanted = plan.settings.tune_trials or len(grid)
    if wanted > len(grid):
        raise UsageError(
            f"arm {arm.name}: --tune_trials={wanted}, but its grid has {len(grid)}"
        )
    drawn = np.random.default_rng(DRAW_SEED).permutation(len(grid))[:wanted]
    folder = plan.workdir / "tuning" / arm.name
    found = []
    for number, index in enumerate(sorted(drawn)):
        values = dict(zip(arm.grid, grid[index]))
        steps = plan.settings.tune_steps
        length = [f"--steps={steps}"] if steps else []
        changed = arm.changed(*_words(values), *length, "--test=false", why=", tuning")
        seeds = plan.settings.tune_seeds
        place = folder / f"trial_{number}"
        group = tuple(Run(changed.of_seed(s), (s,), place / f"seed_{s}") for s in seeds)
        found.append(Trial(values, changed, group))
    return found


def _words(values: Mapping[str, str]) -> list[str]:
    return [f"--{flag}={value}" for flag, value in values.items()]


def in_order(found: Mapping[str, Sequence[Trial]]) -> list[Run]:
    """All runs, seeds outermost, the arms' n-th trials beside each other."""
    columns = itertools.zip_longest(*found.values())
    trials = [trial for column in columns for trial in column if trial]
    return [run for group in zip(*(trial.runs for trial in trials)) for run in group]


def choose(found: Mapping[str, Sequence[Trial]], plan: Plan) -> dict[str, Any]:
    """What the trials gave, and which is best on validation data, by arm.

    Returns:
      For each arm `trials`, each with its values, the primary measure by seed and its
      mean (None where a run failed), and `chosen`, the number of the best, None where
      all failed. The first of equal ones is taken.
    """
    sign, name = plan.primary
    record = {}
    for arm, group in found.items():
        rows: list[dict[str, Any]] = []
        for trial in group:
            seeds = [_validation(run, name) for run in trial.runs]
            known = [value for value in seeds if value is not None]
            whole = len(known) == len(seeds)
            mean = math.fsum(known) / len(known) if whole else None
            errors = [e for e in map(runs_lib.failure, trial.runs) if e]
            row = {"values": dict(trial.values), "measures": seeds, "mean": mean}
            rows.append({**row, **({"error": errors[0]} if errors else {})})
        able = [i for i, row in enumerate(rows) if row["mean"] is not None]
        best = max(able, key=lambda i: sign * rows[i]["mean"], default=None)
        record[arm] = {
            "measure": name,
            "seeds": list(plan.settings.tune_seeds),
            "steps": group[0].arm.task.steps,
            "trials": rows,
            "chosen": best,
        }
    return record


def _validation(run: Run, name: str) -> float | None:
    summary = runs_lib.summary(run)
    if summary is None:
        return None
    return summary["measures"].get("validation", {}).get(name)


def settled(arm: Arm, record: Mapping[str, Any]) -> Arm | None:
    """The arm with what its tuning chose; None where all trials failed."""
    if arm.name not in record:
        return arm
    found = record[arm.name]
    if found["chosen"] is None:
        return None
    values = found["trials"][found["chosen"]]["values"]
    return arm.changed(*_words(values), why=", as tuned")


def tune(
    plan: Plan, carry_out: Callable[[Sequence[Run]], Sequence[Run]]
) -> dict[str, Any] | None:
    """Does the trials that are left and chooses; None where others are not done yet."""
    found = trials(plan)
    if carry_out(in_order(found)):
        return None
    return choose(found, plan)
