"""The training loop: `run` trains a task in a run directory, or goes on with it."""

import collections
import contextlib
import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxfaces.engine import (
    assembly,
    compiled,
    config,
    distributed,
    evaluation,
    lock,
    reader,
    report,
    resident,
    signals,
    starting,
    totals,
)
from jaxfaces.engine.checkpoints import Checkpoints
from jaxfaces.engine.errors import DivergedError, Interrupted
from jaxfaces.engine.logs import Log, Progress, Silence
from jaxfaces.engine.options import Options
from jaxfaces.engine.profiling import Profiler
from jaxfaces.engine.records import Records
from jaxfaces.engine.rundir import RunDir

# Steps that may be on their way to the device before the host waits for the oldest.
IN_FLIGHT = 4
# Against metrics that are not finite, where the task knows no better.
REMEDY = "a lower --lr, a longer --warmup_steps or --clip_norm"


def run(task: Any, workdir: Path | str, **overrides: Any) -> dict[str, Any]:
    """Trains a task, or resumes it where its run directory stops.

    Args:
      task: a task (`jaxfaces.engine.task.Task`) with its hyper-parameters.
      workdir: the run directory; made if absent. The same task and options again go
        on from the newest checkpoint; a larger `steps` lengthens a finished run.
      **overrides: options of the engine by flag name, such as `seed=1`.

    Returns:
      The content of summary.json.

    Raises:
      ValueError: a hyper-parameter or option is out of range.
      RunError: the directory holds another run or is in use, a checkpoint is damaged, a
        metric became NaN, the disk is full, or the run was asked to stop (its state is
        saved).
    """
    options = config.replace(Options(), overrides)
    config.check(task)
    evaluation.parse_monitor(task.monitor)
    compiled.keep(options.compile_cache)
    folder = RunDir(Path(workdir))
    with folder.writing(), contextlib.ExitStack() as held:
        if distributed.is_main():
            held.enter_context(_owned(folder, options))
            task, options = folder.open(task, options)
        options = distributed.agreed(task, options)
        with Checkpoints(folder.checkpoints, keep=options.keep) as checkpoints:
            steps = checkpoints.steps()
            finished = distributed.share(folder.finished(steps, task.steps))
            if finished is not None:
                Progress.announce(f"{workdir} is finished", quiet=options.quiet)
                return finished
            with signals.stop_requests() as request, distributed.announced():
                return _Run(task, options, folder, checkpoints, request).train()


@contextlib.contextmanager
def _owned(folder: RunDir, options: Options) -> Iterator[None]:
    """Holds the run directory, made if absent, for this process."""

    def warn(line: str) -> None:
        Progress.announce(f"warning: {line}", quiet=options.quiet)

    folder.make()
    with lock.held(folder.folder, warn=warn):
        yield


class _Run:
    """A run between two calls of the command; `train` is the loop."""

    def __init__(
        self,
        task: Any,
        options: Options,
        folder: RunDir,
        checkpoints: Checkpoints,
        request: signals.Request,
    ):
        self.options, self.folder = options, folder
        self.checkpoints = checkpoints
        self.steps = task.steps
        self.progress = Progress(self.steps, quiet=options.quiet)
        self.parts = assembly.assemble(task, options, warn=self._warn)
        self.program = self.parts.program
        self.stop = distributed.Stop(request, self.program.mesh)
        distributed.compare("the data", self.parts.sizes)
        if distributed.is_main():
            folder.settle_sizes(self.parts.sizes)
            if hasattr(task, "inputs"):
                folder.settle_inputs(task.inputs())
        self.step, self.saved, self.meta = 0, None, report.first_meta()
        template = self.parts.template()
        self.parts.compile_ahead((checkpoints.steps() or [0])[-1], template)
        found = checkpoints.newest(template, resume=options.resume, warn=self._warn)
        if found:
            self.step, self.tree, meta = found
            self.saved = self.step
            self.meta |= meta
        else:
            self.tree, self.meta["init_from"] = starting.first(self.parts)
        self.warned = self._skipped()
        held = resident.load(
            self.parts.resident, self.program.mesh, say=self.progress.say
        )
        self.feed = resident.feeder(held, self.program.mesh)
        self.clock = time.perf_counter()
        self.examples = 0  # that this process read since the last checkpoint

    def train(self) -> dict[str, Any]:
        """Runs to the last step; returns the summary."""
        first = self.options.seed
        self.log: Log | Silence = Silence()
        if distributed.is_main():
            self.log = Log(
                self.folder.folder,
                step=self.step,
                lines=self.meta["log"],
                seeds=range(first, first + self.program.seeds),
            )
        profile = self.options.profile if distributed.is_main() else ""
        trace = Profiler(profile, self.folder.folder / "profile")
        with self.log, self.progress:
            self.records = Records(
                self.parts, self.folder, self.log, self.progress, self.meta
            )
            self._greet()
            if self.saved is None:
                self._boundary()
            streams, timeline = self.parts.streams, self.parts.timeline
            streams = resident.planned(streams, self.parts.resident)
            ahead = reader.batches(timeline, streams, self.step, self.options)
            with trace as profiler, ahead as batches:
                self._loop(batches, profiler)
            self._stop_if_asked(last=True)
            return self.records.finish(self.step, self.tree)

    def _loop(self, batches: Iterator[Any], profiler: Profiler) -> None:
        in_flight: collections.deque[jax.Array] = collections.deque()
        timeline, program = self.parts.timeline, self.program
        for host in batches:
            phase, begins = timeline.at(self.step)
            if begins and phase.enter is not None:
                self.tree = program.enter(phase, self.tree, self.step)
            batch = self.feed(host)
            profiler.before(self.step)
            self.tree, token = program.step(phase, self.tree, batch, self.step)
            self.step += 1
            self.examples += sum(int(p["valid"].sum()) for p in host.values())
            self.progress.advance()
            in_flight.append(token)
            if len(in_flight) > IN_FLIGHT:
                in_flight.popleft().block_until_ready()
            profiler.after(self.step, token)
            if self._due(self.options.log_every):
                self._log_totals()
            self._boundary()
            # Last, so that what was due at this step is not lost to the resumed run.
            self._stop_if_asked()

    def _boundary(self) -> None:
        """What is due after a step: evaluation, then a checkpoint of what it found."""
        evaluates = self._due(self.options.eval_every) and self.records.validation
        if evaluates:
            self._guard()
            self.records.evaluate(self.step, self.tree)
        if evaluates or self._due(self.options.checkpoint_every):
            self._save()

    def _due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.steps)

    def _log_totals(self) -> None:
        self._guard()
        self.checkpoints.check()
        cleared = {}
        for name, sums in self._totals():
            values = totals.means(jax.device_get(sums))
            self.log.write_seeds(self.step, name, values)
            if "loss" in values:
                self.progress.show(loss=float(np.nanmean(values["loss"])))
            cleared[name] = self.program.clear(sums)
        self.tree = {**self.tree, "totals": cleared}

    def _totals(self) -> list[tuple[str, Any]]:
        """The totals by name, in an order that a restored dictionary has too."""
        return sorted(self.tree["totals"].items())

    def _guard(self) -> None:
        """Warns of steps that were left out; stops the run once every seed gave up."""
        failed = np.atleast_1d(self.tree["health"].failed)
        skipped = self._skipped()
        if skipped == self.warned:
            return
        newly = [
            i for i, step in enumerate(failed) if step not in (0, self._gave_up(i))
        ]
        which, metric = self._first_bad(newly[0] if newly else None)
        if np.all(failed > 0):
            patience, other = self.options.patience, "or --on_nan=skip"
            if patience is not None:
                which += f", nor in the {patience} steps left out before"
                other = "or a larger --nan_patience"
            remedy = getattr(self.parts.task, "remedies", {}).get(metric, REMEDY)
            raise DivergedError(
                f"{which}. Last good checkpoint: {self._last_good()}. Try {remedy} in "
                f"a new --workdir, {other}"
            )
        given_up = [self.options.seed + int(i) for i in np.flatnonzero(failed)]
        self._warn(
            f"{which}; {sum(skipped[: self.program.seeds])} steps left out so far"
            + (f", seeds given up: {given_up}" if given_up else "")
        )
        self.warned = skipped

    def _skipped(self) -> list[int]:
        """Numbers of skipped steps by seed, then the steps at which seeds gave up."""
        health = jax.device_get(self.tree["health"])
        return [*np.atleast_1d(health.skipped), *np.atleast_1d(health.failed)]

    def _gave_up(self, seed: int) -> int:
        """The step at which a seed had given up at the last look, or 0."""
        return self.warned[self.program.seeds + seed]

    def _first_bad(self, seed: int | None) -> tuple[str, str]:
        """A metric that was not finite since the last look, in words, and its name.

        Args:
          seed: the index of one that gave up, whose last step is meant; None is any.
        """
        step, name, seed, phase = min(
            (*bad, phase)
            for phase, sums in self._totals()
            for bad in totals.bad(jax.device_get(sums))
            if seed in (None, bad[2])
        )
        gave_up = np.atleast_1d(self.tree["health"].failed)[seed]
        step = int(gave_up) or step
        which = f" of seed {self.options.seed + seed}" if self.program.seeds > 1 else ""
        return f"step {step}: {phase}/{name}{which} is not finite", name

    def _last_good(self) -> str:
        if self.saved is None:
            return "none was saved"
        return f"step {self.saved} in {self.folder.checkpoints}"

    def _save(self) -> None:
        """Saves a checkpoint, but never one of a state that has gone bad."""
        if self.saved == self.step:
            return
        self._guard()
        self.log.sync()
        now = time.perf_counter()
        self.meta["seconds"] += now - self.clock
        self.clock = now
        self.meta["reads"] = self.parts.timeline.reads(self.step)
        self.meta["log"] = self.log.lines
        self.meta["examples"] += distributed.total(self.examples)
        self.examples = 0
        best = self.meta["best"]
        self.checkpoints.save(
            self.step, self.tree, copy.deepcopy(self.meta), best=best and best["step"]
        )
        self.records.parameters(self.step, self.tree["state"])
        self.saved = self.step

    def _stop_if_asked(self, *, last: bool = False) -> None:
        signal = self.stop.asked(last=last)
        if not signal:
            return
        self._save()
        raise Interrupted(
            f"stopped at step {self.step} of {self.steps}; the state is saved. "
            "Give the same command to go on",
            signal,
        )

    def _greet(self) -> None:
        program = self.program
        self.progress.begin(self.step)
        self.progress.say(
            report.greeting(self.parts, self.folder.folder, self.step, self.steps)
        )
        if program.seeds > 1 and jax.default_backend() == "cpu":
            self._warn("on a CPU several seeds run faster one after another")

    def _warn(self, line: str) -> None:
        self.progress.say(f"warning: {line}")
