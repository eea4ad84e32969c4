"""The log of a run: metrics.jsonl, TensorBoard events and a progress bar."""

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tqdm
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from jaxfaces.engine.files import write_text


class Log:
    """Measurements of a run by step, appended to its folder.

    What was logged after the checkpoint that the run goes on from is cut off first: a
    resumed run does it again.

    Args:
      folder: the run directory.
      step: number of finished steps of that checkpoint.
      lines: length of the log when it was saved.
      seeds: which seeds are trained at once.
    """

    def __init__(
        self, folder: Path, *, step: int, lines: int, seeds: Sequence[int] = (0,)
    ):
        self._seeds = seeds
        self._path = folder / "metrics.jsonl"
        self.lines = _cut(self._path, lines)
        self._file = self._path.open("a", encoding="utf-8")
        # Written here and now: the usual writer has a thread that dies of a full disk
        # and is then waited for.
        self._events = EventsWriter(str(folder / "events"))
        # TensorBoard drops the events after this step that an earlier process wrote.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._event(step + 1, session_log=start)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._events.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line a value; a value that is not finite is written as null."""
        for name, value in values.items():
            finite = math.isfinite(value)
            record = {"step": step, "name": name, "value": value if finite else None}
            self._file.write(json.dumps(record) + "\n")
            self.lines += 1
            if finite:
                self._event(step, summary=scalar(name, value))
        self._file.flush()

    def _event(self, step: int, **content: Any) -> None:
        event = event_pb2.Event(step=step, wall_time=time.time(), **content)
        self._events.write_event(event)

    def write_seeds(
        self, step: int, prefix: str, values: Mapping[str, Iterable[float]]
    ) -> None:
        """Appends values that have one entry a seed, each under a name of its own."""
        for name, each in values.items():
            for seed, value in zip(self._seeds, each, strict=True):
                suffix = f"/seed{seed}" if len(self._seeds) > 1 else ""
                self.write(step, {f"{prefix}/{name}{suffix}": float(value)})

    def sync(self) -> None:
        """Makes sure that the log is on disk before a checkpoint that relies on it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._events.flush()

    def records(self) -> list[dict[str, Any]]:
        """All lines so far."""
        self._file.flush()
        return read(self._path)


class Silence:
    """A log that keeps nothing, for processes that leave the writing to another."""

    lines = 0

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write_seeds(
        self, step: int, prefix: str, values: Mapping[str, Iterable[float]]
    ) -> None:
        """Takes what `Log` would write."""

    def sync(self) -> None:
        """Has nothing to bring to the disk."""

    def records(self) -> list[dict[str, Any]]:
        """None."""
        return []


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and _is_record(record):
            records.append(record)
    return records


def _is_record(record: Mapping[str, Any]) -> bool:
    step, name, value = (record.get(key) for key in ("step", "name", "value"))
    fits = isinstance(step, int) and isinstance(name, str)
    return fits and (value is None or isinstance(value, int | float))


def _cut(path: Path, lines: int) -> int:
    """Keeps the first records of a log; returns how many there are."""
    kept = read(path)[:lines]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return len(kept)


class Progress:
    """A progress bar with rate, time left and the main measures; none off a terminal.

    Args:
      steps: number of steps of the run.
      quiet: print nothing at all.
    """

    def __init__(self, steps: int, *, quiet: bool):
        self._quiet = quiet
        self._bar = tqdm.tqdm(
            total=steps,
            unit="step",
            disable=quiet or not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.1,
        )
        self._shown: dict[str, str] = {}

    def begin(self, step: int) -> None:
        """So many steps were done before; the rate counts from now."""
        self._bar.initial = self._bar.n = step
        self._bar.unpause()

    def advance(self) -> None:
        """One step is done."""
        self._bar.update()

    def show(self, **values: float) -> None:
        """Puts the newest values beside the bar."""
        self._shown |= {name: f"{value:.4g}" for name, value in values.items()}
        self._bar.set_postfix(self._shown, refresh=False)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self.announce(line, quiet=self._quiet)

    @staticmethod
    def announce(line: str, *, quiet: bool) -> None:
        """Prints a line, above a bar if there is one."""
        if not quiet:
            tqdm.tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
