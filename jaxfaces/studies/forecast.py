"""What a study would do, and how long it takes: --dry_run."""

import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from jaxfaces.engine.errors import RunError
from jaxfaces.studies import runs as runs_lib
from jaxfaces.studies import tuning
from jaxfaces.studies.plan import Arm, Plan, words
from jaxfaces.studies.runs import Run, Say

PROBE_STEPS = (10, 40)
PROBE_EVALUATIONS = 10


def show(plan: Plan, say: Say) -> None:
    """Prints arms, the flags in which they differ, runs left and the time they need."""
    trials = tuning.trials(plan)
    stages = {"final": [run for arm in plan.arms for run in runs_lib.of(arm, plan)]}
    if trials:
        record = tuning.choose(trials, plan)
        known = {arm.name: tuning.settled(arm, record) for arm in plan.arms}
        todo = runs_lib.left(tuning.in_order(trials))
        arms = [arm if todo else known[arm.name] or arm for arm in plan.arms]
        final = [run for arm in arms for run in runs_lib.of(arm, plan)]
        stages = {"tuning": tuning.in_order(trials), "final": final}
        chosen = not todo
    else:
        chosen = True
    say(f"{plan.name}: {plan.primary[1]} on {plan.settings.split}")
    reference = next(arm for arm in plan.arms if arm.name == plan.reference)
    for arm in plan.arms:
        say(f"  {arm.name}{_apart(arm, reference)}; {words(arm.budget)}")
    left: list[Run] = []
    for stage, runs in stages.items():
        # Before the tuning has ended, the flags of the final runs are not known.
        todo = runs_lib.left(runs) if stage == "tuning" or chosen else list(runs)
        failed = sum(runs_lib.failure(run) is not None for run in runs)
        note = f", {failed} of them failed" if failed else ""
        say(f"  {stage}: {len(runs) - len(todo)} runs done{note}, {len(todo)} left")
        left += todo
    done = [run for runs in stages.values() for run in runs if run not in left]
    if plan.settings.smoke:
        return  # nobody waits for two steps
    say(f"  predicted time: {_duration(_predict(left, done, reference, plan, say))}")


def _apart(arm: Arm, reference: Arm) -> str:
    if arm is reference:
        return " (reference)"
    ours, theirs = arm.flags, reference.flags
    flags = [f"--{k}={v}" for k, v in ours.items() if theirs.get(k) != v]
    return ": " + (" ".join(flags) or "no flag differs from the reference")


def _predict(
    left: Sequence[Run], done: Sequence[Run], reference: Arm, plan: Plan, say: Say
) -> float:
    """Seconds that the runs left take one after another."""
    if not left:
        return 0.0
    times = _measured(done)
    if times:
        say(f"  (from the time of {len(done)} runs that were done)")
        mean = statistics.fmean(times.values())
        return sum(times.get(run.arm.name, mean) * _length(run) for run in left)
    fixed, step, evaluation = probe(reference, plan)
    say(
        f"  (from a probe of {reference.name}: {fixed:.1f} s, {1000 * step:.0f} ms a "
        f"step, {evaluation:.1f} s an evaluation)"
    )
    return sum(_time(run, fixed, step, evaluation) for run in left)


def _measured(done: Sequence[Run]) -> dict[str, float]:
    """Mean wall seconds a step of the finished runs, by arm."""
    found: dict[str, list[float]] = {}
    for run in done:
        wall = runs_lib.wall_seconds(run)
        if wall is not None:
            found.setdefault(run.arm.name, []).append(wall / _length(run))
    return {name: statistics.fmean(each) for name, each in found.items()}


def _length(run: Run) -> int:
    return run.arm.task.steps * len(run.seeds)


def _time(run: Run, fixed: float, step: float, evaluation: float) -> float:
    steps, every = run.arm.task.steps, run.arm.options.eval_every
    evaluations = 1 + steps / every if every else 0
    return fixed + len(run.seeds) * (steps * step + evaluations * evaluation)


def probe(arm: Arm, plan: Plan) -> tuple[float, float, float]:
    """Seconds of start and end, of a step and of an evaluation, by three short runs."""
    (few, more), seed = PROBE_STEPS, plan.seeds[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def seconds(number: int, steps: int, every: int) -> float:
            flags = [f"--steps={steps}", f"--schedule_steps={arm.task.steps}"]
            flags += [f"--eval_every={every}", "--checkpoint_every=1000000"]
            run = Run(
                dataclasses.replace(arm, words=(*arm.words, *flags)).of_seed(seed),
                (seed,),
                folder / str(number),
            )
            return _timed(run, plan)

        short, long = seconds(0, few, few), seconds(1, more, more)
        every = max(1, few // PROBE_EVALUATIONS)
        evaluated = seconds(2, few, every)
    step = max(0.0, (long - short) / (more - few))
    evaluation = max(0.0, (evaluated - short) / (few // every - 1))
    return max(0.0, short - few * step - 2 * evaluation), step, evaluation


def _timed(run: Run, plan: Plan) -> float:
    began = time.perf_counter()
    flags = run.words(smoke=plan.settings.smoke)
    done = subprocess.run(
        [sys.executable, "-m", "jaxfaces.train", *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        raise RunError(f"the probe of arm {run.arm.name} failed: {lines[-1]}")
    return time.perf_counter() - began


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
