"""Lifted structured embedding (Song et al., CVPR 2016)."""

from typing import Unpack

import jax
import jax.numpy as jnp

from metric import layout
from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction, Term


def lifted_structure_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    neg_margin: float = 1.0,
    pos_margin: float = 0.0,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Every positive pair against all negatives of both its ends, softly.

    With d the distance of unit embeddings, the loss is the mean over positive pairs of
    max(0, J)² / 2,

        J(i, j) = d(i, j) - pos_margin + log sum exp(neg_margin - d(i, k))
                                           over negatives k of i and of j (eq. 4).

    The negatives of a reference from `ref` are the queries of which it is a negative:
    references are never compared among themselves.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      neg_margin: distance that negatives are pushed beyond.
      pos_margin: distance that positives may keep.
      reduction: "mean", or "none" for shares (B,) that add up to the loss.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`; a negative of
        weight w counts as w negatives at its place.

    Returns:
      Scalar loss, float32 or float64; a pair without negatives pays nothing and counts.

    Raises:
      ValueError: an argument is missing.
      AssertionError: shapes disagree (checked while tracing).
    """
    own, theirs = _crowds(embeddings, labels, given)

    def rows(pairs: Pairs) -> tuple[Term]:
        crowd = jnp.add.outer(pairs.extra, theirs)
        alone = crowd == 0
        j = jnp.log(jnp.where(alone, 1, crowd)) + pairs.distances()
        j = jnp.where(alone, 0, jnp.maximum(j + (neg_margin - pos_margin), 0))
        weights = pairs.weighed(pairs.positive)
        paid = jnp.where(weights != 0, weights * jnp.square(j) / 2, 0)
        return (Term(jnp.sum(paid, axis=1), jnp.sum(weights, axis=1)),)

    return pairs_lib.per_pair(rows, embeddings, labels, reduction, extra=own, **given)


def _crowds(
    embeddings: jax.Array, labels: jax.Array | None, given: Given
) -> tuple[jax.Array, jax.Array]:
    """Sums of exp(-d) over the negatives of each query (B,) and each reference (G,)."""
    # Blocks are filled up with rows that must not reach the sums of the references.
    there = jnp.ones(len(embeddings), bool)
    ready = layout.prepare(embeddings, labels, extra=there, **given)

    def rows(pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        # d is at most 2, so that the plain sum neither overflows nor vanishes.
        near = pairs.weighed(pairs.negative & pairs.extra[:, None])
        near = jnp.where(near != 0, near * jnp.exp(-pairs.distances()), 0)
        return jnp.sum(near, axis=1), jnp.sum(near, axis=0, keepdims=True)

    own, theirs = pairs_lib.over_blocks(rows, ready)
    if given.get("ref") is None:
        return own, layout.gathered(own, ready.axis_name)
    return own, ready.sum(theirs)
