"""Measures a run: python -m jaxfaces.evaluate --workdir=runs/x --split=test."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxfaces.engine import config, reading

USAGE = """Measures any split of a finished or running run, without disturbing it.

  python -m jaxfaces.evaluate --workdir=runs/x --split=test --checkpoint=best

Prints the measures and writes them to WORKDIR/evaluations/SPLIT_CHECKPOINT.json."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Flags of this command."""

    workdir: str = config.knob("", "Run directory.")
    split: str = config.knob(
        "validation", "What to measure.", choices=("train", "validation", "test")
    )
    checkpoint: str = config.knob("last", "last, best or the number of a step.")
    data_dir: str = config.knob("", "Where the data lie now; empty is as in training.")
    devices: int = config.knob(0, "How many devices; 0 is as in training.", lower=0)
    figures: bool = config.knob(False, "Draw the task's pictures too.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2 usage, 1 it failed)."""
    return reading.main(arguments, usage=USAGE, defaults=Command(), act=_evaluate)


def _evaluate(command: Command) -> None:
    from jaxfaces.engine import assembly, evaluation, report
    from jaxfaces.engine.errors import RunError

    given = {"data_dir": command.data_dir, "devices": command.devices}
    overrides = {flag: value for flag, value in given.items() if value}
    parts, state, step = assembly.restore(
        command.workdir, checkpoint=command.checkpoint, overrides=overrides
    )
    streams = parts.evaluation_streams(command.split)
    if not streams:
        raise RunError(f"the task has no {command.split} split with these flags")
    examination = evaluation.Examination(parts.program, state, streams, parts.options)
    measures = examination.measures()
    for seed, each in enumerate(measures):
        name = command.split if len(measures) == 1 else f"seed {seed}"
        print(report.line(name, each))
    folder = Path(command.workdir) / "evaluations"
    folder.mkdir(exist_ok=True)
    name = f"{command.split}_{command.checkpoint}"
    result = {"step": step, "split": command.split, "measures": measures}
    report.write(folder / f"{name}.json", result)
    if command.figures:
        report.draw(folder / name, examination.figures(), [])
    print(json.dumps({"step": step, "written": str(folder / f"{name}.json")}))


if __name__ == "__main__":
    sys.exit(main())
