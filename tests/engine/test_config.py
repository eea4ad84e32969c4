"""Knobs: parsing, ranges, nesting."""

import dataclasses

import pytest

from jaxfaces.engine import config
from jaxfaces.engine.config import group, knob


@dataclasses.dataclass(frozen=True)
class Inner:
    lr: float = knob(0.1, "Rate.", lower=0.0)
    kind: str = knob("adam", "Rule.", choices=("adam", "sgd"))


@dataclasses.dataclass(frozen=True)
class Outer:
    steps: int = knob(10, "Length.", lower=1, upper=100)
    alpha: float | None = knob(None, "Boundary.", lower=0.0)
    milestones: tuple[int, ...] = knob((1, 2), "Steps.", lower=0)
    fast: bool = knob(False, "Speed.", runtime=True)
    main: Inner = group(Inner(), prefix="")
    generator: Inner = group(Inner(lr=0.3))


def by_flag(cls=Outer):
    return {item.flag: item for item in config.knobs(cls)}


def test_nested_groups_prefix_their_flags_with_the_field_or_not_at_all():
    expected = "steps alpha milestones fast lr kind generator_lr generator_kind"
    assert list(by_flag()) == expected.split()


def test_a_group_gives_its_instance_as_defaults():
    assert by_flag()["generator_lr"].default == 0.3
    assert by_flag()["lr"].default == 0.1


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("steps", "7", 7),
        ("alpha", "none", None),
        ("alpha", "1.5", 1.5),
        ("milestones", "3,5", (3, 5)),
        ("milestones", "", ()),
        ("lr", "1e-3", 1e-3),
        ("kind", "sgd", "sgd"),
        ("fast", "yes", True),
    ],
)
def test_text_is_parsed_and_written_back(flag, text, value):
    item = by_flag()[flag]
    assert item.parse(text) == value
    assert item.parse(item.format(value)) == value


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("steps", 0),
        ("steps", 101),
        ("steps", 2.5),
        ("steps", True),
        ("steps", None),
        ("alpha", -1.0),
        ("alpha", float("nan")),
        ("milestones", (1, -1)),
        ("milestones", [1]),
        ("kind", "adm"),
        ("fast", 1),
        ("generator_lr", -0.1),
    ],
)
def test_a_bad_value_is_refused_by_flag_name(flag, value):
    with pytest.raises(ValueError, match=f"--{flag}"):
        config.replace(Outer(), {flag: value})


@pytest.mark.parametrize("text", ["1.5", "x", ""])
def test_a_malformed_number_is_refused(text):
    with pytest.raises(ValueError, match="--steps must be a whole number"):
        by_flag()["steps"].parse(text)


def test_check_finds_a_value_set_past_the_flags():
    with pytest.raises(ValueError, match="--generator_lr"):
        config.check(Outer(generator=Inner(lr=-1.0)))
    config.check(Outer())


def test_replace_reaches_nested_fields_and_leaves_others():
    new = config.replace(Outer(), {"generator_lr": 0.5, "steps": 20})
    assert (new.generator.lr, new.main.lr, new.steps) == (0.5, 0.1, 20)


def test_an_unknown_flag_is_met_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean --milestones"):
        config.replace(Outer(), {"milestone": (1,)})


def test_differences_name_knob_old_and_new():
    new = config.replace(Outer(), {"lr": 0.2})
    [(item, old, value)] = config.differences(Outer(), new)
    assert (item.flag, old, value) == ("lr", 0.1, 0.2)


def test_all_values_as_flags_rebuild_the_configuration():
    changed = config.replace(Outer(), {"generator_kind": "sgd", "alpha": 0.5})
    assert config.replace(Outer(), config.as_flags(changed)) == changed


def test_a_field_that_is_no_knob_is_a_programming_error():
    @dataclasses.dataclass(frozen=True)
    class Plain:
        steps: int = 3

    @dataclasses.dataclass(frozen=True)
    class Odd:
        table: dict = knob(None, "No such flag type.")

    with pytest.raises(TypeError, match="Plain.steps"):
        config.knobs(Plain)
    with pytest.raises(TypeError, match="Odd.table"):
        config.knobs(Odd)
