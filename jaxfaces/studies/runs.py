"""The runs of a study: each one a training process in a directory of its own."""

import contextlib
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxfaces.engine import commandline, config, lock
from jaxfaces.engine.errors import Interrupted, InUseError, RunError
from jaxfaces.engine.files import write_text
from jaxfaces.engine.options import Options
from jaxfaces.engine.rundir import RunDir
from jaxfaces.engine.signals import Request
from jaxfaces.studies import plan as plan_lib
from jaxfaces.studies.plan import Arm, Plan

MOST_KILLS = 3  # of one run in one call of the command
KILLED = "killed by signal"
POLL, WAIT = 0.1, 2.0  # seconds
MOST_ERROR = 500
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      arm: whose it is, as `Arm.of_seed` has it.
      seeds: one, or several that are trained at once.
      folder: its directory.
    """

    arm: Arm
    seeds: tuple[int, ...]
    folder: Path

    @property
    def options(self) -> Options:
        """The options of the engine with which it runs."""
        values = {"seed": self.seeds[0], "parallel_seeds": len(self.seeds)}
        return config.replace(self.arm.options, values)

    def words(self, *, smoke: bool = False) -> list[str]:
        """The words after `python -m jaxfaces.train`."""
        several = [f"--parallel_seeds={len(self.seeds)}"] if len(self.seeds) > 1 else []
        own = [f"--seed={self.seeds[0]}", *several, "--classwise"]
        own += ["--smoke"] if smoke else []
        return [*self.arm.words, *own, f"--workdir={self.folder}", "--quiet"]

    def beside(self, ending: str) -> Path:
        """A file beside its directory, which before a run begins must be empty."""
        return self.folder.with_name(self.folder.name + ending)

    @property
    def label(self) -> str:
        """What lines on the terminal call it."""
        return "/".join(self.folder.parts[-2:])


def of(arm: Arm, plan: Plan) -> list[Run]:
    """The final runs of an arm."""
    groups = plan_lib.chunks(plan.seeds, plan.settings.seeds_at_once)
    folder, smoke = plan.workdir / arm.name, plan.settings.smoke
    return [
        Run(arm.of_seed(seeds[0], smoke=smoke), seeds, folder / _name(seeds))
        for seeds in groups
    ]


def _name(seeds: Sequence[int]) -> str:
    return f"seed_{seeds[0]}" + (f"-{seeds[-1]}" if len(seeds) > 1 else "")


def summary(run: Run) -> dict[str, Any] | None:
    """The summary of a finished run of these flags, else None.

    Raises:
      RunError: the directory holds a run with other flags.
    """
    folder = RunDir(run.folder)
    if not folder.flags.exists() or not (folder.begun or folder.summary.exists()):
        return None  # until there is a checkpoint, flags may change
    task, options = folder.read(type(run.arm.task))
    changed = [
        f"--{knob.flag} was {knob.format(old)}, is {knob.format(new)}"
        for knob, old, new in config.differences(task, run.arm.task)
        + config.differences(options, run.options)
        if not knob.runtime
    ]
    if changed:
        raise RunError(
            f"{run.folder} holds a run with other flags: {'; '.join(changed)}. Give "
            "the study another --workdir, or remove the runs to be made again"
        )
    try:
        found = json.loads(folder.summary.read_text(encoding="utf-8"))
        whole = found["steps"] == run.arm.task.steps and "measures" in found
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # the run writes it again from its last checkpoint
    return found if whole else None


def failure(run: Run) -> str | None:
    """The error line of a run that failed with these flags."""
    try:
        record = json.loads(run.beside(".failed.json").read_text(encoding="utf-8"))
        return str(record["error"]) if record["flags"] == run.arm.flags else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def wall_seconds(run: Run) -> float | None:
    """How long a finished run took with start and end, if it was not interrupted."""
    try:
        return float(run.beside(".seconds").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def left(runs: Iterable[Run], *, retry_failed: bool = False) -> list[Run]:
    """Those that are neither finished nor, unless tried again, failed."""
    return [
        run
        for run in runs
        if summary(run) is None and (retry_failed or failure(run) is None)
    ]


def carry_out(runs: Sequence[Run], plan: Plan, request: Request, say: Say) -> list[Run]:
    """Does all runs that are left, beside other processes that do the same.

    A run is claimed by the operating system's lock on a file beside its directory. The
    training process inherits it: it is free when both are gone, however they died.

    Args:
      runs: in the order in which they are done.
      plan: their study.
      request: whether to stop.
      say: prints a line.

    Returns:
      Runs that other processes still hold, where the study shall not wait for them.

    Raises:
      Interrupted: the process was asked to stop; nothing is lost.
    """
    waiting = left(runs, retry_failed=plan.settings.retry_failed)
    kills, waits = Counter[Path](), False
    while waiting:
        held, progress = [], False
        for run in waiting:
            _stop_if_asked(request, runs)
            try:
                with _claim(run, say) as claim:
                    outcome = _attempt(run, plan, claim, request)
            except InUseError:
                held.append(run)
                continue
            progress = True
            if outcome.startswith(KILLED):
                kills[run.folder] += 1
                if kills[run.folder] < MOST_KILLS:
                    held.append(run)
                else:
                    _fail(run, f"{outcome}, {MOST_KILLS} times")
            say(
                f"{run.label}: {outcome} ({len(runs) - len(left(runs))} of {len(runs)})"
            )
            _stop_if_asked(request, runs)
        waiting = held
        if waiting and not progress:
            if not plan.settings.wait:
                return waiting
            if not waits:
                say(f"waiting for {len(waiting)} runs of other processes")
            waits = True
            _sleep(WAIT, request)
            waiting = left(waiting)
    return []


@contextlib.contextmanager
def _claim(run: Run, say: Say) -> Iterator[int]:
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    name = f".{run.folder.name}.claim"
    with lock.held(run.folder.parent, warn=say, name=name) as claim:
        yield claim


def _stop_if_asked(request: Request, runs: Sequence[Run]) -> None:
    if request.signal and (todo := len(left(runs))):
        raise Interrupted(
            f"stopped with {todo} of {len(runs)} runs left; what they reached is "
            "saved. Give the same command to go on",
            request.signal,
        )


def _sleep(seconds: float, request: Request) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not request.signal:
        time.sleep(POLL)


def _attempt(run: Run, plan: Plan, claim: int, request: Request) -> str:
    """Trains a claimed run, unless another process did meanwhile; says what became."""
    if summary(run) is not None:
        return "finished elsewhere"
    if failure(run) is not None and not plan.settings.retry_failed:
        return "failed elsewhere"
    run.beside(".failed.json").unlink(missing_ok=True)
    whole = not RunDir(run.folder).begun  # its time is that of a run from the start
    began, path = time.monotonic(), run.beside(".log")
    with path.open("ab") as log:
        start = log.tell()
        words = run.words(smoke=plan.settings.smoke)
        code = _train(words, log, claim, request)
    seconds = time.monotonic() - began
    if code == 0 and summary(run) is not None:
        if whole:
            write_text(run.beside(".seconds"), f"{seconds:.1f}\n")
        return f"finished in {seconds:.0f} s"
    if request.signal:
        return "stopped"
    if code < 0 or code in (130, 143):
        return f"{KILLED} {-code if code < 0 else code - 128}"
    line = _last_line(path, start) or f"ended with exit code {code} and no word"
    if lock.IN_USE in line:  # by a training process of no study
        raise InUseError(line)
    _fail(run, line)
    return f"failed: {line}"


def _train(words: list[str], log: Any, claim: int, request: Request) -> int:
    """Runs a training process to its end, or asks it to save and stop; its exit code.

    It has a process group of its own: ctrl-C reaches it through us, once.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "jaxfaces.train", *words],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(claim,),
        process_group=0,
    )
    asked = False
    try:
        while (code := child.poll()) is None:
            if request.signal and not asked:
                child.terminate()
                asked = True
            time.sleep(POLL)
        return code
    finally:
        if child.poll() is None:  # a second ctrl-C: at once, its checkpoints are whole
            child.kill()
            child.wait()


def _fail(run: Run, line: str) -> None:
    """Records that a run failed."""
    record = {"error": line, "flags": run.arm.flags, "command": command(run)}
    write_text(run.beside(".failed.json"), json.dumps(record, indent=2) + "\n")


def command(run: Run) -> str:
    """The command that makes a run alone."""
    return f"python -m jaxfaces.train {shlex.join(run.words())}"


def _last_line(path: Path, start: int) -> str:
    """The last line of a log from `start` on, or the engine's error if there is one."""
    with path.open("rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(start, size - (1 << 16)))
        text = log.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith(commandline.ERROR)]
    line = (ours or lines or [""])[-1].removeprefix(commandline.ERROR).strip()
    return line if len(line) <= MOST_ERROR else f"{line[:MOST_ERROR]} …"
