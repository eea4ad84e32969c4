"""Policies of automatic augmentation: drawing from them, and applying what was drawn.

    policy = augment.trivial_augment()
    images = augment.apply(policy, key, images)          # uint8 in, uint8 out

`apply` is `sample` followed by `apply_draw`. A search or a test calls the two apart: a
draw is plain arrays.
"""

import dataclasses
from collections.abc import Sequence
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from augment import groups, image_ops
from augment.image_ops import Mode, Operation

GROUPS = 16  # draws a batch on accelerators, where every draw is a step of its own


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Policy:
    """S sub-policies of n operations each, of which one is drawn.

    Attributes:
      operations: (S, n) int32 rows of `table`.
      probabilities: (S, n) float32 chance that each operation is applied.
      levels: (S, n) float32 strengths in [0, 1].
      logits: (S,) float32, log-weights of the sub-policies up to a constant.
      table: the operations that the policy speaks of; static.
    """

    operations: jax.Array
    probabilities: jax.Array
    levels: jax.Array
    logits: jax.Array
    table: tuple[Operation, ...] = dataclasses.field(
        default=image_ops.OPERATIONS, metadata={"static": True}
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
    """What happens to a batch: one row for each of G equal, consecutive parts of it.

    Attributes:
      sub_policies: (G,) int32 which sub-policy was drawn.
      operations: (G, n) int32 rows of `table`.
      levels: (G, n) float32 strengths.
      applied: (G, n) bool, False where an operation is left out.
      table: the policy's; static.
    """

    sub_policies: jax.Array
    operations: jax.Array
    levels: jax.Array
    applied: jax.Array
    table: tuple[Operation, ...] = dataclasses.field(metadata={"static": True})


def make_policy(
    sub_policies: Sequence[Sequence[tuple[str, float, float]]],
    *,
    weights: Sequence[float] | None = None,
    table: tuple[Operation, ...] = image_ops.OPERATIONS,
) -> Policy:
    """A policy from names and numbers.

    Args:
      sub_policies: S sequences of n steps (operation, probability, level).
      weights: S numbers > 0, proportional to how often each is drawn; equal by default.
      table: the operations by name; an operation of one's own joins it as
        `(*augment.OPERATIONS, augment.Operation(...))`.

    Returns:
      The policy.

    Raises:
      ValueError: no sub-policies, unequal lengths, an unknown operation, a probability
        or level outside [0, 1], weights that are not positive or not finite.
    """
    lengths = {len(steps) for steps in sub_policies}
    if not lengths or lengths == {0}:
        raise ValueError("a policy needs at least one sub-policy of one operation")
    if len(lengths) > 1:
        raise ValueError(
            f"sub-policies must be equally long, got lengths {sorted(lengths)}; fill "
            "up with steps of probability 0"
        )
    rows = {each.name: row for row, each in enumerate(table)}
    if len(rows) < len(table):
        raise ValueError(f"two operations share a name: {[e.name for e in table]}")
    for row, steps in enumerate(sub_policies):
        for step in steps:
            name, probability, level = _step(step, row)
            if name not in rows:
                raise ValueError(
                    f"unknown operation {name!r} in sub-policy {row}; there are "
                    f"{', '.join(rows)}"
                )
            for what, number in (("probability", probability), ("level", level)):
                if not 0 <= number <= 1:
                    raise ValueError(
                        f"the {what} of {name} in sub-policy {row} must lie in [0, 1], "
                        f"got {number:g}"
                    )
    shares = np.ones(len(sub_policies)) if weights is None else np.asarray(weights)
    fair = (shares > 0) & (shares < np.inf)
    if shares.shape != (len(sub_policies),) or not fair.all():
        raise ValueError(
            f"weights must be {len(sub_policies)} finite numbers > 0, got {weights}"
        )
    names, probabilities, levels = np.moveaxis(np.array(sub_policies, object), -1, 0)
    return Policy(
        operations=jnp.asarray(np.vectorize(rows.get)(names), jnp.int32),
        probabilities=jnp.asarray(probabilities.astype(np.float32)),
        levels=jnp.asarray(levels.astype(np.float32)),
        logits=jnp.asarray(np.log(shares), jnp.float32),
        table=tuple(table),
    )


def _step(step: Any, row: int) -> tuple[str, float, float]:
    """One step of a sub-policy, of the right types: JSON's true is no number."""
    form = isinstance(step, Sequence) and len(step) == 3 and isinstance(step[0], str)
    if not form or not all(
        isinstance(number, Real | jax.Array) and not isinstance(number, bool)
        for number in step[1:]
    ):
        raise ValueError(
            f"sub-policy {row} must be a list of (operation, probability, level), has "
            f"{step!r}"
        )
    return step[0], step[1], step[2]


def sample(
    policy: Policy, key: jax.Array, batch_size: int, *, grouping: int | None = None
) -> Draw:
    """Draws what happens to a batch.

    Args:
      policy: what to draw from.
      key: PRNG key.
      batch_size: B, number of images.
      grouping: G, number of draws, which share the batch in consecutive parts of
        B / G. By default an image has its own on CPU, and on accelerators, where the
        draws run one after another, G is the largest divisor of B up to 16.

    Returns:
      The draw: one sub-policy by the policy's weights for each part, and for each of
      its operations a coin of its probability.

    Raises:
      ValueError: `batch_size` is below 1 or not divisible by `grouping`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if grouping is None:
        grouping = default_grouping(batch_size)
    if grouping < 1 or batch_size % grouping:
        raise ValueError(
            f"grouping must divide the batch: {batch_size} images do not make "
            f"{grouping} equal groups"
        )
    which, coins = jax.random.split(key)
    chosen = jax.random.categorical(which, policy.logits, shape=(grouping,))
    chances = jnp.clip(policy.probabilities[chosen], 0, 1)
    return make_draw(policy, chosen, jax.random.bernoulli(coins, chances))


def make_draw(policy: Policy, sub_policies: jax.Array, applied: jax.Array) -> Draw:
    """The draw with given outcomes, such as those that a search weighs.

    Args:
      policy: what they were drawn from; the draw's levels are differentiable in its.
      sub_policies: (G,) integer rows of the policy.
      applied: (G, n) bool, whether each operation of those rows is applied.

    Returns:
      The draw.
    """
    return Draw(
        sub_policies=sub_policies.astype(jnp.int32),
        operations=policy.operations[sub_policies],
        levels=policy.levels[sub_policies],
        applied=applied,
        table=policy.table,
    )


def default_grouping(batch_size: int) -> int:
    """Draws for a batch: one an image on CPU, else the largest divisor up to 16."""
    if jax.default_backend() == "cpu":
        return batch_size
    return max(g for g in range(1, GROUPS + 1) if batch_size % g == 0)


def apply_draw(
    draw: Draw,
    images: jax.Array,
    key: jax.Array,
    *,
    mode: Mode = "reference",
    mesh: Mesh | AbstractMesh | None = None,
    axis_name: str = "data",
) -> jax.Array:
    """Applies a draw to a batch.

    Groups run one after another and take one branch for each step, so that no
    operation is computed in vain; inside a group the images run together. Random signs
    and positions of cut-outs are drawn for every image.

    Args:
      draw: G draws.
      images: (B, H, W, C), C = 1 or 3, B divisible by G; uint8, or floating in [0, 1]
        in smooth mode.
      key: PRNG key, or (G,) of one for each draw.
      mode: `"reference"`, equal to Pillow, without derivatives, or `"smooth"`.
      mesh: devices over which the batch is split into consecutive parts; each changes
        its own images, which come out as on one device. A batch that does not divide
        is not split. Copies of a split batch, a draw for each, want no mesh: a part of
        every draw is at hand.
      axis_name: the axis of the mesh along which the images are split.

    Returns:
      (B, H, W, C) images of the same dtype. Levels outside [0, 1] act as 0 or 1.

    Raises:
      ValueError: the images or the mesh are not as above.
    """
    image_ops.check_images(images, mode, rank=4)
    branches = [each.change(mode) for each in draw.table]
    batch, (count, steps) = len(images), draw.operations.shape
    if batch % count:
        raise ValueError(f"{batch} images do not divide into the {count} draws")
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # of jax.random.PRNGKey
    # Drawn for all at once: inside the loop over groups a draw costs more than most
    # changes. And before the batch is split, for the same numbers on any mesh.
    size = batch // count
    if key.ndim:
        keys = jax.vmap(lambda one: jax.random.split(one, (steps, size)))(key)
    else:
        keys = jax.random.split(key, (count, steps, size))
    flips, inner = jax.vmap(image_ops.coin)(keys.reshape(-1))
    return groups.change(
        branches,
        images,
        jnp.where(draw.applied, draw.operations + 1, 0),
        jnp.clip(draw.levels, 0, 1),
        flips.reshape(keys.shape),
        inner.reshape(keys.shape),
        mesh=mesh,
        axis_name=axis_name,
    )


def apply(
    policy: Policy,
    key: jax.Array,
    images: jax.Array,
    *,
    mode: Mode = "reference",
    grouping: int | None = None,
    mesh: Mesh | AbstractMesh | None = None,
    axis_name: str = "data",
) -> jax.Array:
    """Draws from a policy and applies the draw: see `sample` and `apply_draw`.

    Args:
      policy: what to draw from.
      key: PRNG key.
      images: (B, H, W, C), C = 1 or 3; uint8, or floating in [0, 1] in smooth mode.
      mode: `"reference"` or `"smooth"`.
      grouping: number of draws for the batch; by default one an image on CPU.
      mesh: devices over which the batch is split; each changes its own images.
      axis_name: the axis of the mesh along which they are split.

    Returns:
      (B, H, W, C) images of the same dtype.

    Raises:
      ValueError: the images, the grouping or the mesh are not as above.
    """
    image_ops.check_images(images, mode, rank=4)
    drawing, applying = jax.random.split(key)
    draw = sample(policy, drawing, len(images), grouping=grouping)
    return apply_draw(draw, images, applying, mode=mode, mesh=mesh, axis_name=axis_name)
