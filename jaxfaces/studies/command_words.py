"""The words of a study's command line: flags, arms, grids, the seed of a run."""

from collections.abc import Sequence

from jaxfaces.engine import config, flagfiles
from jaxfaces.engine.errors import UsageError
from jaxfaces.studies.settings import Settings

SEED = "{seed}"  # inside a flag's value: the seed of the run


def flag_of(word: str) -> str:
    """The name of the flag in a word."""
    return word.lstrip("-").partition("=")[0]


def repeating(words: Sequence[str]) -> tuple[str, ...]:
    """The words without those that change no result."""
    passing = {k.flag: k.kind for k in config.knobs(Settings) if k.runtime}
    kept, left = [], iter(words)
    for word in left:
        flag = flag_of(word)
        if passing.get(flag.removeprefix("no")) is bool:
            continue
        if flag not in passing:
            kept.append(word)
        elif "=" not in word:
            next(left, None)
    return tuple(kept)


def divided(words: Sequence[str]) -> tuple[list[str], ...]:
    """Words of the study itself, its arms, what it tunes, and words of all arms."""
    kinds = {knob.flag: knob.kind for knob in config.knobs(Settings)}
    own: list[str] = []
    arms: list[str] = []
    tune: list[str] = []
    shared: list[str] = []
    left = iter(words)
    for word in left:
        flag, (_, equals, value) = flag_of(word), word.partition("=")
        if flag in ("arm", "tune"):
            text = value if equals else next(left, "")
            (arms if flag == "arm" else tune).append(text)
        elif flag in kinds or kinds.get(flag.removeprefix("no")) is bool:
            own.append(word)
            if not equals and kinds.get(flag, bool) is not bool:
                own.append(next(left, ""))
        else:
            shared.append(word)
    return own, arms, tune, shared


def at_seed(words: Sequence[str], seed: int) -> tuple[str, ...]:
    """Words with a seed in place of {seed}, also in flagfiles."""
    return tuple(word.replace(SEED, str(seed)) for word in flagfiles.expand(words))


def by_seed(words: Sequence[str]) -> dict[str, str]:
    """The values with {seed} in them, by flag, as they are given."""
    found: dict[str, str] = {}
    flag = ""
    for word in flagfiles.expand(words):
        flag = flag_of(word) if word.startswith("-") else flag
        found.pop(flag, None)  # a later word wins
        if SEED in word:
            found[flag] = word.partition("=")[2] if "=" in word else word
    return found


def grid(text: str, where: str) -> tuple[str, tuple[str, ...]]:
    """A flag to tune and its values; UsageError where the text is none."""
    flag, _, values = text.lstrip("-").partition("=")
    items = tuple(dict.fromkeys(v.strip() for v in values.split(",") if v.strip()))
    if not flag or not items:
        raise UsageError(f"{where}: tuning is written --tune=FLAG=v1,v2, got {text!r}")
    return flag, items
