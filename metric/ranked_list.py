"""Ranked list loss (Wang et al., CVPR 2019; journal version TPAMI 2021)."""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from metric import distances


def ranked_list_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    alpha: float | None = 1.2,
    margin: float = 0.4,
    temperature: float = 10.0,
    positive_temperature: float = 0.0,
    pos_weight: float = 0.5,
    neg_weight: float = 0.5,
    gradient: Literal["query", "pair", "full"] = "query",
    query_weighting: Literal["uniform", "mass"] = "uniform",
    valid: jax.Array | None = None,
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
      valid: (B,) booleans, False for padding rows, which neither pay nor count.

    Returns:
      Scalar loss, float32 or float64.

    Raises:
      ValueError: `gradient` or `query_weighting` is unknown.
      AssertionError: shapes disagree (checked while tracing).
    """
    _check(embeddings, labels, valid, gradient, query_weighting)
    if alpha is None:
        alpha = 1 + margin / 2
    embeddings, count = distances.hide_padding(embeddings, valid)
    unit = distances.normalize(embeddings)
    listed = jax.lax.stop_gradient(unit) if gradient == "query" else unit
    d = distances.unit_distances(unit, listed)  # (B, B)
    positive, negative = distances.pair_masks(labels, valid)

    differentiate_weights = gradient == "full"
    too_far = d - (alpha - margin)
    too_near = alpha - d
    positive_terms, positive_mass = _weighted_mean(
        too_far, positive, positive_temperature, differentiate_weights
    )
    negative_terms, negative_mass = _weighted_mean(
        too_near, negative, temperature, differentiate_weights
    )
    per_query = pos_weight * positive_terms + neg_weight * negative_terms  # (B,)
    if query_weighting == "mass":
        log_mass = jnp.logaddexp(positive_mass, negative_mass)
        return jnp.sum(_shares(jax.lax.stop_gradient(log_mass)) * per_query)
    return jnp.sum(per_query) / jnp.maximum(count, 1)


def _weighted_mean(
    hinge: jax.Array, mask: jax.Array, temperature: float, differentiate: bool
) -> tuple[jax.Array, jax.Array]:
    """Row means of active hinges with weights exp(T * hinge), and log of their mass.

    A row without an active pair has mean 0 and log mass -inf.
    """
    inactive = hinge <= 0  # a NaN counts as active, so that it is seen
    active = mask & ~inactive
    hinge = jnp.where(active, hinge, 0)
    logits = temperature * hinge
    logits = logits if differentiate else jax.lax.stop_gradient(logits)
    # Active logits are >= 0, so this maximum is the one over active pairs.
    peak = jax.lax.stop_gradient(jnp.max(logits, axis=1, keepdims=True, initial=0))
    weights = jnp.where(active, jnp.exp(logits - peak), 0)
    mass = jnp.sum(weights, axis=1)  # at least 1 where anything is active
    empty = mass == 0
    safe = jnp.where(empty, 1, mass)
    mean = jnp.sum(weights * hinge, axis=1) / safe
    return mean, jnp.where(empty, -jnp.inf, peak[:, 0] + jnp.log(safe))


def _shares(log_mass: jax.Array) -> jax.Array:
    """Softmax of `log_mass` (B,), all zero where no query has any mass."""
    peak = jnp.max(log_mass, initial=-jnp.inf)
    mass = jnp.exp(log_mass - jnp.where(peak == -jnp.inf, 0, peak))
    total = jnp.sum(mass)
    return mass / jnp.where(total == 0, 1, total)


def _check(
    embeddings: jax.Array,
    labels: jax.Array,
    valid: jax.Array | None,
    gradient: str,
    query_weighting: str,
) -> None:
    chex.assert_rank(embeddings, 2)
    chex.assert_shape(labels, (embeddings.shape[0],))
    chex.assert_type(labels, int)
    if valid is not None:
        chex.assert_shape(valid, (embeddings.shape[0],))
    if gradient not in ("query", "pair", "full"):
        raise ValueError(f"gradient must be query, pair or full, got {gradient!r}")
    if query_weighting not in ("uniform", "mass"):
        raise ValueError(
            f"query_weighting must be uniform or mass, got {query_weighting!r}"
        )
