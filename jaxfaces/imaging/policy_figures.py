"""Figures of a search for policies: what it came to, and how."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfaces.imaging.figures import COLOURS, empty_figure, shorten

if TYPE_CHECKING:  # matplotlib takes a while to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLLOWED = 6  # curves in a panel


def policy_over_time(
    steps: np.ndarray,
    entropy: np.ndarray,
    most: float,
    followed: Sequence[tuple[str, Mapping[str, np.ndarray]]],
) -> "Figure":
    """How a policy changed: its entropy, and panels of curves.

    Args:
      steps: (T,) when it was looked at.
      entropy: (T,) of the choice of a sub-policy, in nats.
      most: the greatest entropy there can be.
      followed: titles, each with (T,) values by name; of many the six are shown that
        moved farthest.

    Returns:
      A figure of a panel each.
    """
    panels = 1 + len(followed)
    picture = empty_figure((11.4, 0.6 + 2.9 * -(-panels // 2)))
    axes = picture.add_subplot(-(-panels // 2), 2, 1)
    axes.plot(steps, entropy, color=COLOURS[0])
    axes.axhline(most, color="#888888", linestyle="--", linewidth=1)
    # From equal chances to a single choice, lest a small change look like a large one.
    axes.set_ylim(0, 1.05 * most)
    axes.set_title("entropy of the sub-policies, in nats", loc="left", fontsize=10)
    axes.set_xlabel("step")
    for place, (title, curves) in enumerate(followed, 2):
        axes = picture.add_subplot(-(-panels // 2), 2, place)
        for colour, name in zip(COLOURS, _farthest(curves)):
            axes.plot(steps, curves[name], color=colour, label=shorten(name, 40))
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7, frameon=False)
    return picture


def operation_weights(
    names: Sequence[str], applied: np.ndarray, before: np.ndarray, levels: np.ndarray
) -> "Figure":
    """How often and how strongly each operation is applied.

    Args:
      names: of O operations.
      applied: (O,) how many times it is applied to an image, on average.
      before: (O,) the same before the search.
      levels: (O,) its mean level where it is drawn, in [0, 1].

    Returns:
      A figure: bars, the most frequent at the top, and levels beside them.
    """
    order = np.argsort(applied)
    picture = empty_figure((7.4, 1.2 + 0.27 * len(names)))
    left: Axes
    left, right = picture.subplots(
        1, 2, sharey=True, gridspec_kw={"width_ratios": (3, 1)}
    )
    rows = np.arange(len(names))
    left.barh(rows, applied[order], color=COLOURS[0], label="found")
    left.plot(before[order], rows, "|", color=COLOURS[1], label="before", markersize=11)
    left.set_yticks(rows, [names[each] for each in order], fontsize=8)
    left.set_xlabel("times an image")
    left.legend(
        fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2
    )
    right.plot(levels[order], rows, "o", color=COLOURS[0], markersize=4)
    right.axvline(0.5, color="#888888", linestyle="--", linewidth=1)
    right.set_xlim(-0.03, 1.03)
    right.set_xlabel("level")
    picture.suptitle("Operations", x=0.02, ha="left", fontsize=10)
    return picture


def _farthest(curves: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the curves whose ends lie farthest from their beginnings, in order."""
    moved = {name: -abs(values[-1] - values[0]) for name, values in curves.items()}
    return sorted(moved, key=lambda name: moved[name])[:FOLLOWED]
