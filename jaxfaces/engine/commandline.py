"""Flags and flagfiles to configurations and back."""

import difflib
import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jaxfaces import registry
from jaxfaces.engine import config as config_lib
from jaxfaces.engine import echoes, flagfiles
from jaxfaces.engine.errors import Interrupted, RunError, UsageError

MOST_TEXT = 1000
LONGEST = 100  # name of a flag; absl would compare a longer one by deep recursion
ERROR = "jaxfaces:"
HELP = ("-h", "--h", "-help", "--help", "--helpshort", "--helpfull")


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
    words = flagfiles.expand(arguments)
    parts = dict(configs)
    if with_task:
        name, words = _take(words, "task")
        if not name:
            names = ", ".join(registry.TASKS)
            raise UsageError(f"--task=NAME is missing; choose one of: {names}")
        parts["task"] = _task(name)
    values, rest = _values(words, parts)
    if rest:
        raise UsageError(f"not a flag: {rest[0]!r} (a flag is written --name=value)")
    built = _built(parts, values)
    return {key: built[key] for key in configs}, built.get("task")


def parse_mixed(
    arguments: Sequence[str], configs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Reads a command line of flags and other words, such as files, in any order.

    Args:
      arguments: as `parse` takes them; what follows the word "--" is no flag.
      configs: configurations by name whose knobs are flags of this command.

    Returns:
      The configurations with the given values, by name, and the other words.

    Raises:
      UsageError: a flag is unknown, missing, malformed or out of range.
    """
    values, rest = _values(flagfiles.expand(arguments), configs, mixed=True)
    return _built(configs, values), rest


def _built(parts: Mapping[str, Any], values: Mapping[str, dict]) -> dict[str, Any]:
    """The configurations with the given values."""
    try:
        return {
            key: config_lib.replace(part, values[key]) for key, part in parts.items()
        }
    except ValueError as error:
        raise UsageError(str(error)) from error


def _task(name: str) -> Any:
    """The task of that name with its defaults."""
    try:
        task = registry.find(name)()
        config_lib.knobs(task)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    return task


def _values(
    words: Sequence[str], parts: Mapping[str, Any], *, mixed: bool = False
) -> tuple[dict[str, dict], list[str]]:
    """Values of the flags that were given, by configuration and flag; other words."""
    values = flags.FlagValues()
    values.set_gnu_getopt(mixed)  # flags may stand behind other words
    owner: dict[str, str] = {}
    for key, part in parts.items():
        for knob in config_lib.knobs(part):
            if knob.flag in owner:
                raise UsageError(f"{knob.flag!r} is a flag of {owner[knob.flag]} too")
            owner[knob.flag] = key
            _define(knob, values)
    try:
        if any(_names(word, "undefok") for word in words):  # absl's, which hides errors
            raise flags.UnrecognizedFlagError("undefok")
        for word in itertools.takewhile(lambda word: word != "--", words):
            if word.startswith("-") and len(name := _name(word)) > LONGEST:
                raise flags.UnrecognizedFlagError(f"{name[:LONGEST]}...")
        rest = values(["", *words])
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, owner, 3, 0.6)
        hint = f"; did you mean --{' or --'.join(near)}?" if near else ""
        if " " in error.flagname:
            hint = " (a flagfile has one --name=value a line)"
        elif mixed and not near:
            hint = " (a file whose name begins with - comes after the word --)"
        raise UsageError(f"unknown flag --{error.flagname}{hint}") from error
    except flags.IllegalFlagValueError as error:
        # absl puts the flag before the words of the knob, which name it already.
        raise UsageError(str(error.__context__ or error)) from error
    except (flags.Error, ValueError) as error:
        raise UsageError(str(error)) from error
    given: dict[str, dict] = {key: {} for key in parts}
    for flag, key in owner.items():
        if values[flag].present:
            given[key][flag] = values[flag].value
    return given, rest[1:]


def _define(knob: config_lib.Knob, values: flags.FlagValues) -> None:
    flag: flags.Flag = flags.Flag(
        _Parser(knob),
        None,
        knob.flag,
        knob.default,
        knob.help,
        boolean=knob.kind is bool and not knob.many and not knob.optional,
    )
    flags.DEFINE_flag(flag, values)


def _name(word: str) -> str:
    return word.partition("=")[0].removeprefix("-").removeprefix("-")


def _names(word: str, flag: str) -> bool:
    return word.startswith("-") and _name(word) == flag


def _take(words: Sequence[str], flag: str) -> tuple[str, list[str]]:
    """The value of the last `--flag=value` or `--flag value`, and the other words."""
    value, rest = "", []
    left = iter(words)
    for word in left:
        if _names(word, flag):
            value = word.partition("=")[2] if "=" in word else next(left, "")
        else:
            rest.append(word)
    return value, rest


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
    lines += flag_lines(task, *configs)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def flag_lines(task: Any, *configs: Any, runtime: bool = True) -> list[str]:
    """The flags of a task and configurations as the lines of a flagfile.

    Args:
      task: the task.
      *configs: further configurations.
      runtime: False leaves out what cannot change a result, such as `--data_dir`.
    """
    return [f"--task={registry.name_of(type(task))}"] + [
        f"--{knob.flag}={knob.format(knob.default)}"
        for config in (task, *configs)
        for knob in config_lib.knobs(config)
        if runtime or not knob.runtime
    ]


def read_lines(
    lines: Sequence[str], configs: Mapping[str, Any], task_class: type | None = None
) -> tuple[dict[str, Any], Any]:
    """Reads what `flag_lines` gave: the configurations and the task.

    No module is imported because a line names it.

    Args:
      lines: of a flagfile.
      configs: as in `parse`.
      task_class: the task's dataclass; None looks among those that are known.

    Raises:
      UsageError: as in `parse`, or the task is not known.
    """
    words = [line for line in lines if line.startswith("--")]
    name, words = _take(words, "task")
    try:
        task = (task_class or registry.known(name))()
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    built, _ = parse(words, {**configs, "task": task}, with_task=False)
    return built, built.pop("task")


def read_flagfile(path: Path, configs: Mapping[str, Any]) -> tuple[dict, Any]:
    """Reads what `write_flagfile` wrote: the configurations and the task."""
    return parse([f"--flagfile={path}"], configs)


def guarded(command: Callable[[], None], *, stopped: str = "stopped") -> int:
    """Runs a command; what its user can mend becomes one line and an exit code.

    A fault of the program keeps its traceback, and JAXFACES_DEBUG=1 shows all of them.
    After ctrl-C the line says `stopped`.
    """
    echoes.hide()
    try:
        command()
    except Interrupted as error:
        return fail(error, 128 + error.signal)
    except KeyboardInterrupt:
        return fail(RunError(stopped), 130)
    except (RunError, ValueError, OSError, MemoryError) as error:
        if os.environ.get("JAXFACES_DEBUG"):
            raise
        return fail(error, 1)
    except RuntimeError as error:
        # What XLA says where a device has too little memory.
        if "RESOURCE_EXHAUSTED" not in str(error) or os.environ.get("JAXFACES_DEBUG"):
            raise
        return fail(MemoryError(str(error).splitlines()[0]), 1)
    return 0


def fail(error: Exception, code: int) -> int:
    """Prints an error as one line on standard error; returns `code`."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        text = f"out of memory, make batches or images smaller. {text}"
    if len(text) > MOST_TEXT:
        text = f"{text[: MOST_TEXT // 2]} … {text[-MOST_TEXT // 2 :]}"
    # What a file or a user wrote may steer a terminal.
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(f"{ERROR} {text}", file=sys.stderr)
    return code


def show(text: str) -> None:
    """Prints help; that nobody reads it to its end (`| head`) is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
