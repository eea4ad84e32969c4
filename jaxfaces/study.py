"""Compares methods: python -m jaxfaces.study --flagfile=configs/studies/x.cfg."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxfaces.engine import commandline, config
from jaxfaces.engine.errors import RunError
from jaxfaces.studies import plan as plan_lib
from jaxfaces.studies.plan import Plan
from jaxfaces.studies.settings import Settings

USAGE = """Trains arms × seeds and writes the comparison: JSON, table, picture.

  python -m jaxfaces.study --flagfile=configs/studies/x.cfg --workdir=runs/studies/x
  python -m jaxfaces.study ... --dry_run      arms, runs left, predicted time
  python -m jaxfaces.study report docs/results   tables and pictures from the JSON again

The same command again, also in other processes and on other machines that see the
folder, goes on with what is left. A flagfile has the flags below, the flags of
`python -m jaxfaces.train` that all arms share, and

  --arm=NAME --flag=value ...   an arm and its own flags, perhaps a --flagfile;
                                {seed} in the value of one is the seed of the run:
                                --policy=runs/x/seed_{seed}/policy.json
  --tune=FLAG=v1,v2,v3          to tune on validation data; inside --arm: of that arm"""


@dataclasses.dataclass(frozen=True)
class Report:
    """Flags of `report`."""

    readme: str = config.knob(
        "README.md", "Page whose table of studies is written again; empty is none."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2 usage, 1 it failed)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    report = words[:1] == ["report"]
    if any(word in commandline.HELP for word in words):
        parts = {"The report": Report()} if report else {"The study": Settings()}
        commandline.show(USAGE + "\n" + commandline.describe(parts))
        return 0
    try:
        if report:
            built, folders = commandline.parse_mixed(words[1:], {"report": Report()})
            if len(folders) != 1:
                raise commandline.UsageError("report takes one folder of results")
            return commandline.guarded(lambda: _report(built["report"], folders[0]))
        plan = plan_lib.read(words)
        _check_trials(plan)
    except commandline.UsageError as error:
        return commandline.fail(error, 2)
    return commandline.guarded(
        lambda: _study(plan), stopped="stopped at once; finished runs are kept"
    )


def _check_trials(plan: Plan) -> None:
    """All settings are read before anything runs."""
    from jaxfaces.studies import tuning

    tuning.trials(plan)


def _say(line: str) -> None:
    print(line, flush=True)


def _study(plan: Plan) -> None:
    from jaxfaces.engine import signals
    from jaxfaces.studies import forecast, report, results, runs, tuning

    if plan.settings.dry_run:
        forecast.show(plan, _say)
        return
    try:
        plan.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"--workdir={plan.workdir} cannot be written: {error}"
        ) from error
    with signals.stop_requests() as request:

        def carry_out(todo: Sequence[runs.Run]) -> Sequence[runs.Run]:
            return runs.carry_out(todo, plan, request, _say)

        tuned = tuning.tune(plan, carry_out)
        if tuned is None:
            _say("trials are left with other processes; nothing more to do here")
            return
        arms = {arm.name: tuning.settled(arm, tuned) for arm in plan.arms}
        final = [runs.of(arm, plan) for arm in arms.values() if arm]
        todo = [run for group in zip(*final) for run in group]  # pairs end early
        if elsewhere := carry_out(todo):
            _say(f"{len(elsewhere)} runs are left with other processes")
            return
    result = results.gather(plan, arms, tuned)
    written = report.write(result, Path(plan.settings.out))
    _say(report.page(result))
    _say("written: " + ", ".join(map(str, written)))


def _report(flags: Report, folder: str) -> None:
    from jaxfaces.studies import report

    readme = Path(flags.readme) if flags.readme else None
    if readme and not readme.exists():
        raise RunError(f"--readme={readme} does not exist; --readme= is none")
    for path in report.rebuild(Path(os.path.normpath(folder)), readme):
        _say(str(path))


if __name__ == "__main__":
    sys.exit(main())
