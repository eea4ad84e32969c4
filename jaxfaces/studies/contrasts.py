"""Named sums of arms that a study tests, such as a gain with noise less one without."""

import dataclasses
from collections.abc import Sequence

from jaxfaces.engine.errors import UsageError

SIGNS = {"+": 1, "-": -1}


@dataclasses.dataclass(frozen=True)
class Contrast:
    """A sum of arms with signs.

    Attributes:
      name: what the table calls it.
      terms: signs and names of arms.
    """

    name: str
    terms: tuple[tuple[int, str], ...]

    def __str__(self) -> str:
        words = [f"{'+' if sign > 0 else '-'} {arm}" for sign, arm in self.terms]
        return " ".join(words).removeprefix("+ ")


def parse(texts: Sequence[str], arms: Sequence[str]) -> tuple[Contrast, ...]:
    """Reads contrasts written NAME: ARM - ARM + ARM.

    Raises:
      UsageError: one is written otherwise, or names no arm.
    """
    found = tuple(_parse(text, arms) for text in texts)
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two contrasts are called {name!r}")
    return found


def _parse(text: str, arms: Sequence[str]) -> Contrast:
    name, _, rest = (part.strip() for part in text.partition(":"))
    words = rest.split()
    words = words if words[:1] and words[0] in SIGNS else ["+", *words]
    signs, names = words[::2], words[1::2]
    if not name or len(signs) != len(names) or not set(signs) <= set(SIGNS):
        raise UsageError(f"--contrasts: written NAME: ARM - ARM + ARM, got {text!r}")
    for arm in names:
        if arm not in arms:
            raise UsageError(
                f"--contrasts: {name}: {arm!r} is none of the arms {', '.join(arms)}"
            )
    return Contrast(name, tuple((SIGNS[s], arm) for s, arm in zip(signs, names)))
