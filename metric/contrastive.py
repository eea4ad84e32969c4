"""Contrastive loss on all pairs of a batch."""

import chex
import jax
import jax.numpy as jnp

from metric import distances


def contrastive_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    pos_margin: float = 0.0,
    neg_margin: float = 1.0,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Mean violation of positive pairs plus mean violation of negative pairs.

    With d the distance of unit embeddings, positive pairs pay max(0, d - pos_margin)
    and negative pairs max(0, neg_margin - d); each mean is over the pairs that pay
    anything (Hadsell et al. 2006 without the square, averaged as Musgrave et al. 2020).

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      pos_margin: distance up to which positives pay nothing, in [0, 2].
      neg_margin: distance beyond which negatives pay nothing, in [0, 2].
      valid: (B,) booleans, False for padding rows.

    Returns:
      Scalar loss, float32 or float64; 0 where no pair pays.

    Raises:
      AssertionError: shapes disagree (checked while tracing).
    """
    chex.assert_rank(embeddings, 2)
    chex.assert_shape(labels, (embeddings.shape[0],))
    embeddings, _ = distances.hide_padding(embeddings, valid)
    unit = distances.normalize(embeddings)
    d = distances.unit_distances(unit, unit)
    positive, negative = distances.pair_masks(labels, valid)
    return _mean_active(d - pos_margin, positive) + _mean_active(
        neg_margin - d, negative
    )


def _mean_active(hinge: jax.Array, mask: jax.Array) -> jax.Array:
    inactive = hinge <= 0  # a NaN counts as active, so that it is seen
    active = mask & ~inactive
    count = jnp.sum(active, dtype=hinge.dtype)
    return jnp.sum(jnp.where(active, hinge, 0)) / jnp.maximum(count, 1)
