"""Supervised contrastive loss (Khosla et al., NeurIPS 2020)."""

from typing import Unpack

import jax
import jax.numpy as jnp

from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction, Term


def supcon_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    temperature: float = 0.1,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Mean cross-entropy of an anchor's positives among all that it is compared with.

    An anchor pays the mean over its positives of -log softmax(s / temperature) taken
    over its positives and negatives, s being cosines (eq. 2, L_out). With `same` for
    two views of each image it is NT-Xent (Chen et al. 2020).

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      temperature: > 0.
      reduction: "mean", or "none" for shares (B,) that add up to the loss.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`; a pair of
        weight w counts as w references at its place.

    Returns:
      Scalar loss, float32 or float64: the mean over anchors that have a positive and a
      negative, 0 if there is none.

    Raises:
      ValueError: the temperature is not above 0, an argument is missing.
      AssertionError: shapes disagree (checked while tracing).
    """
    if isinstance(temperature, (int, float)) and temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")

    def rows(pairs: Pairs) -> tuple[Term]:
        logits = pairs.products() / temperature
        positives = pairs.weighed(pairs.positive)
        negatives = pairs.weighed(pairs.negative)
        mass = jnp.sum(positives, axis=1)
        pays = (mass > 0) & (jnp.sum(negatives, axis=1) > 0)
        drawn = jnp.sum(jnp.where(positives != 0, positives * logits, 0), axis=1)
        crowd = pairs_lib.log_sum_exp(logits, positives + negatives)
        paid = crowd - drawn / jnp.where(pays, mass, 1)
        return (Term(jnp.where(pays, paid, 0), pays.astype(logits.dtype)),)

    return pairs_lib.per_pair(rows, embeddings, labels, reduction, **given)
