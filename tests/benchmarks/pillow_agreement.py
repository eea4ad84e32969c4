"""How many images differ from Pillow's: random ones, and levels that make ties.

python tests/benchmarks/pillow_agreement.py [--out FILE]

Every operation on 300 random images of 32 pixels and 24 of 224 at random levels, and
the geometric ones at the levels k/30, k/32, k/64 and k/100 at 28, 32, 96 and 224 pixels
and k/256 and k/1000 at 28 and 32, with and without a change of sign: where a position
is halfway between two pixels, the last digit decides.
"""

import argparse
import functools
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "augment"))
from pillow_ops import pillow

from augment import image_ops, reference_ops

RANDOM = {32: 300, 224: 24}  # images by side
TIES = {28: (30, 32, 64, 100, 256, 1000), 32: (30, 32, 64, 100, 256, 1000)} | {
    96: (30, 32, 64, 100),
    224: (30, 32, 64, 100),
}
GEOMETRIC = ("TranslateX", "ShearX", "ShearY", "Rotate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = machine.heading("jax", "jaxlib", "pillow")
    for x64 in (False, True):
        with jax.enable_x64(x64):
            report["x64" if x64 else "float32"] = {"random": random(), "ties": ties()}
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def random() -> dict[str, Any]:
    """At random levels."""
    rng, found = np.random.default_rng(0), {"images": 0, "differ": []}
    for name in (each.name for each in image_ops.OPERATIONS):
        for side, count in RANDOM.items():
            keys = jax.random.split(jax.random.key(3), count)
            compare(found, name, side, rng.random(count), keys)
    return found


def ties() -> dict[str, Any]:
    """At levels that are fractions."""
    found: dict[str, Any] = {"images": 0, "differ": []}
    keys = jax.random.split(jax.random.key(3), 64)
    flips, _ = coins(keys, 1)
    both = keys[jnp.array([jnp.argmin(flips), jnp.argmax(flips)])]
    for name, (side, bins) in itertools.product(GEOMETRIC, TIES.items()):
        for each in bins:
            levels = np.tile(np.arange(each + 1) / each, 2)
            compare(found, name, side, levels, jnp.repeat(both, each + 1))
    return found


def compare(
    found: dict, name: str, side: int, levels: np.ndarray, keys: jax.Array
) -> None:
    """Adds a batch of noise to what was found."""
    levels = levels.astype(np.float32)
    rng = np.random.default_rng(side)
    images = rng.integers(0, 256, (len(levels), side, side, 3), np.uint8)
    results = np.asarray(changed(name)(images, levels, keys))
    flips, centres = map(np.asarray, coins(keys, side))
    each = image_ops.operation(name)
    for row, level in enumerate(levels):
        v = float(level) * (each.high - each.low) + each.low
        v = -v if each.mirror == 0 and flips[row] else v
        wanted = pillow(name, images[row], v, centres[row])
        if not np.array_equal(results[row], wanted):
            found["differ"].append(f"{name} {side} px, level {level:g}, v {v:g}")
    found["images"] += len(levels)


@functools.cache
def changed(name: str) -> Any:
    """One operation on a batch, compiled."""
    return jax.jit(jax.vmap(image_ops.operation(name).function("reference")))


@functools.partial(jax.jit, static_argnums=1)
def coins(keys: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    """What the operations draw: a change of sign, the centre of a cutout."""
    flips, inner = jax.vmap(image_ops.coin)(keys)
    draw = functools.partial(reference_ops.random_centre, height=side, width=side)
    return flips, jax.vmap(draw)(inner)


if __name__ == "__main__":
    main()
