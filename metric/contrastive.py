"""Contrastive loss on all pairs of a batch."""

from typing import Unpack

import jax

from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction, Term


def contrastive_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    pos_margin: float = 0.0,
    neg_margin: float = 1.0,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
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
      reduction: "mean", or "none" for shares (B,) that add up to the loss.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`.

    Returns:
      Scalar loss, float32 or float64; 0 where no pair pays.

    Raises:
      ValueError: an argument is out of range or missing.
      AssertionError: shapes disagree (checked while tracing).
    """

    def rows(pairs: Pairs) -> tuple[Term, Term]:
        d = pairs.distances()
        return (
            pairs_lib.active(d - pos_margin, pairs, pairs.positive),
            pairs_lib.active(neg_margin - d, pairs, pairs.negative),
        )

    return pairs_lib.per_pair(rows, embeddings, labels, reduction, **given)
