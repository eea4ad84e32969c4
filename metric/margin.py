"""Margin loss: distances on the right side of a boundary that may be learnt."""

from typing import Unpack

import jax
import jax.numpy as jnp

from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction, Term


def margin_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    beta: jax.Array | float = 1.2,
    margin: float = 0.2,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Mean over the pairs that pay of max(0, margin + d - beta) or its mirror image.

    With d the distance of unit embeddings, positive pairs pay
    max(0, d - (beta - margin)), negative pairs max(0, (beta + margin) - d); one mean is
    over both (Wu et al. 2017, section 4). Meant for `distance_weighted_pairs`. The loss
    is differentiable in `beta`; a regulariser such as nu * mean(beta) is the caller's.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      beta: boundary between positives and negatives in [0, 2], scalar, or (classes,)
        for one a class, that of the query's label.
      margin: half the width of the gap about the boundary.
      reduction: "mean", or "none" for shares (B,) that add up to the loss.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`.

    Returns:
      Scalar loss, float32 or float64; 0 where no pair pays.

    Raises:
      ValueError: `beta` has one value a class, and there are no labels.
      AssertionError: shapes disagree (checked while tracing).
    """
    boundaries = None
    if jnp.ndim(beta) > 0:
        if labels is None:
            raise ValueError("one beta a class needs labels")
        dtype = jnp.promote_types(embeddings.dtype, jnp.float32)
        each = jnp.asarray(beta, dtype)
        known = (labels >= 0) & (labels < len(each))
        boundaries = jnp.where(known, each[labels], jnp.nan)

    def rows(pairs: Pairs) -> tuple[Term]:
        boundary = beta if boundaries is None else pairs.extra[:, None]
        d = pairs.distances()
        far = pairs_lib.active(d - boundary + margin, pairs, pairs.positive)
        near = pairs_lib.active(boundary - d + margin, pairs, pairs.negative)
        return (Term(far.total + near.total, far.number + near.number),)

    return pairs_lib.per_pair(
        rows, embeddings, labels, reduction, extra=boundaries, **given
    )
