"""Miners: which pairs of a batch a loss should see, as masks for its `pairs=`.

Each takes the keywords of `metric.pairs.Given`, sends no gradient, never chooses a pair
of weight 0, and gives two (B, G) boolean masks, positives and negatives. What is NaN is
chosen, so that the loss shows it. `block_rows` saves nothing here: the masks are B G.
"""

from typing import Unpack

import jax
import jax.numpy as jnp

from metric import pairs as pairs_lib
from metric import triplet
from metric.pairs import Given, Pairs

Masks = tuple[jax.Array, jax.Array]


def multi_similarity_pairs(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    epsilon: float = 0.1,
    **given: Unpack[Given],
) -> Masks:
    """Positives farther, and negatives nearer, than the hardest of the other kind.

    In cosines s, a positive is kept if s - epsilon is below the query's largest
    negative, a negative if s + epsilon is above its smallest positive (Wang et al.
    2019, section 4).

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      epsilon: slack in cosine, >= 0.
      **given: see `metric.pairs.Given`.

    Returns:
      Masks of positives and of negatives, (B, G) booleans.
    """
    pairs = _candidates(embeddings, labels, given)
    s = pairs.products()
    near = jnp.max(
        jnp.where(pairs.negative, s, -jnp.inf), 1, keepdims=True, initial=-jnp.inf
    )
    far = jnp.min(
        jnp.where(pairs.positive, s, jnp.inf), 1, keepdims=True, initial=jnp.inf
    )
    positive = pairs.positive & ~(s - epsilon >= near)
    return positive, pairs.negative & ~(s + epsilon <= far)


def hard_pairs(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    **given: Unpack[Given],
) -> Masks:
    """Each query's farthest positive and nearest negative (Hermans et al. 2017).

    A query without a positive or without a negative gets neither; of equals, the first.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      **given: see `metric.pairs.Given`.

    Returns:
      Masks of positives and of negatives, (B, G) booleans.
    """
    pairs = _candidates(embeddings, labels, given)
    return triplet.hardest(pairs.distances(), pairs)


def semi_hard_pairs(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    margin: float = 0.2,
    **given: Unpack[Given],
) -> Masks:
    """The pairs of all triplets with d(a, p) < d(a, n) < d(a, p) + margin.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      margin: width of the window beyond a positive, >= 0.
      **given: see `metric.pairs.Given`.

    Returns:
      Masks of positives and of negatives, (B, G) booleans.
    """
    pairs = _candidates(embeddings, labels, given)
    d = pairs.distances()
    pulls, pushes = triplet.occurrences(
        d, pairs._replace(weights=None), margin, "semihard"
    )
    unknown = jnp.isnan(d)
    return (
        pairs.positive & ((pulls > 0) | unknown),
        pairs.negative & ((pushes > 0) | unknown),
    )


def distance_weighted_pairs(
    key: jax.Array,
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    cutoff: float = 0.5,
    nonzero_loss_cutoff: float = 1.4,
    **given: Unpack[Given],
) -> Masks:
    """All positives, and for each of them one negative drawn evenly over distances.

    A negative at distance d is drawn with a probability in proportion to 1 / q(d),
    q(d) = d^(D-2) (1 - d²/4)^((D-3)/2) being the density of distances on the sphere (Wu
    et al. 2017, section 4), and to its weight. A query draws as many negatives as it
    has positives, none twice, fewer if fewer are in reach.

    Args:
      key: a random key. Every row of the whole batch has its own random numbers, so
        that one device and many draw the same.
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      cutoff: nearer negatives are drawn as if they were at this distance.
      nonzero_loss_cutoff: farther negatives are never drawn.
      **given: see `metric.pairs.Given`.

    Returns:
      Masks of positives and of negatives, (B, G) booleans.
    """
    pairs = _candidates(embeddings, labels, given)
    d, width = pairs.distances(), embeddings.shape[1]
    clipped = jnp.clip(d, cutoff, 2 - 1e-6)
    density = (width - 2) * jnp.log(clipped)
    density += (width - 3) / 2 * jnp.log1p(-jnp.square(clipped) / 4)
    chance = -density
    if pairs.weights is not None:
        chance += jnp.log(jnp.where(pairs.negative, pairs.weights, 1))
    # The n largest of log chances plus Gumbel noise are n draws without replacement.
    reachable = pairs.negative & ~(d >= nonzero_loss_cutoff)
    score = jnp.where(reachable, chance + _noise(key, d, given), -jnp.inf)
    wanted = jnp.sum(pairs.positive, axis=1, keepdims=True)
    order = jnp.sort(score, axis=1, descending=True)
    last = jnp.take_along_axis(order, jnp.maximum(wanted - 1, 0), axis=1)
    return pairs.positive, reachable & (wanted > 0) & ~(score < last)


def _noise(key: jax.Array, like: jax.Array, given: Given) -> jax.Array:
    rows, axis_name = jnp.arange(len(like)), given.get("axis_name")
    if axis_name is not None:
        rows += jax.lax.axis_index(axis_name) * len(like)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return jax.vmap(lambda k: jax.random.gumbel(k, like.shape[1:], like.dtype))(keys)


def _candidates(embeddings: jax.Array, labels: jax.Array | None, given: Given) -> Pairs:
    pairs, _ = pairs_lib.masks(embeddings, labels, **given)
    return pairs._replace(
        positive=pairs.weighed(pairs.positive) > 0,
        negative=pairs.weighed(pairs.negative) > 0,
    )
