"""Proxy-Anchor loss (Kim et al., CVPR 2020)."""

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from metric import class_vectors as class_vectors_lib
from metric import pairs as pairs_lib
from metric.class_vectors import Given
from metric.layout import Prepared
from metric.pairs import Pairs, Reduction


def proxy_anchor_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    *,
    margin: float = 0.1,
    alpha: float = 32.0,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Every proxy pulls its class's examples and pushes all others (Kim et al. 2020).

    With s the cosine of an example and a proxy p, of all proxies P and those P+ whose
    class is in the batch (equation 4):

        1/|P+| sum_{p in P+} log(1 + sum_{own x} exp(-alpha (s - margin)))
        + 1/|P| sum_{p in P} log(1 + sum_{other x} exp(alpha (s + margin)))

    An example's share of a proxy's log(1 + sum) is its share of that sum; the shares of
    a batch add up to the loss, which is no mean over examples.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids, or (B, C) soft ones in [0, 1]: an example counts
        so much among a class's own and 1 minus that among its others, and |P+| counts
        each class by its largest weight (here; the paper has no soft labels).
      class_vectors: (C, D) raw proxies, normalised inside.
      margin: added on either side, cosine units, in [-1, 1].
      alpha: scale of the cosines, > 0.
      reduction: "mean" for the loss, or "none" for the examples' shares (B,).
      **given: `valid`, `weights`, `axis_name`, `block_rows` of
        `metric.class_vectors.Given`; weights multiply the exponentials.

    Returns:
      Scalar loss, float32 or float64.

    Raises:
      ValueError: an argument is out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    class_vectors_lib.check_range("margin", margin, -1, 1)
    class_vectors_lib.check_positive("alpha", alpha)
    pairs_lib.check_reduction(reduction)
    ready = class_vectors_lib.prepare(embeddings, labels, class_vectors, **given)

    def sums(pairs: Pairs) -> tuple[_Sum, _Sum, jax.Array]:
        own, other = _terms(pairs, margin, alpha)
        return _summed(own), _summed(other), jnp.max(_present(pairs), 0, initial=0)

    def sums_of_a_block(pairs: Pairs) -> Any:
        return jax.tree.map(lambda x: x[None], sums(pairs))  # a block is one row

    own, other, present = pairs_lib.over_blocks(sums_of_a_block, ready)
    own, other = _whole(own, ready), _whole(other, ready)
    pulling = jnp.sum(_largest(present, ready))
    pulling = jnp.where(pulling == 0, 1, pulling)
    if reduction == "mean":
        return jnp.sum(_log(own)) / pulling + jnp.mean(_log(other))

    def shares(pairs: Pairs) -> jax.Array:
        mine, others = _terms(pairs, margin, alpha)
        pulls = _shares(mine, own) / pulling
        return pulls + _shares(others, other) / len(class_vectors)

    return pairs_lib.over_blocks(shares, ready)


class _Sum(NamedTuple):
    """A sum of exponentials for each class, mass exp(peak), with peak (C,) >= 0."""

    peak: jax.Array
    mass: jax.Array


class _Term(NamedTuple):
    """Exponentials that a sum takes, with their weights, (b, C) each."""

    exponents: jax.Array
    weights: jax.Array


def _terms(pairs: Pairs, margin: float, alpha: float) -> tuple[_Term, _Term]:
    """What the examples are to the classes that are their own, and to all others."""
    cosines, weights = pairs.products(), pairs.extra.weights[:, None]
    own = _membership(pairs)
    return (
        _Term(alpha * (margin - cosines), weights * own),
        _Term(alpha * (margin + cosines), weights * jnp.maximum(1 - own, 0)),
    )


def _membership(pairs: Pairs) -> jax.Array:
    """(b, C) from 0 to 1, how much each example is of each class."""
    soft = pairs.extra.soft
    return pairs.positive.astype(pairs.queries.dtype) if soft is None else soft


def _present(pairs: Pairs) -> jax.Array:
    """The same, 0 for examples without weight."""
    member = jax.lax.stop_gradient(_membership(pairs))
    return jnp.where(pairs.extra.weights[:, None] > 0, member, 0)


def _summed(term: _Term) -> _Sum:
    # The 1 in log(1 + sum) has the exponent 0, so no peak lies below.
    taken = jnp.where(term.weights > 0, term.exponents, 0)
    peak = jax.lax.stop_gradient(jnp.max(taken, axis=0, initial=0))
    return _Sum(peak, jnp.sum(_scaled(term, peak), axis=0))


def _scaled(term: _Term, peak: jax.Array) -> jax.Array:
    """Weights exp(exponents - peak), (b, C), of which none can overflow."""
    absent = term.weights <= 0  # False for NaN, which must be seen
    exponents = jnp.where(absent, 0, term.exponents - peak[None])
    return jnp.where(absent, 0, term.weights * jnp.exp(exponents))


def _whole(blocks: _Sum, ready: Prepared) -> _Sum:
    """The sums of the batch from those of its blocks, (n, C) each."""
    peak = _largest(jax.lax.stop_gradient(blocks.peak), ready)
    return _Sum(peak, ready.sum(blocks.mass * jnp.exp(blocks.peak - peak[None])))


def _largest(blocks: jax.Array, ready: Prepared) -> jax.Array:
    """(C,) the largest of (n, C) numbers >= 0 on all devices; a constant."""
    largest = jax.lax.stop_gradient(jnp.max(blocks, axis=0, initial=0))
    if ready.axis_name is None:
        return largest
    return jax.lax.pmax(largest, ready.axis_name)


def _log(total: _Sum) -> jax.Array:
    """log(1 + mass exp(peak)), which keeps its digits where it is small."""
    return total.peak + jnp.log1p(jnp.expm1(-total.peak) + total.mass)


def _shares(term: _Term, total: _Sum) -> jax.Array:
    """(b,) what each example has of the logs, by its part of each class's sum."""
    each = _log(total) / jnp.where(total.mass == 0, 1, total.mass)
    return jnp.sum(_scaled(term, total.peak) * each[None], axis=1)
