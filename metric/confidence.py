"""Classification by examples of middling confidence (Wang et al., AAAI 2019)."""

import chex
import jax
import jax.numpy as jnp

from metric import class_vectors, layout, margin_softmax
from metric import pairs as pairs_lib
from metric.pairs import Reduction


def confidence_weighted_cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    mean: float = 0.5,
    sigma: float = 0.18,
    valid: jax.Array | None = None,
    axis_name: str | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Cross-entropy weighed towards examples that are neither easy nor outliers.

    With p_i the softmax probability of example i's class, its weight is
    exp(-(p_i - mean)^2 / (2 sigma^2)) over the batch's sum of them, a constant for the
    gradient: sum_i weight_i (-log p_i). It is the classification loss in the code that
    Wang et al. released with class-aware attention (AAAI 2019).

    Args:
      logits: (B, C) raw class scores.
      labels: (B,) integer class ids in 0 … C - 1; another makes the loss NaN.
      mean: confidence of the greatest weight, in [0, 1].
      sigma: width of the weights, > 0.
      valid: (B,) booleans, False for padding rows, which neither pay nor count.
      axis_name: an axis of `jax.shard_map` over which the batch is split; the loss is
        that of the whole batch.
      reduction: "mean" for the loss, a mean by weights that add up to 1, or "none" for
        the terms (B,) that add up to it.

    Returns:
      Scalar loss, float32 or float64; 0 for a batch of padding alone.

    Raises:
      ValueError: an argument is out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    class_vectors.check_range("mean", mean, 0, 1)
    class_vectors.check_positive("sigma", sigma)
    pairs_lib.check_reduction(reduction)
    _check(logits, labels, valid)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    counted = jnp.ones(len(logits), bool) if valid is None else valid
    logits = jnp.where(counted[:, None], logits, 0)
    own = labels[:, None] == jnp.arange(logits.shape[1])[None]
    mine = margin_softmax.own_score(logits, own)
    behind = margin_softmax.rest_score(logits, own) - mine
    paid = jnp.where(jnp.any(own, axis=1), jax.nn.softplus(behind), jnp.nan)
    confidence = jax.lax.stop_gradient(jax.nn.sigmoid(-behind))
    weights = _normalized(
        -jnp.square((confidence - mean) / sigma) / 2, counted, axis_name
    )
    terms = jnp.where(counted, weights * paid, 0)
    if reduction == "none":
        return terms
    total = jnp.sum(terms)
    return total if axis_name is None else jax.lax.psum(total, axis_name)


def _normalized(
    exponents: jax.Array, counted: jax.Array, axis_name: str | None
) -> jax.Array:
    """exp(exponents) over its sum over the rows that count, 0 where none does."""
    peak = jnp.max(jnp.where(counted, exponents, -jnp.inf), initial=-jnp.inf)
    if axis_name is not None:
        peak = jax.lax.pmax(peak, axis_name)
    peak = jnp.where(peak == -jnp.inf, 0, peak)
    weights = jnp.where(counted, jnp.exp(exponents - peak), 0)
    total = jnp.sum(weights)
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    return weights / jnp.where(total == 0, 1, total)


def _check(logits: jax.Array, labels: jax.Array, valid: jax.Array | None) -> None:
    chex.assert_rank(logits, 2, custom_message="logits are (rows, classes)")
    if logits.shape[1] == 0:
        raise ValueError("logits must have one class or more, got none")
    layout.check_columns(len(logits), labels=labels, valid=valid)
