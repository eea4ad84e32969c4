"""Draws how strongly each pair is pulled or pushed: the pictures of two pages.

python docs/pictures/losses.py

Every curve is a gradient of the library's own loss: one query before 400 references at
distances of 0 to 2, and the length of the gradient at each of them.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import metric
from jaxfaces.imaging.figures import COLOURS, to_png

HERE = Path(__file__).parent
DISTANCES = np.linspace(0.02, 1.98, 400)
QUERY = jnp.array([[1.0, 0.0]])


def main() -> None:
    """Writes ranked_list.png and osm_caa.png beside this file."""
    ranked_list = functools.partial(metric.ranked_list_loss, gradient="pair")
    figure, (left, right) = _figure()
    for colour, t in zip(COLOURS, (0, 10, 20)):
        loss = functools.partial(ranked_list, temperature=t)
        _draw(left, loss, 1, colour, f"T = {t}")
    _draw(right, ranked_list, 0, COLOURS[0], "ranked list")
    _draw(right, metric.contrastive_loss, 0, COLOURS[3], "contrastive")
    for axes, place, name in ((left, 1.2, "α"), (right, 0.8, "α - m")):
        axes.axvline(place, color="0.6", lw=0.8, ls="--")
        high = axes.get_xaxis_transform()
        axes.text(place + 0.03, 0.6, name, transform=high, color="0.4")
    left.set_title("Negatives are pushed away", fontsize=10)
    right.set_title("Positives are pulled in", fontsize=10)
    _finish(figure, HERE / "ranked_list.png")

    weighted = functools.partial(metric.osm_caa_loss, attention="none")
    figure, (left, right) = _figure()
    kinds = ((COLOURS[0], "soft", "OSM"), (COLOURS[3], "none", "plain"))
    for colour, mining, name in kinds:
        loss = functools.partial(weighted, mining=mining)
        _draw(left, loss, 1, colour, name)
        _draw(right, loss, 0, colour, name)
    left.set_title("Negatives are pushed away", fontsize=10)
    right.set_title("Positives are pulled in", fontsize=10)
    _finish(figure, HERE / "osm_caa.png")


def _draw(axes: Axes, loss: Callable, label: int, colour: str, name: str) -> None:
    """The share of all force that acts at each distance, on references of one label."""
    angles = 2 * np.arcsin(DISTANCES / 2)
    refs = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    labels, ref_labels = jnp.zeros(1, int), jnp.full(len(refs), label)

    def total(refs: jax.Array) -> jax.Array:
        return loss(QUERY, labels, ref=refs, ref_labels=ref_labels)

    force = np.linalg.norm(jax.grad(total)(refs), axis=1)
    # Normalising a reference takes away the part of a force that points along it.
    force = force / np.maximum(np.cos(angles / 2), 1e-3)
    axes.plot(DISTANCES, 100 * force / force.sum(), color=colour, label=name, lw=1.6)


def _figure() -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(9, 3.2), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 2)
    for each in axes:
        each.set_xlabel("distance to the query", fontsize=9)
        each.set_ylabel("share of the force, % of 400 pairs", fontsize=9)
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="0.9", lw=0.6)
        each.tick_params(labelsize=8)
    return figure, axes


def _finish(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.legend(frameon=False, fontsize=8)
        axes.set_ylim(bottom=0)
    to_png(figure, path)


if __name__ == "__main__":
    main()
