"""Exports a run: python -m jaxfaces.export --workdir=runs/x --output=x.jaxexport."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxfaces.engine import config, reading

USAGE = """Writes a run's prediction, its variables inside, to one file.

  python -m jaxfaces.export --workdir=runs/x --output=x.jaxexport

The file holds StableHLO for batches of any size. To run it takes jax and flatbuffers:

  predict = jax.export.deserialize(open("x.jaxexport", "rb").read()).call

FILE.json beside it says which columns a batch has, and where the file comes from."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Flags of this command."""

    workdir: str = config.knob("", "Run directory.")
    output: str = config.knob("", "File; empty is model.jaxexport in the workdir.")
    checkpoint: str = config.knob(
        "last", "Which variables of the run.", choices=("last", "best")
    )
    seed: int = config.knob(0, "Which of parallel seeds, from 0.", lower=0)
    platforms: tuple[str, ...] = config.knob(
        ("cpu", "cuda", "tpu"),
        "Where it shall run.",
        choices=("cpu", "cuda", "rocm", "tpu"),
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if not self.platforms:
            raise ValueError("--platforms must name one at least")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2 usage, 1 it failed)."""
    return reading.main(arguments, usage=USAGE, defaults=Command(), act=_export)


def _export(command: Command) -> None:
    from jaxfaces.engine import exporting

    path = Path(command.output or Path(command.workdir) / "model.jaxexport")
    about = exporting.export(
        command.workdir,
        path,
        best=command.checkpoint == "best",
        seed=command.seed,
        platforms=command.platforms,
    )
    shown = ("step", "inputs", "outputs", "platforms", "bytes")
    print(json.dumps({"written": str(path), **{name: about[name] for name in shown}}))


if __name__ == "__main__":
    sys.exit(main())
