"""N-pair loss: the softmax of each positive among the query's negatives."""

from typing import Unpack

import jax
import jax.numpy as jnp

from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction, Term


def n_pair_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    l2: float = 0.0,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Mean over positive pairs of log(1 + sum over negatives of exp(x.n - x.p)).

    Inner products of raw embeddings, kept short by l2 * (||x||² + ||p||²) / 2 on every
    positive pair (Sohn 2016, section 3.2). With anchors as `embeddings`, one of each
    class, and their positives as `ref` it is the cross-entropy of anchors times
    positives; on a batch alone every item is an anchor and every pair counts.

    Args:
      embeddings: (B, D) raw network outputs, taken as they are.
      labels: (B,) integer class ids.
      l2: weight of the squared lengths, >= 0.
      reduction: "mean", or "none" for shares (B,) of the anchors, which add up to it.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`; a negative of
        weight w counts as w negatives at its place.

    Returns:
      Scalar loss, float32 or float64; 0 without positive pairs.

    Raises:
      ValueError: an argument is out of range or missing.
      AssertionError: shapes disagree (checked while tracing).
    """

    def rows(pairs: Pairs) -> tuple[Term]:
        products = pairs.products()
        crowd = pairs_lib.log_sum_exp(products, pairs.weighed(pairs.negative))
        paid = jax.nn.softplus(crowd[:, None] - products)
        if l2:
            squares = (jnp.sum(jnp.square(x), axis=1) for x in pairs[:2])
            paid += l2 / 2 * jnp.add.outer(*squares)
        weights = pairs.weighed(pairs.positive)
        paid = jnp.where(weights != 0, weights * paid, 0)
        return (Term(jnp.sum(paid, axis=1), jnp.sum(weights, axis=1)),)

    return pairs_lib.per_pair(rows, embeddings, labels, reduction, unit=False, **given)
