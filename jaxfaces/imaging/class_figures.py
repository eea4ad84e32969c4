"""Figures of a classifier: which classes are taken for which, and how sure it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfaces.imaging.figures import COLOURS, empty_figure, shorten

if TYPE_CHECKING:  # matplotlib takes a while to import
    from matplotlib.figure import Figure

NAMED, NUMBERED = 30, 12  # classes with names beside the matrix, with shares in it


def confusion_matrix(
    counts: np.ndarray, *, title: str, names: Sequence[str] = ()
) -> "Figure":
    """Which classes are taken for which, as shares of each row.

    Args:
      counts: (C, C), row the class, column the prediction.
      title: heading.
      names: of the classes; shown up to 30 classes, shares in the cells up to 12.

    Returns:
      A figure.
    """
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(2.2 + 0.32 * min(classes, NAMED), 4, 11))
    picture = empty_figure((side + 0.8, side))
    axes = picture.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    picture.colorbar(image, ax=axes, shrink=0.8, label="share of the class")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("prediction")
    axes.set_ylabel("class")
    if names and classes <= NAMED:
        short = [shorten(name, 14) for name in names]
        axes.set_xticks(range(classes), short, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), short, fontsize=8)
    if classes <= NUMBERED:
        for row, column in np.ndindex(shares.shape):
            share = shares[row, column]
            if share >= 0.005:
                colour = "white" if share > 0.5 else "black"
                text = f"{100 * share:.0f}"
                axes.text(
                    column, row, text, ha="center", va="center", c=colour, fontsize=8
                )
    return picture


def reliability_diagram(
    counts: np.ndarray,
    confidence: np.ndarray,
    accuracy: np.ndarray,
    *,
    title: str,
) -> "Figure":
    """Accuracy against confidence: on the diagonal a classifier knows how sure it is.

    Args:
      counts: (B,) number of predictions in each bin of confidence, the bins equally
        wide from 0 to 1.
      confidence: (B,) their mean confidence.
      accuracy: (B,) the share of them that is right.
      title: heading.

    Returns:
      A figure: above, accuracy by confidence; below, how many predictions there are.

    Source: Guo et al. 2017, figure 1.
    """
    picture = empty_figure((4.6, 4.8))
    above, below = picture.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)}
    )
    edges = np.linspace(0, 1, len(counts) + 1)
    filled = counts > 0
    above.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
    above.plot(confidence[filled], accuracy[filled], color=COLOURS[0], linewidth=0.7)
    # A bin of few images says little: the area of a point is their share.
    above.scatter(
        confidence[filled],
        accuracy[filled],
        s=6 + 200 * counts[filled] / max(counts.sum(), 1),
        color=COLOURS[0],
    )
    above.set_xlim(0, 1)
    above.set_ylim(0, 1.02)
    above.set_ylabel("accuracy")
    above.set_title(title, loc="left", fontsize=10)
    below.stairs(counts / max(counts.sum(), 1), edges, fill=True, color=COLOURS[0])
    below.set_ylabel("share of images")
    below.set_xlabel("confidence")
    return picture
