"""The training loop: `run` trains a task in a run directory, or goes on with it."""

import collections
import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxfaces.engine import (
    assembly,
    config,
    evaluation,
    mesh,
    reader,
    report,
    signals,
    totals,
    variables,
)
from jaxfaces.engine.checkpoints import Checkpoints
from jaxfaces.engine.errors import DivergedError, Interrupted
from jaxfaces.engine.logs import Log, Progress
from jaxfaces.engine.options import Options
from jaxfaces.engine.profiling import Profiler
from jaxfaces.engine.program import entering
from jaxfaces.engine.rundir import RunDir

# Steps that may be on their way to the device before the host waits for the oldest.
IN_FLIGHT = 4


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
      RunError: the directory holds another run, a checkpoint is damaged, a metric
        became NaN, or the run was asked to stop (its state is saved).
    """
    options = config.replace(Options(), overrides)
    config.check(task)
    evaluation.parse_monitor(task.monitor)
    folder = RunDir(Path(workdir))
    task, options = folder.open(task, options)
    if options.compile_cache:
        jax.config.update("jax_compilation_cache_dir", options.compile_cache)
    with Checkpoints(folder.checkpoints, keep=options.keep) as checkpoints:
        finished = folder.finished(checkpoints.steps(), task.steps)
        if finished is not None:
            Progress.announce(f"{workdir} is finished", quiet=options.quiet)
            return finished
        with signals.stop_requests() as request:
            return _Run(task, options, folder, checkpoints, request).train()


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
        self.options, self.folder, self.request = options, folder, request
        self.checkpoints = checkpoints
        self.steps = task.steps
        done = checkpoints.steps()
        self.step = done[-1] if done else 0
        self.progress = Progress(self.step, self.steps, quiet=options.quiet)
        self.parts = assembly.assemble(task, options, warn=self._warn)
        self.task, self.program = self.parts.task, self.parts.program
        folder.settle_sizes(self.parts.sizes)
        self.validation = self.parts.evaluation_streams("validation")
        self.meta = report.first_meta()
        self.saved = self.step if done else None
        if done:
            self.meta |= checkpoints.meta(self.step)
            self.tree = checkpoints.restore(self.step, self.parts.template())
        else:
            self.tree = self.parts.start()
        self.clock = time.perf_counter()

    def train(self) -> dict[str, Any]:
        """Runs to the last step; returns the summary."""
        first = self.options.seed
        self.log = Log(
            self.folder.folder,
            step=self.step,
            lines=self.meta["log"],
            seeds=range(first, first + self.program.seeds),
        )
        trace = Profiler(self.options.profile, self.folder.folder / "profile")
        with self.log, self.progress:
            self._greet()
            if self.saved is None:
                self._boundary()
            streams, timeline = self.parts.streams, self.parts.timeline
            ahead = reader.batches(timeline, streams, self.step, self.options)
            with trace as profiler, ahead as batches:
                self._loop(batches, profiler)
            self._stop_if_asked()
            return self._finish()

    def _loop(self, batches: Iterator[Any], profiler: Profiler) -> None:
        in_flight: collections.deque[jax.Array] = collections.deque()
        timeline, program = self.parts.timeline, self.program
        for host in batches:
            phase, begins = timeline.at(self.step)
            if begins and phase.enter is not None:
                name = entering(phase)
                self.tree["state"], self.tree["totals"][name] = program.enter(
                    phase, self.tree["state"], self.tree["totals"][name], self.step
                )
            batch = mesh.put(program.mesh, host)
            profiler.before(self.step)
            self.tree["state"], self.tree["totals"][phase.name], token = program.step(
                phase, self.tree["state"], self.tree["totals"][phase.name], batch,
                self.step,
            )  # fmt: skip
            self.step += 1
            self.meta["examples"] += sum(int(p["valid"].sum()) for p in host.values())
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
        evaluates = self._due(self.options.eval_every) and self.validation
        if evaluates:
            self._guard()
            self._evaluate()
        if evaluates or self._due(self.options.checkpoint_every):
            self._save()

    def _due(self, every: int) -> bool:
        return bool(every) and (self.step % every == 0 or self.step == self.steps)

    def _log_totals(self) -> None:
        self._guard()
        for name, sums in self._totals():
            values = totals.means(jax.device_get(sums))
            self.log.write_seeds(self.step, name, values)
            if "loss" in values:
                self.progress.show(loss=float(values["loss"].mean()))
            self.tree["totals"][name] = self.program.clear(sums)

    def _totals(self) -> list[tuple[str, Any]]:
        """The totals by name, in an order that a restored dictionary has too."""
        return sorted(self.tree["totals"].items())

    def _guard(self) -> None:
        """Stops the run if a metric was not finite since the last look."""
        for phase, sums in self._totals():
            bad = totals.first_bad(jax.device_get(sums))
            if bad is None:
                continue
            step, name, seed = bad
            seeds = self.program.seeds
            which = f" of seed {self.options.seed + seed}" if seeds > 1 else ""
            last = "none was saved"
            if self.saved is not None:
                last = f"step {self.saved} in {self.folder.checkpoints}"
            raise DivergedError(
                f"step {step}: {phase}/{name}{which} is not finite. "
                f"Last good checkpoint: {last}. Try a lower --lr, a longer "
                "--warmup_steps or --clip_norm, in a new --workdir"
            )

    def _evaluate(self) -> None:
        measures = evaluation.measure(
            self.program, self.tree["state"], self.validation, self.options
        )
        means = self._log_measures("validation", measures)
        self.meta["measures"] = measures
        if self.step == 0:
            self.meta["initial"] = measures
        self._compare(evaluation.monitored(self.task.monitor, measures))
        self.progress.say(report.line(self.step, means))
        self._draw()

    def _compare(self, value: float) -> None:
        sign, name = evaluation.parse_monitor(self.task.monitor)
        self.progress.show(**{name: value})
        best = self.meta["best"]
        if np.isfinite(value) and (best is None or sign * value > sign * best["value"]):
            self.meta["best"] = {"step": self.step, "value": value, "measure": name}
            self._write_params(best=True)

    def _draw(self) -> None:
        pictures = evaluation.draw(
            self.program, self.tree["state"], self.validation, self.options
        )
        report.draw(self.folder.figures, pictures, self.log.records())

    def _write_params(self, *, best: bool) -> None:
        for seed in range(self.program.seeds):
            one = self.program.state_of(self.tree["state"], seed)
            variables.save(
                self.folder.params(seed, best=best),
                self.program.variables(one),
                metadata={
                    "step": str(self.step),
                    "seed": str(self.options.seed + seed),
                },
            )

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
        best = self.meta["best"]
        self.checkpoints.save(
            self.step, self.tree, copy.deepcopy(self.meta), best=best and best["step"]
        )
        self._write_params(best=False)
        self.saved = self.step

    def _stop_if_asked(self) -> None:
        if self.request.signal is None:
            return
        self._save()
        raise Interrupted(
            f"stopped at step {self.step} of {self.steps}; the state is saved. "
            "Give the same command to go on",
            self.request.signal,
        )

    def _finish(self) -> dict[str, Any]:
        """Measures the test split if asked to, and writes the summary."""
        test = self._test() if self.options.test else {}
        report.draw(self.folder.figures, {}, self.log.records())
        summary = report.summarize(self.parts, self.meta, test)
        report.write(self.folder.summary, summary)
        return summary

    def _test(self) -> dict[str, Any]:
        """Measures of the test split for the first state (made again) and the last."""
        streams = self.parts.evaluation_streams("test")
        if not streams:
            self._warn("--test is set, but the task has no test split")
            return {}
        args = (streams, self.options)
        first = self.program.init(self.parts.first_batch())
        before = evaluation.measure(self.program, first, *args)
        after = evaluation.measure(self.program, self.tree["state"], *args)
        self._log_measures("test_initial", before)
        self._log_measures("test", after)
        pictures = evaluation.draw(self.program, self.tree["state"], *args)
        named = {f"test_{name}": picture for name, picture in pictures.items()}
        report.draw(self.folder.figures, named, [])
        return {"test_initial": before, "test": after}

    def _log_measures(self, split: str, measures: Any) -> dict[str, float]:
        """Logs measures of a split; returns their means over seeds."""
        values = {name: [each[name] for each in measures] for name in measures[0]}
        self.log.write_seeds(self.step, split, values)
        return {name: float(np.mean(each)) for name, each in values.items()}

    def _greet(self) -> None:
        program = self.program
        self.progress.say(
            report.greeting(self.parts, self.folder.folder, self.step, self.steps)
        )
        if program.seeds > 1 and jax.default_backend() == "cpu":
            self._warn("on a CPU several seeds run faster one after another")

    def _warn(self, line: str) -> None:
        self.progress.say(f"warning: {line}")
