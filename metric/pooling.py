"""Pooling of the frames of a tracklet into one feature, weighed by attention."""

import chex
import jax
import jax.numpy as jnp

from metric.distances import at_least_float32


def attention_pool(
    features: jax.Array,
    attention: jax.Array,
    groups: jax.Array,
    *,
    number: int,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Weighted means of the features of each group, attention normalised within it.

    t_g = sum_i w_i x_i over the items i of group g, w_i = a_i / sum_k a_k: the frames
    of a tracklet (Wang et al. 2019, Online Soft Mining, video re-identification). The
    attention is a constant: no gradient reaches it, as in the paper's release.

    Args:
      features: (B, D) of any scale; half precision is summed in float32.
      attention: (B,) numbers >= 0.
      groups: (B,) integers, the group 0 … number - 1 of every item; those outside the
        range belong to none.
      number: G >= 1, how many groups there are.
      valid: (B,) booleans, False for padding rows, which count in no group.

    Returns:
      (G, D), float32 or float64; 0, with zero gradient, for a group without items or
      without attention.

    Raises:
      ValueError: `number` is below 1.
      AssertionError: shapes disagree (checked while tracing).
    """
    if number < 1:
        raise ValueError(f"number must be 1 or more, got {number}")
    chex.assert_rank(features, 2, custom_message="features are (rows, width)")
    rows = features.shape[:1]
    for name, column in (("attention", attention), ("groups", groups)):
        chex.assert_shape(column, rows, custom_message=f"{name}: one a row, {rows}")
    chex.assert_type(groups, int, custom_message="groups are integers")
    features = at_least_float32(features)
    attention = jax.lax.stop_gradient(attention).astype(features.dtype)
    if valid is not None:
        chex.assert_shape(valid, rows, custom_message=f"valid: one a row, {rows}")
        features = jnp.where(valid[:, None], features, 0)
        attention = jnp.where(valid, attention, 0)
    # Sums by a product with (G, B): scattered ones have no fixed order on a GPU.
    member = groups[None] == jnp.arange(number)[:, None]
    features = jnp.where(jnp.any(member, axis=0)[:, None], features, 0)
    weights = jnp.where(member, attention[None], 0)
    whole = jnp.sum(weights, axis=1, keepdims=True)
    weights = weights / jnp.where(whole == 0, 1, whole)
    return jnp.matmul(weights, features, precision=jax.lax.Precision.HIGHEST)
