"""Triplet loss on all, semi-hard or hardest triplets, without ever listing them."""

import functools
from typing import Literal, Unpack

import jax
import jax.numpy as jnp

from metric import pairs as pairs_lib
from metric.pairs import Given, Pairs, Reduction, Term

Kind = Literal["all", "semihard", "hard"]

# Up to so many positives a query are walked through; it pays to sort beyond.
FEW = 32


def triplet_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    margin: float = 0.2,
    kind: Kind = "all",
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Mean over the triplets that pay of max(0, d(a, p) - d(a, n) + margin).

    d is the distance of unit embeddings, p a positive and n a negative of the anchor a
    (Schroff et al. 2015). Time is O(B G log G), memory O(B G): the sum over triplets is
    linear in the distances, and how often each occurs in it is counted by sorting, or
    in O(B G P) if no query has more than a few positives P.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      margin: by how much a negative must be farther than a positive, >= 0.
      kind: "all" triplets; "semihard" ones, d(a, p) < d(a, n) < d(a, p) + margin; or
        "hard", of each anchor its farthest positive with its nearest negative (Hermans
        et al. 2017).
      reduction: "mean", or "none" for shares (B,) of the anchors, which add up to it.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`; a triplet
        weighs the product of its pairs' weights, which are constants; a pair of weight
        0 is not there.

    Returns:
      Scalar loss, float32 or float64; 0 where no triplet pays.

    Raises:
      ValueError: `kind` is unknown, an argument is missing.
      AssertionError: shapes disagree (checked while tracing).
    """
    if kind not in ("all", "semihard", "hard"):
        raise ValueError(f"kind must be all, semihard or hard, got {kind!r}")

    def rows(pairs: Pairs) -> tuple[Term]:
        term = _hardest_triplets if kind == "hard" else _triplets
        return (term(pairs.distances(), pairs, margin, kind),)

    return pairs_lib.per_pair(rows, embeddings, labels, reduction, **given)


def hardest(d: jax.Array, pairs: Pairs) -> tuple[jax.Array, jax.Array]:
    """Masks of each query's farthest positive and nearest negative, one of each.

    Both are empty for a query that has no positive or no negative.
    """
    positive = pairs.weighed(pairs.positive) > 0
    negative = pairs.weighed(pairs.negative) > 0
    if d.size == 0:
        return positive, negative
    complete = jnp.any(positive, 1) & jnp.any(negative, 1)
    d = jax.lax.stop_gradient(d)
    far = jnp.argmax(jnp.where(positive, d, -jnp.inf), axis=1)
    near = jnp.argmin(jnp.where(negative, d, jnp.inf), axis=1)
    columns = jnp.arange(d.shape[1])[None]
    return (
        complete[:, None] & (columns == far[:, None]),
        complete[:, None] & (columns == near[:, None]),
    )


def occurrences(
    d: jax.Array, pairs: Pairs, margin: float, kind: Kind
) -> tuple[jax.Array, jax.Array]:
    """In how many paying triplets each positive and each negative pair occurs, weighed.

    Both (b, G) arrays have the same row sums, up to rounding: they come from the same
    comparisons.
    """
    d = jax.lax.stop_gradient(d)
    positives, negatives = (
        jax.lax.stop_gradient(pairs.weighed(mask)).astype(d.dtype)
        for mask in (pairs.positive, pairs.negative)
    )
    longest = jnp.max(jnp.sum(positives > 0, axis=1), initial=0)
    semi = kind == "semihard"
    pulls, pushes = jax.lax.cond(
        longest <= FEW,
        functools.partial(_walked, longest, semi),
        functools.partial(_sorted, semi),
        *(d, margin, positives, negatives),
    )
    return positives * pulls, negatives * pushes


def _walked(
    longest: jax.Array,
    semi: bool,
    d: jax.Array,
    margin: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Weights of the paying partners, one positive of every query after the other."""
    columns = jnp.broadcast_to(jnp.arange(d.shape[1]), d.shape)
    none = d.shape[1]
    waiting = jnp.where(positives > 0, columns, none)

    def one(_: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        pulls, pushes, last = sums
        later = jnp.where(waiting > last, waiting, none)
        column = jnp.min(later, axis=1, keepdims=True, initial=none)

        def its(x: jax.Array) -> jax.Array:
            found = jnp.take_along_axis(x, jnp.minimum(column, none - 1), axis=1)
            return jnp.where(column < none, found, -jnp.inf)

        inside = d < its(d) + margin
        if semi:
            inside &= d > its(d)
        pull = jnp.sum(jnp.where(inside, negatives, 0), axis=1, keepdims=True)
        pulls = jnp.where(columns == column, pull, pulls)
        return pulls, pushes + jnp.where(inside, its(positives), 0), column

    zero = 0 * positives
    first = jnp.min(waiting, axis=1, keepdims=True, initial=none) - 1
    return jax.lax.fori_loop(0, longest, one, (zero, zero, first))[:2]


def _sorted(
    semi: bool,
    d: jax.Array,
    margin: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The same by sorting either side once and looking up the other's bounds in it."""
    keys, mass = _masses(d, negatives)
    pulls = _up_to(keys, mass, d + margin, "left")
    if semi:
        pulls -= _up_to(keys, mass, d, "right")
    keys, mass = _masses(d, positives)
    most = _up_to(keys, mass, d, "left") if semi else mass[:, -1:]
    return pulls, most - _up_to(keys + margin, mass, d, "right")


def _masses(keys: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows of keys in rising order, and (b, G + 1) total weights before each."""
    keys = jnp.where(weights > 0, keys, jnp.inf)
    keys, weights = jax.lax.sort((keys, weights), num_keys=1)
    return keys, jnp.pad(jnp.cumsum(weights, axis=1), ((0, 0), (1, 0)))


def _up_to(keys: jax.Array, mass: jax.Array, bounds: jax.Array, side: str) -> jax.Array:
    """Weight of the keys under each bound, with side="right" of those equal too."""
    search = functools.partial(jnp.searchsorted, side=side)
    return jnp.take_along_axis(mass, jax.vmap(search)(keys, bounds), axis=1)


def _triplets(d: jax.Array, pairs: Pairs, margin: float, kind: Kind) -> Term:
    pulls, pushes = occurrences(d, pairs, margin, kind)
    number = jnp.sum(pulls, axis=1)
    # Pulls and pushes have equal sums, so any centre will do; a near one saves digits.
    centre = jax.lax.stop_gradient(jnp.mean(d, axis=1, keepdims=True))
    total = jnp.sum((pulls - pushes) * (d - centre), axis=1)
    return Term(total + margin * number, number)


def _hardest_triplets(d: jax.Array, pairs: Pairs, margin: float, kind: Kind) -> Term:
    far, near = hardest(d, pairs)
    hinge = jnp.sum(jnp.where(far, d, 0) - jnp.where(near, d, 0), axis=1) + margin
    inactive = hinge <= 0  # a NaN counts as active, so that it is seen
    weights = jnp.sum(pairs.weighed(far), axis=1) * jnp.sum(pairs.weighed(near), axis=1)
    weights = jax.lax.stop_gradient(jnp.where(inactive, 0, weights))
    return Term(jnp.where(weights != 0, weights * hinge, 0), weights)
