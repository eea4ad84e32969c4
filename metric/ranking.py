"""The steps of a search on one device, or on the shards of a gallery.

Every step takes a block of b queries and similarities (b, G) to the gallery; with a
mesh the columns are split over its devices, and a step sends k or R numbers a query and
shard, never a row of similarities.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

AXIS = "shards"
CHUNK = 64  # a shard of the gallery is padded to a multiple of it

WHOLE, ROWS, COLUMNS = P(), P(AXIS), P(None, AXIS)

# The steps are compiled apart: fused into one program, XLA's CPU code for the
# reductions loses its vectors and takes as long as the matrix product.


def _step(function: Callable[..., Any], mesh: Mesh | None, args: Any, out: Any) -> Any:
    """`function`, or `function` on every shard with operands laid out as `args`."""
    if mesh is None:
        return function
    # What is gathered or summed is the same on all devices, which jax cannot see.
    return jax.shard_map(
        function, mesh=mesh, in_specs=args, out_specs=out, check_vma=False
    )


def _offset(mesh: Mesh | None, length: int) -> jax.Array | int:
    """The number of this shard's first row or column."""
    return 0 if mesh is None else jax.lax.axis_index(AXIS) * length


@functools.partial(jax.jit, static_argnames="mesh")
def take(table: jax.Array, rows: jax.Array, *, mesh: Mesh | None) -> jax.Array:
    """Rows (b, D) of a table (N, D), whole on every device."""

    def step(table: jax.Array, rows: jax.Array) -> jax.Array:
        local = rows - _offset(mesh, len(table))
        found = jnp.take(table, local, axis=0, mode="clip")
        if mesh is None:
            return found
        here = (local >= 0) & (local < len(table))
        return jax.lax.psum(jnp.where(here[:, None], found, 0), AXIS)

    return _step(step, mesh, (ROWS, WHOLE), WHOLE)(table, rows)


@functools.partial(jax.jit, static_argnames=("num_items", "mesh"))
def scores(
    queries: jax.Array,
    items: jax.Array,
    own: jax.Array | None,
    *,
    num_items: int,
    mesh: Mesh | None,
) -> jax.Array:
    """Similarities (b, G), -inf at padding items and at the query itself, `own`."""

    def step(queries: jax.Array, items: jax.Array, own: jax.Array | None) -> jax.Array:
        found = jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
        offset = _offset(mesh, len(items))
        if mesh is None:
            found = found.at[:, num_items:].set(-jnp.inf)
        else:
            there = jnp.arange(len(items)) < num_items - offset
            found = jnp.where(there[None], found, -jnp.inf)
        if own is None:
            return found
        local = own - offset
        local = jnp.where(local < 0, len(items), local)  # not counted from the end
        return found.at[jnp.arange(len(queries)), local].set(-jnp.inf, mode="drop")

    return _step(step, mesh, (WHOLE, ROWS, WHOLE), COLUMNS)(queries, items, own)


@functools.partial(jax.jit, static_argnames="mesh")
def hide(
    scores: jax.Array, query_keys: jax.Array, item_keys: jax.Array, *, mesh: Mesh | None
) -> jax.Array:
    """Similarities with -inf where a query and an item have the same key."""

    def step(
        scores: jax.Array, query_keys: jax.Array, item_keys: jax.Array
    ) -> jax.Array:
        return jnp.where(query_keys[:, None] == item_keys[None], -jnp.inf, scores)

    specs = (COLUMNS, WHOLE, ROWS)
    return _step(step, mesh, specs, COLUMNS)(scores, query_keys, item_keys)


@functools.partial(jax.jit, static_argnames=("k", "recall", "mesh"))
def top(
    scores: jax.Array, *, k: int, recall: float | None, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """The k largest similarities (b, k) and their items, lower index first of equals.

    Every shard finds its own k; lists joined in the order of the shards keep equal
    similarities in the order of their index. `recall` asks for `lax.approx_max_k`.
    """
    total = scores.shape[1]

    def step(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        length = scores.shape[1]
        if recall is None:
            values, indices = _top_of_chunks(scores, min(k, length))
        else:
            size = -1 if mesh is None else total
            values, indices = jax.lax.approx_max_k(
                scores,
                min(k, length),
                recall_target=recall,
                reduction_input_size_override=size,
            )
        if mesh is None:
            return values, indices
        indices = indices + _offset(mesh, length)
        values, indices = (
            jax.lax.all_gather(x, AXIS, axis=1, tiled=True) for x in (values, indices)
        )
        values, position = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(indices, position, axis=1)

    return _step(step, mesh, (COLUMNS,), (WHOLE, WHOLE))(scores)


@functools.partial(jax.jit, static_argnames=("first", "mesh"))
def ranks(
    scores: jax.Array, members: jax.Array, *, first: bool, mesh: Mesh | None
) -> jax.Array:
    """Ranks (b, R), from 1, of the items `members` (b, R), ascending, of each query.

    A rank is 1 + the number of items above, so that nothing is sorted; it is 0 where
    the item is -1 or hidden. `first` gives the smallest rank alone, (b, 1).
    """

    def step(scores: jax.Array, members: jax.Array) -> jax.Array:
        offset = _offset(mesh, scores.shape[1])
        local = members - offset
        here = (members >= 0) & (local >= 0) & (local < scores.shape[1])
        found = jnp.take_along_axis(scores, jnp.where(here, local, 0), axis=1)
        found = jnp.where(here, found, -jnp.inf)
        found = found if mesh is None else jax.lax.pmax(found, AXIS)
        if first:
            best = jnp.argmax(found, axis=1, keepdims=True)  # the lowest of equals
            found, members = (
                jnp.take_along_axis(x, best, axis=1) for x in (found, members)
            )
        above = _count_above(scores, found, members - offset)
        above = above if mesh is None else jax.lax.psum(above, AXIS)
        return jnp.where(found == -jnp.inf, 0, 1 + above)

    return _step(step, mesh, (COLUMNS, WHOLE), WHOLE)(scores, members)


def _count_above(scores: jax.Array, found: jax.Array, place: jax.Array) -> jax.Array:
    """How many of (b, G) precede each value (b, R) that stands in column `place`."""
    column = jnp.arange(scores.shape[1])[None]

    def count(query: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        scores, found, place = query
        scores, found, place = scores[None], found[:, None], place[:, None]
        tied = (scores == found) & (column < place)
        return jnp.sum((scores > found) | tied, axis=1)

    # Row by row on a CPU, where a row stays in the cache.
    lanes = 1 if jax.default_backend() == "cpu" else len(scores)
    return jax.lax.map(count, (scores, found, place), batch_size=lanes)


def _top_of_chunks(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k` of (b, G) scores, by way of the k chunks with the largest maxima.

    An item outside those chunks is preceded by the maxima of k chunks, so that none is
    missed; chunks in ascending order keep equal scores in the order of their index.
    """
    if k * CHUNK >= scores.shape[1]:
        return jax.lax.top_k(scores, k)
    chunks = scores.reshape(len(scores), -1, CHUNK)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(chunks, axis=2), k)[1], axis=1)  # (b, k)
    candidates = jnp.take_along_axis(chunks, chosen[:, :, None], axis=1)
    values, position = jax.lax.top_k(candidates.reshape(len(scores), -1), k)
    chunk = jnp.take_along_axis(chosen, position // CHUNK, axis=1)
    return values, chunk * CHUNK + position % CHUNK
