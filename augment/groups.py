"""The groups of a batch, changed one after another, on one device or on many."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

# (image, level, flip, key) -> image
Branch = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def change(
    branches: Sequence[Branch],
    images: jax.Array,
    rows: jax.Array,
    levels: jax.Array,
    flips: jax.Array,
    keys: jax.Array,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    axis_name: str = "data",
) -> jax.Array:
    """Takes every image of G equal, consecutive groups through the steps of its group.

    Args:
      branches: what a step may be, beside nothing.
      images: (B, H, W, C).
      rows: (G, n) int32, the branch of each step counted from 1; 0 is nothing.
      levels: (G, n) their strengths.
      flips: (G, n, B / G) bool, a coin for each image.
      keys: (G, n, B / G) PRNG keys.
      mesh: devices that share the batch. A group of which several devices hold images
        becomes a group on each: n devices run G / gcd(G, n) of them, one after another.
      axis_name: the axis of the mesh along which the images are split.

    Returns:
      (B, H, W, C) images, the same for any mesh.

    Raises:
      ValueError: the mesh has no such axis.
    """
    devices = _sharing(mesh, axis_name, len(images))
    groups = math.lcm(len(rows), devices)
    finer, size = groups // len(rows), len(images) // groups
    parts = (
        jnp.reshape(images, (groups, size, *images.shape[1:])),
        *(jnp.repeat(each, finer, axis=0) for each in (rows, levels)),
        *(_cut(each, finer) for each in (flips, keys)),
    )
    choices = [_batched(branch, size) for branch in (_nothing, *branches)]
    run = functools.partial(_in_turn, choices)
    if devices == 1:
        return run(*parts).reshape(images.shape)
    # Left to itself, the compiler gathers all images on every device for the loop.
    # Not checked: an operation of the user's may begin a loop from a constant.
    own = P(axis_name)
    shared = jax.shard_map(run, mesh=mesh, in_specs=own, out_specs=own, check_vma=False)
    return shared(*parts).reshape(images.shape)


def _sharing(mesh: Mesh | AbstractMesh | None, axis_name: str, batch: int) -> int:
    """How many devices share a batch; one where it does not divide among them."""
    if mesh is None:
        return 1
    if axis_name not in mesh.shape:
        raise ValueError(
            f"the mesh has no axis {axis_name!r}, but {', '.join(mesh.axis_names)}; "
            "give axis_name"
        )
    devices = mesh.shape[axis_name]
    return 1 if batch % devices else devices


def _cut(of_images: jax.Array, finer: int) -> jax.Array:
    """(G, n, s) as (G · finer, n, s / finer)."""
    groups, steps, size = of_images.shape
    split = of_images.reshape(groups, steps, finer, size // finer)
    return jnp.moveaxis(split, 2, 1).reshape(groups * finer, steps, size // finer)


def _in_turn(
    choices: Sequence[Callable[..., jax.Array]], *parts: jax.Array
) -> jax.Array:
    """(G, s, H, W, C) groups, changed one after another."""

    def step(pixels: jax.Array, part: tuple) -> tuple[jax.Array, None]:
        row, *numbers = part
        return jax.lax.switch(row, choices, pixels, *numbers), None

    def each_group(part: tuple) -> jax.Array:
        pixels, *of_steps = part
        return jax.lax.scan(step, pixels, tuple(of_steps))[0]

    return jax.lax.map(each_group, parts)


def _nothing(
    image: jax.Array, level: jax.Array, flip: jax.Array, key: jax.Array
) -> jax.Array:
    return image


def _batched(branch: Branch, size: int) -> Callable[..., jax.Array]:
    """A branch over the images of a group, without the cost of `vmap` for one."""
    if size > 1:
        return jax.vmap(branch, in_axes=(0, None, 0, 0))

    def alone(
        images: jax.Array, level: jax.Array, flips: jax.Array, keys: jax.Array
    ) -> jax.Array:
        return branch(images[0], level, flips[0], keys[0])[None]

    return alone
