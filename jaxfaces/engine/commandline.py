"""Flags and flagfiles to configurations and back."""

import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from jaxfaces import registry
from jaxfaces.engine import config as config_lib

HELP = ("-h", "--h", "-help", "--help", "--helpshort", "--helpfull")


class UsageError(ValueError):
    """A command line that cannot be understood; the message says what to do."""


class _Parser(flags.ArgumentParser):
    """Lets absl read a flag with the rules of its knob."""

    def __init__(self, knob: config_lib.Knob):
        super().__init__()
        self._knob = knob

    def parse(self, argument: Any) -> Any:
        value = self._knob.parse(argument) if isinstance(argument, str) else argument
        self._knob.check(value)
        return value

    def flag_type(self) -> str:
        return self._knob.kind.__name__


def parse(
    arguments: Sequence[str], configs: Mapping[str, Any], *, with_task: bool = True
) -> tuple[dict[str, Any], Any]:
    """Reads a command line.

    Args:
      arguments: the words after the program's name; `--flagfile=` is expanded, later
        words win.
      configs: configurations by name whose knobs are flags of this command.
      with_task: whether `--task` names a further configuration, its knobs flags too.

    Returns:
      The configurations with the given values, by name, and that of the task (None if
      there is no task).

    Raises:
      UsageError: a flag is unknown, missing, malformed or out of range.
    """
    try:
        words = flags.FlagValues().read_flags_from_files(
            list(arguments), force_gnu=False
        )
    except (flags.Error, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the flagfile: {error}") from error
    parts = dict(configs)
    if with_task:
        name = _last(words, "task")
        if not name:
            names = ", ".join(registry.TASKS)
            raise UsageError(f"--task=NAME is missing; choose one of: {names}")
        words = [word for word in words if not _names(word, "task")]
        try:
            parts["task"] = registry.find(name)()
        except ValueError as error:
            raise UsageError(str(error)) from error
    values = _values(words, parts)
    try:
        built = {
            key: config_lib.replace(part, values[key]) for key, part in parts.items()
        }
    except ValueError as error:
        raise UsageError(str(error)) from error
    return {key: built[key] for key in configs}, built.get("task")


def _values(words: Sequence[str], parts: Mapping[str, Any]) -> dict[str, dict]:
    """Values of the flags that were given, by configuration and flag."""
    values = flags.FlagValues()
    owner = {}
    for key, part in parts.items():
        for knob in config_lib.knobs(part):
            if knob.flag in owner:
                raise TypeError(f"two knobs are called {knob.flag!r}")
            owner[knob.flag] = key
            _define(knob, values)
    try:
        rest = values(["", *words])
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, owner, 3, 0.6)
        hint = f"; did you mean --{' or --'.join(near)}?" if near else ""
        raise UsageError(f"unknown flag --{error.flagname}{hint}") from error
    except flags.IllegalFlagValueError as error:
        head, _, reason = str(error).partition(": ")
        if "Non-boolean" in reason:  # absl's own words for a bool name no flag
            reason = head.removeprefix("flag ") + " must be true or false"
        raise UsageError(reason) from error
    except flags.Error as error:
        raise UsageError(str(error)) from error
    if rest[1:]:
        raise UsageError(f"not a flag: {rest[1]!r} (a flag is written --name=value)")
    given: dict[str, dict] = {key: {} for key in parts}
    for flag, key in owner.items():
        if values[flag].present:
            given[key][flag] = values[flag].value
    return given


def _define(knob: config_lib.Knob, values: flags.FlagValues) -> None:
    if knob.kind is bool and not knob.many and not knob.optional:
        flags.DEFINE_boolean(knob.flag, knob.default, knob.help, flag_values=values)
    else:
        flags.DEFINE(
            _Parser(knob), knob.flag, knob.default, knob.help, flag_values=values
        )


def _names(word: str, flag: str) -> bool:
    return word.lstrip("-").partition("=")[0] == flag and word.startswith("-")


def _last(words: Sequence[str], flag: str) -> str | None:
    """The value of the last `--flag=value` among words."""
    given = [word.partition("=")[2] for word in words if _names(word, flag)]
    return given[-1] if given else None


def describe(configs: Mapping[str, Any]) -> str:
    """The flags of configurations as a table for --help: default, range, meaning."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    lines = []
    for title, part in configs.items():
        lines += ["", f"{title}:"]
        for knob in config_lib.knobs(part):
            facts = [knob.kind.__name__ + (" list" if knob.many else "")]
            facts += [knob.range()] if knob.range() else []
            facts.append(f"default {knob.format(knob.default) or repr('')}")
            text = f"{knob.help} [{', '.join(facts)}]"
            head = f"  --{knob.flag}"
            if len(head) > 26:
                lines.append(head)
                head = ""
            lines.append(
                textwrap.fill(
                    text,
                    width,
                    initial_indent=head.ljust(28),
                    subsequent_indent=" " * 28,
                )
            )
    return "\n".join(lines)


def tasks() -> str:
    """The registered tasks, one line each."""
    return "\n".join(f"  {n:<14}{line}" for n, (_, line) in registry.TASKS.items())


def write_flagfile(path: Path, comment: str, task: Any, *configs: Any) -> None:
    """Writes a task and configurations as a flagfile that repeats them."""
    lines = [f"# {line}" for line in comment.splitlines()]
    lines.append(f"--task={registry.name_of(type(task))}")
    for config in (task, *configs):
        for knob in config_lib.knobs(config):
            lines.append(f"--{knob.flag}={knob.format(knob.default)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_flagfile(path: Path, configs: Mapping[str, Any]) -> tuple[dict, Any]:
    """Reads what `write_flagfile` wrote: the configurations and the task."""
    return parse([f"--flagfile={path}"], configs)


def guarded(command: Callable[[], None]) -> int:
    """Runs a command; what its user can mend becomes one line and an exit code.

    A fault of the program keeps its traceback, and JAXFACES_DEBUG=1 shows all of them.
    """
    from jaxfaces.engine.errors import Interrupted, RunError

    logging.set_verbosity(logging.ERROR)  # orbax and tfds talk a lot
    try:
        command()
    except Interrupted as error:
        return fail(error, 128 + error.signal)
    except KeyboardInterrupt:
        return fail(RunError("stopped at once; the newest checkpoint is whole"), 130)
    except (RunError, ValueError, OSError) as error:
        if os.environ.get("JAXFACES_DEBUG"):
            raise
        return fail(error, 1)
    return 0


def fail(error: Exception, code: int) -> int:
    """Prints an error as one line on standard error; returns `code`."""
    print(f"jaxfaces: {' '.join(str(error).split())}", file=sys.stderr)
    return code
