"""Configurations as frozen dataclasses whose fields know their help and their range."""

import dataclasses
import difflib
import math
import types
import typing
import unicodedata
from collections.abc import Mapping
from typing import Any

# Beyond these, numbers would not travel in 32 bits.
MOST = {int: 2**31 - 1, float: 3.4e38}
# Control characters, halves of a surrogate pair, separators of lines and paragraphs:
# a flagfile could not hold them.
_UNFIT = frozenset(("Cc", "Cs", "Zl", "Zp"))
_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")


def knob(
    default: Any,
    help: str,
    *,
    lower: float | None = None,
    upper: float | None = None,
    choices: tuple[str, ...] | None = None,
    runtime: bool = False,
) -> Any:
    """A dataclass field that becomes a flag of the same name.

    Args:
      default: value when the flag is absent; a bool, int, float, str, a tuple of these,
        or None where the annotation allows it.
      help: one line for --help.
      lower: smallest allowed number (of every item of a tuple).
      upper: largest allowed number; in any case numbers must fit into 32 bits.
      choices: allowed strings.
      runtime: True if the value cannot change a run's result, so that a run may be
        resumed with another.

    Returns:
      The field.
    """
    metadata = {
        "help": help,
        "lower": lower,
        "upper": upper,
        "choices": choices,
        "runtime": runtime,
    }
    return dataclasses.field(default=default, metadata=metadata)


def group(default: Any, *, prefix: str | None = None) -> Any:
    """A field holding a nested frozen dataclass of knobs.

    Args:
      default: instance of the nested dataclass; its values are the flags' defaults.
      prefix: put before the names of its flags; None means the field's name and "_",
        "" leaves the names as they are.

    Returns:
      The field.
    """
    return dataclasses.field(default=default, metadata={"prefix": prefix})


@dataclasses.dataclass(frozen=True)
class Knob:
    """One flag of a configuration: where its value lives and what it may be."""

    flag: str
    path: tuple[str, ...]
    kind: type
    many: bool
    optional: bool
    default: Any
    help: str
    lower: float | None
    upper: float | None
    choices: tuple[str, ...] | None
    runtime: bool

    def parse(self, text: str) -> Any:
        """Reads a value as a flagfile writes it; ValueError says what is allowed."""
        text = text.strip()
        if self.optional and text.lower() == "none":
            return None
        if self.many:
            return tuple(self._scalar(item) for item in text.split(",") if item.strip())
        return self._scalar(text)

    def _scalar(self, text: str) -> Any:
        text = text.strip()
        if self.kind is bool:
            lowered = text.lower()
            if lowered not in _TRUE + _FALSE:
                raise ValueError(f"--{self.flag} must be true or false, got {text!r}")
            return lowered in _TRUE
        if self.kind is str:
            return text
        try:
            return self.kind(text)
        except ValueError:
            noun = {int: "a whole number", float: "a number"}[self.kind]
            raise ValueError(f"--{self.flag} must be {noun}, got {text!r}") from None

    def format(self, value: Any) -> str:
        """Writes a value as a flagfile does; `parse` reads it back exactly."""
        if value is None:
            return "none"
        if self.many:
            return ",".join(str(item) for item in value)
        if self.kind is bool:
            return "true" if value else "false"
        return str(value)

    def check(self, value: Any) -> None:
        """Raises ValueError unless `value` has the right type and lies in range."""
        if value is None and self.optional:
            return
        if self.many and not isinstance(value, tuple):
            raise ValueError(f"--{self.flag} must be a tuple, got {value!r}")
        for item in value if self.many else (value,):
            self._check_scalar(item)

    def _check_scalar(self, value: Any) -> None:
        allowed = (int, float) if self.kind is float else (self.kind,)
        wrong_bool = isinstance(value, bool) and self.kind is not bool
        if not isinstance(value, allowed) or wrong_bool:
            raise ValueError(
                f"--{self.flag} must be of type {self.kind.__name__}, got {value!r}"
            )
        if isinstance(value, str):
            self._check_text(value)
        else:
            self._check_range(value)

    def _check_text(self, value: str) -> None:
        unfit = [c for c in value if unicodedata.category(c) in _UNFIT]
        if unfit:
            raise ValueError(
                f"--{self.flag} may not hold the character {ascii(unfit[0])}"
            )
        if self.choices and value not in self.choices:
            near = difflib.get_close_matches(value, self.choices, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            options = ", ".join(self.choices)
            raise ValueError(f"--{self.flag}={value!r} is none of: {options}{hint}")

    def _check_range(self, value: Any) -> None:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{self.flag} must be a finite number, got {value}")
        low = self.lower is not None and value < self.lower
        if low or (self.upper is not None and value > self.upper):
            raise ValueError(f"--{self.flag}={value} is not {self.range()}")
        most = MOST.get(self.kind)
        if most is not None and abs(value) > most:
            raise ValueError(f"--{self.flag} must be within ±{most}, got {value}")

    def range(self) -> str:
        """The allowed values in words, '' where anything of the type is allowed."""
        if self.choices:
            return " | ".join(self.choices)
        if self.lower is not None and self.upper is not None:
            return f"in [{self.lower}, {self.upper}]"
        if self.lower is not None:
            return f">= {self.lower}"
        if self.upper is not None:
            return f"<= {self.upper}"
        return ""


def knobs(config: Any) -> list[Knob]:
    """All knobs of a configuration class or instance, nested ones included, in order.

    The defaults are those of the class, or the values of the instance.

    Raises:
      TypeError: a field is neither a knob nor a group, or its type is not supported.
    """
    return list(_walk(config, (), ""))


def _walk(config: Any, path: tuple[str, ...], prefix: str) -> typing.Iterator[Knob]:
    cls = config if isinstance(config, type) else type(config)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        default = field.default if config is cls else getattr(config, field.name)
        here = (*path, field.name)
        if "prefix" in field.metadata:
            inner = field.metadata["prefix"]
            inner = f"{field.name}_" if inner is None else inner
            yield from _walk(default, here, prefix + inner)
        elif "help" in field.metadata:
            kind, many, optional = _kind(hints[field.name], cls, field.name)
            yield Knob(
                prefix + field.name, here, kind, many, optional, default,
                **field.metadata,
            )  # fmt: skip
        else:
            raise TypeError(f"{cls.__name__}.{field.name} must be a knob or a group")


def _kind(hint: Any, cls: type, name: str) -> tuple[type, bool, bool]:
    """An annotation as (scalar type, whether a tuple, whether None is allowed)."""
    optional = False
    if isinstance(hint, types.UnionType):
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        optional, hint = len(rest) < len(typing.get_args(hint)), rest[0]
    many = typing.get_origin(hint) is tuple
    if many:
        hint = typing.get_args(hint)[0]
    if hint not in (bool, int, float, str):
        raise TypeError(
            f"{cls.__name__}.{name} must be a bool, int, float, str or a tuple of them"
        )
    return hint, many, optional


def value_at(config: Any, path: tuple[str, ...]) -> Any:
    """The value of a nested field."""
    for name in path:
        config = getattr(config, name)
    return config


def replace(config: Any, values: Mapping[str, Any]) -> Any:
    """A copy of `config` with knobs set by flag name, checked.

    Raises:
      ValueError: a name is unknown or a value is out of range.
    """
    by_flag = {item.flag: item for item in knobs(config)}
    for flag, value in values.items():
        if flag not in by_flag:
            near = difflib.get_close_matches(flag, by_flag, 1)
            hint = f"; did you mean --{near[0]}?" if near else ""
            raise ValueError(f"unknown flag --{flag}{hint}")
        by_flag[flag].check(value)
    return _replace(config, {by_flag[flag].path: v for flag, v in values.items()})


def _replace(config: Any, values: Mapping[tuple[str, ...], Any]) -> Any:
    nested: dict[str, Any] = {}
    for path, value in values.items():
        nested.setdefault(path[0], {})[path[1:]] = value
    changes = {
        name: inner[()] if () in inner else _replace(getattr(config, name), inner)
        for name, inner in nested.items()
    }
    return dataclasses.replace(config, **changes)


def check(config: Any) -> None:
    """Raises ValueError, naming the flag, if any value of `config` is out of range."""
    for item in knobs(config):
        item.check(item.default)


def as_flags(config: Any) -> dict[str, Any]:
    """The values of all knobs by flag name; `replace` takes them back."""
    return {item.flag: item.default for item in knobs(config)}


def differences(old: Any, new: Any) -> list[tuple[Knob, Any, Any]]:
    """Knobs whose values differ between two instances of one configuration class."""
    pairs = ((item, value_at(old, item.path)) for item in knobs(new))
    return [(item, was, item.default) for item, was in pairs if was != item.default]
