"""What every loss over pairs shares: queries, references, masks, blocks and sums.

A loss is a function of a block of queries before all references, `rows(pairs)`, that
gives one number or a few for each query. `per_query` and `per_pair` build the blocks,
run it, and add up: over the batch, over blocks of queries whose (b, G) matrices are
made again for the gradient, and over the devices of a `shard_map`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from metric import distances, layout

Reduction = Literal["mean", "none"]


class Given(TypedDict, total=False):
    """Keywords that every loss over pairs takes; all may be left out.

    Attributes:
      valid: (B,) booleans, False for padding rows, which neither pay nor count.
      same: (B, G) booleans, which pairs are positive, in place of labels.
      ref: (G, D) references to compare with; without it the batch is compared with
        itself, an item never with itself.
      ref_labels: (G,) their class ids.
      ref_valid: (G,) booleans, False for references that are not there.
      itself: (B,) where each item of the batch lies among `ref`, -1 for nowhere; that
        pair is left out.
      pairs: (positive, negative), two (B, G) boolean masks, as a miner gives them: only
        these pairs take part.
      weights: (B, G) numbers >= 0 that each pair's term and count are multiplied with.
      axis_name: an axis of `jax.shard_map` over which the batch is split; the loss is
        that of the whole batch, the same number on every device.
      block_rows: queries compared at once; less memory, and every block is computed
        again for the gradient. None takes all at once.
    """

    valid: jax.Array | None
    same: jax.Array | None
    ref: jax.Array | None
    ref_labels: jax.Array | None
    ref_valid: jax.Array | None
    itself: jax.Array | None
    pairs: tuple[jax.Array, jax.Array] | None
    weights: jax.Array | None
    axis_name: str | None
    block_rows: int | None


class Pairs(NamedTuple):
    """A block of b queries before all G references.

    Attributes:
      queries: (b, D) unit rows, raw ones where a loss asks for them.
      refs: (G, D) likewise.
      positive: (b, G) booleans, pairs of one class.
      negative: (b, G) booleans, pairs of two classes.
      weights: (b, G) or None.
      extra: the rows of what else the loss brought, or None.
    """

    queries: jax.Array
    refs: jax.Array
    positive: jax.Array
    negative: jax.Array
    weights: jax.Array | None
    extra: Any

    def distances(self) -> jax.Array:
        """(b, G) Euclidean distances of unit rows."""
        return distances.unit_distances(self.queries, self.refs)

    def products(self) -> jax.Array:
        """(b, G) inner products, cosines of unit rows."""
        return distances.products(self.queries, self.refs)

    def weighed(self, mask: jax.Array) -> jax.Array:
        """Weights (b, G) of the pairs of a mask, 1 where none were given."""
        if self.weights is None:
            return mask.astype(self.queries.dtype)
        return jnp.where(mask, self.weights, 0)


class Term(NamedTuple):
    """Numerators and denominators (b,) of an average over the pairs of a batch."""

    total: jax.Array
    number: jax.Array


def per_query(
    rows: Callable[[Pairs], jax.Array],
    embeddings: jax.Array,
    labels: jax.Array | None,
    reduction: Reduction,
    *,
    unit: bool = True,
    extra: Any = None,
    **given: Any,
) -> jax.Array:
    """The mean over the queries that count of what `rows` says of each.

    Args:
      rows: from a block of b queries to (b,) values.
      embeddings: (B, D) raw network outputs.
      labels: (B,) integer class ids, or None with `same`.
      reduction: "mean", or "none" for the (B,) values, 0 at padding rows.
      unit: normalise the embeddings.
      extra: a tree of arrays with B rows, handed to `rows` by block.
      **given: see `Given`.
    """
    ready = layout.prepare(embeddings, labels, unit=unit, extra=extra, **given)
    counted = ready.counted
    values = jnp.where(counted > 0, over_blocks(rows, ready), 0)
    if check_reduction(reduction) == "none":
        return values
    return ready.sum(values) / jnp.maximum(ready.sum(counted), 1)


def per_pair(
    rows: Callable[[Pairs], Sequence[Term]],
    embeddings: jax.Array,
    labels: jax.Array | None,
    reduction: Reduction,
    *,
    unit: bool = True,
    extra: Any = None,
    **given: Any,
) -> jax.Array:
    """The sum of averages over the pairs of the whole batch, one for each term.

    With `reduction="none"` an item gets its share of every average, so that the values
    add up to the loss: of a pair inside the batch each of the two gets one half.

    Args:
      rows: from a block of b queries to terms of (b,) sums; an average over nothing
        is 0.
      embeddings: (B, D) raw network outputs.
      labels: (B,) integer class ids, or None with `same`.
      reduction: "mean" or "none".
      unit: normalise the embeddings.
      extra: a tree of arrays with B rows, handed to `rows` by block.
      **given: see `Given`.
    """
    ready = layout.prepare(embeddings, labels, unit=unit, extra=extra, **given)
    shares = []
    for total, number in over_blocks(rows, ready):
        whole = ready.sum(number)
        shares.append(total / jnp.where(whole == 0, 1, whole))
    values = jnp.sum(jnp.stack(shares), axis=0)
    return values if check_reduction(reduction) == "none" else ready.sum(values)


def active(hinge: jax.Array, pairs: Pairs, mask: jax.Array) -> Term:
    """Sums over the pairs of a mask with a hinge (b, G) above 0, and their number."""
    inactive = hinge <= 0  # a NaN counts as active, so that it is seen
    weights = pairs.weighed(mask & ~inactive)
    return Term(
        jnp.sum(jnp.where(weights != 0, weights * hinge, 0), axis=1),
        jnp.sum(weights, axis=1),
    )


def log_sum_exp(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Row-wise log sum weights * exp(x), stable; (b, G) twice to (b,).

    A row without weights gives a number so low that its exponential is 0, and has no
    gradient.
    """
    taken = weights != 0
    peak = jnp.max(jnp.where(taken, x, -jnp.inf), axis=1, initial=-jnp.inf)
    peak = jax.lax.stop_gradient(jnp.where(peak == -jnp.inf, 0, peak))
    shifted = jnp.where(taken, x - peak[:, None], -jnp.inf)
    total = jnp.sum(weights * jnp.exp(shifted), axis=1)
    empty = total == 0
    lowest = jnp.finfo(x.dtype).min / 4
    return jnp.where(empty, lowest, peak + jnp.log(jnp.where(empty, 1, total)))


def over_blocks(rows: Callable[[Pairs], Any], ready: layout.Prepared) -> Any:
    """What `rows` gives for all B queries, computed block by block if so asked."""

    def one(batch: dict[str, Any]) -> Any:
        return rows(_pairs(batch, ready.refs))

    return layout.by_blocks(one, ready.batch, ready.block_rows)


def masks(
    embeddings: jax.Array, labels: jax.Array | None, **given: Any
) -> tuple[Pairs, jax.Array]:
    """All pairs at once, for miners, and which rows count (B,)."""
    ready = layout.prepare(jax.lax.stop_gradient(embeddings), labels, **given)
    return _pairs(ready.batch, ready.refs), ready.counted > 0


def check_reduction(reduction: str) -> str:
    """Returns it, or raises ValueError."""
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be mean or none, got {reduction!r}")
    return reduction


def _pairs(batch: dict[str, Any], refs: dict[str, Any]) -> Pairs:
    if batch["pairs"] is not None:
        positive, negative = batch["pairs"]
    else:
        same = batch["same"]
        if same is None:
            same = batch["labels"][:, None] == refs["labels"][None]
        positive, negative = same, ~same
    there = _there(len(refs["rows"]), batch["valid"], refs["valid"], batch["itself"])
    if there is not None:
        positive, negative = positive & there, negative & there
    everything = (positive, negative, batch["weights"], batch["extra"])
    return Pairs(batch["rows"], refs["rows"], *everything)


def _there(
    size: int,
    valid: jax.Array | None,
    ref_valid: jax.Array | None,
    itself: jax.Array | None,
) -> jax.Array | None:
    """Pairs of two rows that are there, and not one row twice; None is all of them."""
    kept = [
        None if valid is None else valid[:, None],
        None if ref_valid is None else ref_valid[None],
        None if itself is None else itself[:, None] != jnp.arange(size)[None],
    ]
    found = None
    for mask in kept:
        if mask is not None:
            found = mask if found is None else found & mask
    return found
