"""Metrics added up on the device, so that the host need not wait for them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


class Total(struct.PyTreeNode):
    """A metric over many steps; all zero before the first.

    Attributes:
      sum: float32, of the values.
      count: float32, of what the values are sums over.
      bad: int32, first step (from 1) whose value was not finite; 0 is none.
    """

    sum: jax.Array
    count: jax.Array
    bad: jax.Array


def zeros(metrics: Mapping[str, Any]) -> dict[str, Total]:
    """Totals before any step, for metrics of these names (values are not looked at)."""
    return {
        name: Total(
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.float32),
            jnp.zeros((), jnp.int32),
        )
        for name in metrics
    }


def add(
    totals: Mapping[str, Total],
    metrics: Mapping[str, tuple],
    step: jax.Array,
    counts: jax.Array | bool = True,
    running: jax.Array | bool = True,
) -> dict[str, Total]:
    """Adds the metrics of one step.

    Args:
      totals: so far.
      metrics: pairs (sum, count) of scalars by name.
      step: int32 scalar, the number of the step.
      counts: bool scalar; where False, only `bad` takes note of the step.
      running: bool scalar; False where training has given up before.

    Raises:
      ValueError: a metric is not a pair of scalars, or is new.
    """
    if set(metrics) != set(totals):
        raise ValueError(f"metrics changed from {set(totals)} to {set(metrics)}")
    return {
        name: _add(name, totals[name], metrics[name], step, counts, running)
        for name in metrics
    }


def _add(
    name: str, total: Total, metric: Any, step: jax.Array, counts: Any, running: Any
) -> Total:
    if not isinstance(metric, tuple) or len(metric) != 2:
        raise ValueError(f"metric {name!r} must be a pair (sum, count), got {metric}")
    value, count = (jnp.asarray(part, jnp.float32) for part in metric)
    if value.shape or count.shape:
        raise ValueError(f"metric {name!r} must be a pair of scalars, got {metric}")
    bad = jnp.where(jnp.isfinite(value) | ~jnp.asarray(running), 0, step + 1)
    bad = jnp.where(total.bad > 0, total.bad, bad)
    value, count = (jnp.where(counts, part, 0) for part in (value, count))
    return Total(total.sum + value, total.count + count, bad)


def means(totals: Mapping[str, Total]) -> dict[str, np.ndarray]:
    """Sum / count of every metric that was counted, one value a seed (NaN for none)."""
    host = {name: jax.tree.map(np.atleast_1d, total) for name, total in totals.items()}
    return {
        name: np.where(total.count > 0, total.sum, np.nan)
        / np.where(total.count > 0, total.count, 1)
        for name, total in host.items()
        if np.any(total.count > 0)
    }


def bad(totals: Mapping[str, Total]) -> list[tuple[int, str, int]]:
    """(first step from 1, metric, seed index) of each that was not finite."""
    return [
        (int(step), name, seed)
        for name, total in totals.items()
        for seed, step in enumerate(np.atleast_1d(total.bad))
        if step
    ]
