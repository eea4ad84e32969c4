"""Steps whose metrics are not finite: left out, counted, and given up on."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxfaces.engine.task import Metrics


class Health(struct.PyTreeNode):
    """How training has gone so far; all zero is well.

    Attributes:
      skipped: int32, steps that were left out.
      in_a_row: int32, of them those since the last good step.
      failed: int32, the step (from 1) at which training gave up; 0 if it has not.
    """

    skipped: jax.Array
    in_a_row: jax.Array
    failed: jax.Array


def well() -> Health:
    """Health before any step."""
    return Health(*(jnp.zeros((), jnp.int32) for _ in range(3)))


def finite(metrics: Metrics) -> jax.Array:
    """Whether every metric is finite (bool scalar)."""
    values = [jnp.isfinite(jnp.asarray(value)) for value, _ in metrics.values()]
    return jnp.all(jnp.stack(values)) if values else jnp.array(True)


def judge(
    health: Health,
    metrics: Metrics,
    n: jax.Array,
    *,
    patience: int,
    entrance: bool = False,
) -> tuple[Health, jax.Array]:
    """Judges a step by its metrics.

    Args:
      health: before the step.
      metrics: (sum, count) pairs of the step.
      n: int32 scalar, the number of the step.
      patience: bad steps in a row that are left out; one more and training gives up.
      entrance: this is a phase's `enter`, which cannot be left out: a bad one makes
        training give up, a good one does not end a row of bad steps.

    Returns:
      Health after the step, and whether the step counts (bool scalar): its metrics were
      finite, and training had not given up before.
    """
    good, running = finite(metrics), health.failed == 0
    counts = good & running
    in_a_row = jnp.where(good, 0, health.in_a_row + 1)
    gives_up = running & (in_a_row > patience)
    if entrance:
        in_a_row, gives_up = health.in_a_row, running & ~good
    in_a_row = jnp.where(running, in_a_row, health.in_a_row)
    after = Health(
        skipped=health.skipped + (running & ~good & ~gives_up),
        in_a_row=in_a_row,
        failed=jnp.where(gives_up, n + 1, health.failed),
    )
    return after, counts


def choose(counts: jax.Array, new: Any, old: Any) -> Any:
    """`new` where a step counts, else `old`; pytrees of the same arrays."""
    return jax.tree.map(lambda a, b: jnp.where(counts, a, b), new, old)
