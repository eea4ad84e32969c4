"""What training by labels minimises and counts over a batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


def over_valid(
    nll: jax.Array, logits: jax.Array, rows: Mapping[str, Any]
) -> tuple[jax.Array, Mapping[str, tuple]]:
    """The mean loss of the rows that are no padding, and metrics of them.

    Args:
      nll: (B,) losses.
      logits: (B, C) class scores.
      rows: `label` (B,) and `valid` (B,) bool.

    Returns:
      () mean, 0 of no rows; `loss` and `accuracy` as pairs (sum, count).
    """
    total, count = jnp.sum(nll, where=rows["valid"]), jnp.sum(rows["valid"])
    hits = jnp.argmax(logits, axis=-1) == rows["label"]
    right = jnp.sum(hits & rows["valid"])
    metrics = {"loss": (total, count), "accuracy": (right, count)}
    return total / jnp.maximum(count, 1), metrics


def of_network(
    network: Any,
    rest: Any,
    key: jax.Array,
    rows: Mapping[str, Any],
    params: Any,
    images: jax.Array,
) -> tuple[jax.Array, tuple[Any, Mapping[str, tuple]]]:
    """The mean cross-entropy of a network in training, its statistics and metrics.

    Args:
      network: `jaxfaces.engine.net.Net`.
      rest: its variables beside the parameters.
      key: for its randomness.
      rows: `label` (B,) and `valid` (B,) bool.
      params: its parameters.
      images: (B, H, W, C) as it takes them.

    Returns:
      () loss, and the pair of new variables beside the parameters and of metrics.
    """
    logits, rest = network.apply(params, rest, images, train=True, key=key)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, rows["label"])
    mean, metrics = over_valid(nll, logits, rows)
    return mean, (rest, metrics)
