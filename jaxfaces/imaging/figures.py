"""Figures for reports: embeddings in the plane and learning curves.

They are built with matplotlib's object interface, never pyplot, so that nothing global
is touched. `contact_sheet` and `to_png` complete what a report needs.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxfaces.imaging import projection
from jaxfaces.imaging.pictures import contact_sheet, picture_grid, to_png

if TYPE_CHECKING:  # matplotlib takes a while to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["contact_sheet", "curves", "embedding_plot", "picture_grid", "to_png"]

# Okabe & Ito (2008), told apart by the colour-blind, then four of Tol's muted scheme.
COLOURS = """#0072B2 #D55E00 #009E73 #CC79A7 #E69F00 #56B4E9 #000000 #8C6D31
#332288 #999933 #882255 #999999""".split()
MARKERS = "osD^vPX*"
PANEL_LINES = 6
PANEL_POINTS = 400


def embedding_plot(
    embeddings: Any,
    labels: Any,
    *,
    title: str,
    names: Sequence[str] | Mapping[int, str] | None = None,
    seed: int = 0,
) -> "Figure":
    """Embeddings in the plane by t-SNE (van der Maaten & Hinton 2008), or by PCA.

    t-SNE serves 10 to 2,000 points, PCA fewer and more. Rows that are not finite are
    left out and counted in the picture.

    Args:
      embeddings: (N, D) points.
      labels: (N,) integer class ids.
      title: heading.
      names: names of the classes, by id; up to 12 classes have a legend.
      seed: seed of t-SNE.

    Returns:
      A figure.
    """
    from matplotlib import colormaps

    points = np.asarray(embeddings, dtype=np.float64)
    labels = np.asarray(labels)
    finite = np.isfinite(points).all(axis=1)
    dropped = int((~finite).sum())
    points, labels = points[finite], labels[finite]
    flat, method = projection.to_plane(points, seed)
    classes = np.unique(labels)
    few = len(classes) <= len(COLOURS)
    figure = empty_figure((7.4 if few else 6.2, 5.8))
    axes = figure.add_subplot()
    size = float(np.clip(6000 / max(len(points), 1), 9, 40))
    spectrum = colormaps["turbo"](np.linspace(0.03, 0.97, max(len(classes), 1)))
    for i, label in enumerate(classes):
        x, y = flat[labels == label].T
        name = str(label) if names is None else str(names[int(label)])
        axes.scatter(
            x,
            y,
            s=size,
            color=COLOURS[i] if few else spectrum[i],
            marker=MARKERS[(i + i // len(MARKERS)) % len(MARKERS)] if few else "o",
            label=shorten(name, 24),
            alpha=0.8,
            linewidths=0,
        )
    notes = [method, f"{len(points):,} points", f"{len(classes)} classes"]
    if dropped:
        notes.append(f"{dropped} rows not finite")
    axes.set_title(shorten(title, 60), loc="left", fontsize=12, pad=22)
    axes.annotate(
        ", ".join(notes),
        (0, 1),
        (0, 7),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9,
        color="0.35",
    )
    axes.set(xticks=[], yticks=[], xlabel=f"{method} 1", ylabel=f"{method} 2")
    if few and len(classes):
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(1.01, 1),
            frameon=False,
            fontsize=9,
            markerscale=math.sqrt(40 / size),
        )
    return figure


def curves(records: Sequence[Mapping[str, Any]], *, title: str) -> "Figure":
    """Learning curves, a small panel a group of measures.

    Measures are grouped by the part of their name before the last slash; within it
    losses share a panel, so do measures in [0, 1], and any other has its own. Seeds of
    a measure (names ending in /seed3) share a colour. Long curves are drawn as means of
    400 stretches with their range shaded. Where a value is not finite, a cross stands
    at the bottom.

    Args:
      records: {"step": int, "name": str, "value": float or None} each, in any order.
      title: heading.

    Returns:
      A figure.
    """
    panels = list(_panels(_series(records)))
    columns = {1: 1, 2: 2, 4: 2}.get(len(panels), 3)
    rows = max(1, math.ceil(len(panels) / columns))
    size = (6.4, 4.2) if len(panels) <= 1 else (4.3 * columns, 0.4 + 3.1 * rows)
    figure = empty_figure(size)
    figure.suptitle(title, fontsize=12)
    if not panels:
        figure.text(0.5, 0.45, "nothing recorded", ha="center", color="0.35")
    for i, panel in enumerate(panels):
        _draw_panel(figure.add_subplot(rows, columns, i + 1), panel)
    return figure


class _Panel(NamedTuple):
    title: str
    label: str
    measures: dict[str, list[np.ndarray]]  # measure -> (2, N) steps and values, by seed


def _series(
    records: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Curves by group, measure and seed, in the order of the first record of each."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        value = record["value"]
        point = (record["step"], math.nan if value is None else float(value))
        found.setdefault(record["name"], []).append(point)
    groups: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, points in found.items():
        curve = np.array(sorted(points, key=lambda point: point[0]), np.float64).T
        group, _, measure = re.sub(r"/seed\d+$", "", name).rpartition("/")
        groups.setdefault(group, {}).setdefault(measure, []).append(curve)
    return groups


def _panels(groups: dict[str, dict[str, list[np.ndarray]]]) -> Iterator[_Panel]:
    for group, measures in groups.items():
        kinds: dict[str, list[str]] = {}
        for measure, seeds in measures.items():
            kinds.setdefault(_kind(measure, seeds), []).append(measure)
        for kind, members in kinds.items():
            for i in range(0, len(members), PANEL_LINES):
                chunk = members[i : i + PANEL_LINES]
                title = group if len(chunk) > 1 else f"{group}/{chunk[0]}".lstrip("/")
                label = kind if len(chunk) > 1 else chunk[0]
                yield _Panel(title, label, {name: measures[name] for name in chunk})


def _kind(measure: str, seeds: list[np.ndarray]) -> str:
    """What shares an axis: losses, and shares in [0, 1]; anything else is alone."""
    if "loss" in measure:
        return "loss"
    values = np.concatenate([curve[1] for curve in seeds])
    values = values[np.isfinite(values)]
    # Beside shares a small learning rate would be a flat line.
    if values.size and values.min() >= 0 and 0.05 <= values.max() <= 1:
        return "share"
    return measure


def _draw_panel(axes: "Axes", panel: _Panel) -> None:
    seeds = [curve for curves in panel.measures.values() for curve in curves]
    steps, values = np.concatenate(seeds, axis=1)
    finite = values[np.isfinite(values)]
    bad = np.unique(steps[~np.isfinite(values)])
    for i, (measure, curves) in enumerate(panel.measures.items()):
        many = len(curves) > 1
        name = f"{measure} ({len(curves)} seeds)" if many else measure
        style = {"color": COLOURS[i], "alpha": 0.6 if many else 1.0, "linewidth": 1.4}
        for j, curve in enumerate(curves):
            label = "_nolegend_" if j else shorten(name, 28)
            _draw_curve(axes, curve, label, style)
    if bad.size:
        heights = np.full(bad.shape, 0.02)
        where = axes.get_xaxis_transform()
        label = "not finite"
        axes.plot(bad, heights, "x", color="#C00000", transform=where, label=label)
    _draw_axes(axes, panel, steps, finite)
    _head(axes, shorten(panel.title, 44), len(panel.measures) > 1 or bad.size > 0)


def _draw_axes(
    axes: "Axes", panel: _Panel, steps: np.ndarray, finite: np.ndarray
) -> None:
    """Scales, ticks and labels."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    label = shorten(panel.label, 32)
    largest = np.abs(finite).max(initial=0.0)
    if not finite.size:
        axes.set_yticks([])
    elif "loss" in panel.label and 0 < 30 * finite.min() < largest:
        axes.set_yscale("log")
        label += ", log scale"
    elif largest >= 1e5:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    elif 0 < largest < 1e-3:  # not as a factor, which would stand in the legend
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    else:
        axes.ticklabel_format(axis="y", useOffset=False)
    if steps.min() == steps.max():
        axes.set_xlim(steps.min() - 1, steps.max() + 1)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_curve(
    axes: "Axes", curve: np.ndarray, label: str, style: Mapping[str, Any]
) -> None:
    steps, values = curve
    finite = np.isfinite(values)
    if len(steps) <= PANEL_POINTS:
        marker, size = ("o", 3) if len(steps) <= 40 else ("", 0)
        values = np.where(finite, values, np.nan)  # leaves a gap
        axes.plot(steps, values, marker=marker, markersize=size, label=label, **style)
        return
    stretches = np.array_split(curve[:, finite], PANEL_POINTS, axis=1)
    stretches = [stretch for stretch in stretches if stretch.size]
    middle, mean = np.array([s.mean(axis=1) for s in stretches]).reshape(-1, 2).T
    low, high = [s[1].min() for s in stretches], [s[1].max() for s in stretches]
    shade = 0.2 * style["alpha"]
    axes.fill_between(middle, low, high, color=style["color"], alpha=shade, linewidth=0)
    axes.plot(middle, mean, label=label, **style)


def _head(axes: "Axes", title: str, legend: bool) -> None:
    """The panel's title, then the legend, above the axes where it hides no curve."""
    _, labels = axes.get_legend_handles_labels()
    lines = 0
    if legend and labels:
        columns = max(1, min(3, 56 // (max(map(len, labels)) + 6)))
        lines = math.ceil(len(labels) / columns)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            fontsize=8,
            frameon=False,
            borderaxespad=0.1,
            borderpad=0.1,
            labelspacing=0.25,
            handlelength=1.4,
            columnspacing=1.2,
        )
    axes.set_title(title, loc="left", fontsize=10, pad=6 + 12.5 * lines)


def empty_figure(size: tuple[float, float]) -> "Figure":
    """An empty white figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", facecolor="white")


def shorten(text: str, most: int) -> str:
    """At most `most` letters; what tells long names apart is often their end."""
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - tail - 1]}…{text[-tail:]}"
