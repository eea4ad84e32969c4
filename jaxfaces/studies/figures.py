"""The picture of a study: learning curves, and differences with their intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxfaces.imaging.figures import COLOURS, to_png
from jaxfaces.studies.names import label


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Writes the picture of a study, from its JSON alone."""
    from matplotlib.figure import Figure

    arms = result["arms"]
    height = max(3.6, 1.6 + 0.42 * len(arms))
    figure = Figure(figsize=(10.5, height), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(arms)}
    _curves(left, result, colours)
    _differences(right, result, colours)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8)
    to_png(figure, path)


def drawable(result: Mapping[str, Any]) -> bool:
    """Whether there are learning curves; a study without them keeps its old picture."""
    return any(arm["curve"]["steps"] for arm in result["arms"].values())


def _scale(result: Mapping[str, Any]) -> float:
    return 100.0 if result["percent"] else 1.0


def _curves(axes: Any, result: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ends: list[float] = []
    for name, arm in result["arms"].items():
        curve = arm["curve"]
        if not curve["steps"]:
            continue
        values = np.array(list(curve["values"].values()), float) * _scale(result)
        known = np.isfinite(values)
        count = known.sum(axis=0)
        steps = np.array(curve["steps"])[count > 0]
        values = np.ma.masked_invalid(values[:, count > 0])
        mean, sd = values.mean(axis=0), values.std(axis=0)
        if len(values) > 1:
            sd = values.std(axis=0, ddof=1).filled(0)
            axes.fill_between(
                steps, mean - sd, mean + sd, color=colours[name], alpha=0.18, lw=0
            )
        marker = "o" if len(steps) <= 40 else ""
        style = {"color": colours[name], "marker": marker, "markersize": 3, "lw": 1.5}
        axes.plot(steps, mean, label=name, **style)
        ends += [float(mean[-1])]
    percent = ", %" if result["percent"] else ""
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel(
        f"validation {label(result['primary']['name'])}{percent}", fontsize=9
    )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    several = len(result["seeds"]) > 1
    axes.set_title(
        "Learning curves" + (", mean ± sd over seeds" if several else ", one seed"),
        loc="left",
        fontsize=10,
    )
    if ends:
        axes.legend(fontsize=8, frameon=False)


def _differences(
    axes: Any, result: Mapping[str, Any], colours: Mapping[str, str]
) -> None:
    name, scale = result["primary"]["name"], _scale(result)
    arms = [arm for arm in result["arms"] if arm != result["reference"]]
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_ylim(max(len(arms), 1) - 0.5, -0.5)
    drawn: set[str] = set()
    for row, arm in enumerate(arms):
        found = result["arms"][arm]["difference"].get(name)
        if found is None:
            where = axes.get_yaxis_transform()
            axes.text(
                0.02, row, "failed", color="#C00000", transform=where, va="center"
            )
            continue
        classes = result["arms"][arm]["over_classes"].get(name)
        for kind, each, shift, width in (
            ("over seeds", found, -0.12, 2.6),
            ("over classes", classes, 0.16, 1.0),
        ):
            if each is None:
                continue
            style = {"color": colours[arm], "lw": width}
            if each["low"] is not None:
                ends = [scale * each["low"], scale * each["high"]]
                axes.plot(ends, [row + shift] * 2, **style)
            size = 6 if kind == "over seeds" else 4
            axes.plot(scale * each["mean"], row + shift, "o", ms=size, **style)
            drawn.add(kind)
    measure = label(name)
    unit = "points, " if result["percent"] else ""
    where = f"({unit}{result['split']})"
    axes.set_xlabel(
        f"{measure} minus that of {result['reference']} {where}", fontsize=9
    )
    level = f"{100 * result['level']:.0f} %"
    classes = "over classes" in drawn
    kinds = "thick: over seeds, thin: over classes" if classes else "over seeds"
    heading = (
        "Differences" if len(result["seeds"]) < 2 else f"{level} intervals, {kinds}"
    )
    axes.set_title(heading, loc="left", fontsize=10)
