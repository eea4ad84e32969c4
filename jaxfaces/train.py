"""Trains a task: python -m jaxfaces.train --flagfile=configs/x.cfg --workdir=runs/x."""

import dataclasses
import sys
from collections.abc import Sequence

from jaxfaces.engine import commandline, config
from jaxfaces.engine.options import Cluster, Options, smoke

USAGE = """Trains a task and writes all it learns to a run directory.

  python -m jaxfaces.train --flagfile=configs/quickstart.cfg --workdir=runs/quickstart
  python -m jaxfaces.train --task=TASK --help          the flags of a task

Flags after --flagfile override it. The same command again resumes a run that was cut;
a larger --steps lengthens a finished one."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Flags of this command alone."""

    workdir: str = config.knob("", "Run directory; an existing run in it is resumed.")
    smoke: bool = config.knob(
        False, "Two steps on tiny made-up data, to try a flagfile."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2 usage, 1 the run failed)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    configs = {"command": Command(), "options": Options(), "cluster": Cluster()}
    try:
        if any(word in commandline.HELP for word in words):
            commandline.show(_help(words, configs))
            return 0
        built, task = commandline.parse(words, configs)
        if not built["command"].workdir:
            raise commandline.UsageError("--workdir=FOLDER is missing")
    except commandline.UsageError as error:
        return commandline.fail(error, 2)
    return commandline.guarded(
        lambda: _train(**built, task=task),
        stopped="stopped at once; the newest checkpoint is whole",
    )


def _train(command: Command, options: Options, cluster: Cluster, task: object) -> None:
    from jaxfaces.engine import distributed, loop, report

    if command.smoke:
        task, options = smoke(task, options)
    settings = config.as_flags(options)
    with distributed.joined(cluster):
        summary = loop.run(task, command.workdir, **settings)
        if not options.quiet and distributed.is_main():
            print(report.closing(summary, command.workdir))


def _help(words: Sequence[str], configs: dict) -> str:
    words = [word for word in words if word not in commandline.HELP]
    if not any(word.lstrip("-").startswith(("task", "flagfile")) for word in words):
        return f"{USAGE}\n\nTasks:\n{commandline.tasks()}"
    _, task = commandline.parse(words, configs)
    sections = {
        "The command": configs["command"],
        f"Task {type(task).__name__}": task,
        "The engine": configs["options"],
        "Several processes": configs["cluster"],
    }
    return USAGE + "\n" + commandline.describe(sections)


if __name__ == "__main__":
    sys.exit(main())
