"""Multi-similarity loss (Wang et al., CVPR 2019)."""

from typing import Unpack

import jax

from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction


def multi_similarity_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Soft maxima of far positives and of near negatives, in cosines s.

    A query pays log(1 + sum over positives of exp(-alpha (s - base))) / alpha
    + log(1 + sum over negatives of exp(beta (s - base))) / beta and the loss is the
    mean over queries. The paper mines by `multi_similarity_pairs` first.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      alpha: sharpness for positives, > 0.
      beta: sharpness for negatives, > 0.
      base: the cosine between near and far, in [-1, 1].
      reduction: "mean", or "none" for what each query pays (B,).
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`; a pair of
        weight w counts as w pairs in its sum.

    Returns:
      Scalar loss, float32 or float64; a query without pairs pays nothing and counts.

    Raises:
      ValueError: an argument is missing.
      AssertionError: shapes disagree (checked while tracing).
    """

    def rows(pairs: Pairs) -> jax.Array:
        above = pairs.products() - base
        far = pairs_lib.log_sum_exp(-alpha * above, pairs.weighed(pairs.positive))
        near = pairs_lib.log_sum_exp(beta * above, pairs.weighed(pairs.negative))
        return jax.nn.softplus(far) / alpha + jax.nn.softplus(near) / beta

    return pairs_lib.per_query(rows, embeddings, labels, reduction, **given)
