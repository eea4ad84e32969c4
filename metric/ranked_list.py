"""Ranked list loss (Wang et al., CVPR 2019; journal version TPAMI 2021)."""

from typing import Any, Literal, Unpack

import jax
import jax.numpy as jnp

from metric import layout
from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction


def ranked_list_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    alpha: float | None = 1.2,
    margin: float = 0.4,
    temperature: float = 10.0,
    positive_temperature: float = 0.0,
    pos_weight: float = 0.5,
    neg_weight: float = 0.5,
    gradient: Literal["query", "pair", "full"] = "query",
    query_weighting: Literal["uniform", "mass"] = "uniform",
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Ranked list loss: every item in turn is the query, the rest its ranked list.

    With d the distance of unit embeddings, P* the positives of a query farther than
    alpha - margin and N* its negatives nearer than alpha, a query pays

        pos_weight * mean_{P*} (d - (alpha - margin))
        + neg_weight * sum_{N*} w (alpha - d) / sum_{N*} w,   w = exp(T (alpha - d)),

    and the loss is the mean over queries. Empty sets pay nothing. Positives are weighed
    by exp(Tp (d - (alpha - margin))), alike where `positive_temperature` Tp is 0.

    In float32 an active pair at distance d carries a relative error of about 1e-7 / d²
    (5e-6 holds beyond 0.3); pairs nearer than 2e-3 count in the value as coincident
    and push nowhere. float64 holds 1e-10.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      alpha: distance in [0, 2] beyond which negatives stop paying; None is the simpler
        form of the journal, alpha = 1 + margin / 2.
      margin: gap between the two boundaries, in the unit of distance.
      temperature: T >= 0; 0 weighs all non-trivial negatives alike, a large T keeps
        only the hardest.
      positive_temperature: Tp >= 0, the same for positives.
      pos_weight: weight of the positive term.
      neg_weight: weight of the negative term.
      gradient: which factors are differentiated (the value is the same):
        "query" only the query (paper and released code), "pair" query and list,
        "full" also the pair weights (plain autodiff).
      query_weighting: "uniform" divides by the number of queries; "mass" weighs query i
        by its share of the raw pair weights of the batch, a constant in every gradient
        mode (released code only).
      reduction: "mean", or "none" for (B,) values: what each query pays, with "mass"
        multiplied by its share.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`; a pair's
        weight multiplies w.

    Returns:
      Scalar loss, float32 or float64.

    Raises:
      ValueError: `gradient` or `query_weighting` is unknown, an argument is missing.
      AssertionError: shapes disagree (checked while tracing).
    """
    _check(gradient, query_weighting)
    outer = 1 + margin / 2 if alpha is None else alpha

    def rows(pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        """What each query pays, and the log of its raw pair weights."""
        if gradient == "query":
            pairs = pairs._replace(refs=jax.lax.stop_gradient(pairs.refs))
        d = pairs.distances()
        far, far_mass = _weighted_mean(
            d - (outer - margin), pairs, pairs.positive, positive_temperature, gradient
        )
        near, near_mass = _weighted_mean(
            outer - d, pairs, pairs.negative, temperature, gradient
        )
        paid = pos_weight * far + neg_weight * near
        return paid, jax.lax.stop_gradient(jnp.logaddexp(far_mass, near_mass))

    if query_weighting == "uniform":
        return pairs_lib.per_query(
            lambda pairs: rows(pairs)[0], embeddings, labels, reduction, **given
        )
    return _by_mass(rows, embeddings, labels, reduction, given)


def _weighted_mean(
    hinge: jax.Array, pairs: Pairs, mask: jax.Array, temperature: float, gradient: str
) -> tuple[jax.Array, jax.Array]:
    """Row means of active hinges with weights exp(T * hinge), and log of their mass.

    A row without an active pair has mean 0 and log mass -inf.
    """
    inactive = hinge <= 0  # a NaN counts as active, so that it is seen
    active = mask & ~inactive
    hinge = jnp.where(active, hinge, 0)
    logits = temperature * hinge
    logits = logits if gradient == "full" else jax.lax.stop_gradient(logits)
    # Active logits are >= 0, so this maximum is the one over active pairs.
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True, initial=0))
    weights = jnp.where(active, jnp.exp(logits - peak), 0)
    if pairs.weights is not None:
        weights = weights * pairs.weighed(active)
    # At least 1 where anything is active, but for weights of the caller's.
    mass = jnp.sum(weights, axis=1)
    empty = mass == 0
    safe = jnp.where(empty, 1, mass)
    mean = jnp.sum(weights * hinge, axis=1) / safe
    return mean, jnp.where(empty, -jnp.inf, peak[:, 0] + jnp.log(safe))


def _by_mass(
    rows: Any, embeddings: Any, labels: Any, reduction: Reduction, given: Given
) -> jax.Array:
    """Queries weighed by the share of the batch's raw pair weights that is theirs."""
    ready = layout.prepare(embeddings, labels, **given)
    paid, log_mass = pairs_lib.over_blocks(rows, ready)
    log_mass = jax.lax.stop_gradient(log_mass)
    log_mass = jnp.where(ready.counted > 0, log_mass, -jnp.inf)
    peak = jnp.max(log_mass, initial=-jnp.inf)
    if ready.axis_name is not None:
        peak = jax.lax.pmax(peak, ready.axis_name)
    mass = jnp.exp(log_mass - jnp.where(peak == -jnp.inf, 0, peak))
    total = ready.sum(mass)
    values = mass / jnp.where(total == 0, 1, total) * paid
    if pairs_lib.check_reduction(reduction) == "none":
        return values
    return ready.sum(values)


def _check(gradient: str, query_weighting: str) -> None:
    if gradient not in ("query", "pair", "full"):
        raise ValueError(f"gradient must be query, pair or full, got {gradient!r}")
    if query_weighting not in ("uniform", "mass"):
        raise ValueError(
            f"query_weighting must be uniform or mass, got {query_weighting!r}"
        )
