"""What the runs of one arm left behind."""

import statistics
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfaces.engine import logs
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.rundir import RunDir
from jaxfaces.studies import runs as runs_lib
from jaxfaces.studies.plan import Arm, Plan
from jaxfaces.studies.runs import Run


class Collected:
    """What the runs of an arm left behind, by seed."""

    def __init__(self, arm: Arm | None, plan: Plan):
        self.runs = runs_lib.of(arm, plan) if arm else []
        self.split = plan.settings.split
        self.rows: list[dict[str, Any]] = []
        self.summaries: list[tuple[Run, dict[str, Any]]] = []
        for run in self.runs:
            summary = runs_lib.summary(run)
            if summary is not None:
                self.summaries.append((run, summary))
            for place, seed in enumerate(run.seeds):
                self.rows.append(self._row(run, place, seed, summary))
        if arm is None:
            error = "no trial of its tuning finished"
            self.rows = [_failed(seed, error) for seed in plan.seeds]

    def _row(self, run: Run, place: int, seed: int, summary: Any) -> dict[str, Any]:
        if summary is None:
            error = runs_lib.failure(run)
            return _failed(seed, error) if error else {"seed": seed, "status": "left"}
        if seed in summary["failed_seeds"]:
            return _failed(seed, "its metrics were not finite")
        measured = summary["measures"]
        if self.split not in measured:
            return _failed(seed, f"the task measures no {self.split} split")
        untrained = measured.get(f"{self.split}_initial")
        return {
            "seed": seed,
            "status": "finished",
            "seconds": summary["seconds"],
            "measures": _of(measured[self.split], place),
            "untrained": _of(untrained, place) if untrained else {},
        }

    def values(self, measure: str, kind: str = "measures") -> dict[int, float]:
        """A measure by seed, of the runs that have it."""
        found = {row["seed"]: row.get(kind, {}).get(measure) for row in self.rows}
        return {seed: value for seed, value in found.items() if value is not None}

    def means(self, measures: Sequence[str], kind: str = "measures") -> dict[str, Any]:
        """Mean, standard deviation and number of seeds of each measure."""
        found = {}
        for name in measures:
            values = list(self.values(name, kind).values())
            if values:
                sd = statistics.stdev(values) if len(values) > 1 else None
                found[name] = {
                    "mean": statistics.fmean(values),
                    "sd": sd,
                    "n": len(values),
                }
        return found

    def one(self, key: str) -> Any:
        """What all summaries say of a key, a list where they differ."""
        found = sorted({summary[key] for _, summary in self.summaries})
        return found[0] if len(found) == 1 else found or None

    def seconds(self) -> float | None:
        """Mean seconds of training of a run."""
        found = [summary["seconds"] for _, summary in self.summaries]
        return round(statistics.fmean(found), 2) if found else None

    def curve(self, measure: str) -> dict[str, Any]:
        """The validation measure over steps, by seed."""
        by_seed: dict[int, dict[int, float]] = {}
        for run, _ in self.summaries:
            records = logs.read(run.folder / "metrics.jsonl")
            for seed in run.seeds:
                suffix = f"/seed{seed}" if len(run.seeds) > 1 else ""
                name = f"validation/{measure}{suffix}"
                by_seed[seed] = {
                    r["step"]: r["value"] for r in records if r["name"] == name
                }
        steps = sorted({step for points in by_seed.values() for step in points})
        return {
            "measure": measure,
            "steps": steps,
            "values": {
                str(seed): [_short(points.get(step)) for step in steps]
                for seed, points in by_seed.items()
            },
        }

    def convergence(self, measure: str) -> dict[str, Any] | None:
        """How much the validation measure moves in the last fifth, mean over seeds.

        None where nothing was measured in the fifth before that one.
        """
        curve = self.curve(measure)
        steps = curve["steps"]
        last = steps[-1] if steps else 0
        before = [i for i, at in enumerate(steps) if 3 * last <= 5 * at <= 4 * last]
        if not before:
            return None
        changes = [
            values[-1] - values[before[-1]]
            for values in curve["values"].values()
            if None not in (values[-1], values[before[-1]])
        ]
        if not changes:
            return None
        return {"from_step": steps[before[-1]], "change": statistics.fmean(changes)}

    def classwise(self, measure: str) -> dict[int, np.ndarray]:
        """A measure by seed and class, of the runs that have it."""
        found: dict[int, np.ndarray] = {}
        for run, _ in self.summaries:
            path = RunDir(run.folder).classwise
            if not path.exists():
                continue
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    array = arrays[measure] if measure in arrays else None
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                raise RunError(
                    f"{path} is damaged ({error}); remove {run.folder} to make it again"
                ) from error
            if array is not None:
                found |= dict(zip(run.seeds, array))
        finished = {row["seed"] for row in self.rows if row["status"] == "finished"}
        return {seed: found[seed] for seed in found if seed in finished}


def _failed(seed: int, error: str) -> dict[str, Any]:
    return {"seed": seed, "status": "failed", "error": error}


def _of(measures: Any, place: int) -> dict[str, Any]:
    """Measures of one of the seeds that were trained at once."""
    return measures[place] if isinstance(measures, list) else measures


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
