"""The shape of commands that read a run and take flags of their own alone."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxfaces.engine import commandline


def main(
    arguments: Sequence[str] | None,
    *,
    usage: str,
    defaults: Any,
    act: Callable[[Any], None],
) -> int:
    """Parses the flags of a command and runs it.

    Args:
      arguments: the words after the program's name; None is those of this process.
      usage: what --help says before the flags.
      defaults: the command's configuration, which has the knob `workdir`.
      act: gets the configuration as given.

    Returns:
      The exit code: 2 for a wrong command line, 1 if the command failed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    configs = {"The command": defaults}
    if any(word in commandline.HELP for word in words):
        commandline.show(usage + "\n" + commandline.describe(configs))
        return 0
    try:
        built, _ = commandline.parse(words, configs, with_task=False)
        command = built["The command"]
        if not command.workdir:
            raise commandline.UsageError("--workdir=FOLDER is missing")
    except commandline.UsageError as error:
        return commandline.fail(error, 2)
    return commandline.guarded(lambda: act(command))
