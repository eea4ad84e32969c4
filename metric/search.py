"""Exact search by cosine similarity, one block of queries at a time."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from metric import distances

# Similarities held at once by default, 23 MiB: the C library takes larger buffers from
# the system anew for every block, and XLA's CPU loops over them run at half the speed.
_BLOCK_SCORES = 6_000_000
_CHUNK = 64  # a gallery is padded to a multiple of it


class Search:
    """Unit queries and gallery on the device, ready to be compared block by block."""

    def __init__(
        self, queries: ArrayLike, gallery: ArrayLike | None, block_size: int | None
    ):
        self.queries = _unit_rows(queries, "queries")
        self.items = self.queries
        if gallery is not None:
            self.items = _unit_rows(gallery, "gallery")
        if self.items.shape[1] != self.queries.shape[1]:
            raise ValueError(
                "queries and gallery must have one width, got "
                f"{self.queries.shape[1]} and {self.items.shape[1]}"
            )
        self.excludes_itself = gallery is None
        self.num_queries, self.num_items = len(self.queries), len(self.items)
        # Whole chunks for _top_k; also, matrix products may sum the columns of a ragged
        # edge in another order, and duplicates there would miss their tie by a bit.
        self.items = jnp.pad(self.items, ((0, -self.num_items % _CHUNK), (0, 0)))
        if block_size is None:
            block_size = max(16, _BLOCK_SCORES // max(1, len(self.items)) // 16 * 16)
            block_size = min(block_size, max(1, self.num_queries))
        if block_size < 1:
            raise ValueError(f"block_size must be 1 or more, got {block_size}")
        self.block_size = block_size

    def check_labels(self, query_ids: np.ndarray, gallery_ids: np.ndarray) -> None:
        """Raises unless there is a label a row."""
        for name, ids, rows in (
            ("query_labels", query_ids, self.num_queries),
            ("gallery_labels", gallery_ids, self.num_items),
        ):
            if ids.shape != (rows,):
                raise ValueError(f"{name} must have shape {(rows,)}, got {ids.shape}")

    def blocks(self, order: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields slices of `order` and the query numbers that they hold."""
        for start in range(0, len(order), self.block_size):
            part = slice(start, min(start + self.block_size, len(order)))
            yield part, order[part]

    def scores(self, rows: np.ndarray) -> jax.Array:
        """Similarities of a whole block, the rows after `rows` being a fill."""
        padded = np.pad(rows, (0, self.block_size - len(rows)))
        own = padded if self.excludes_itself else None
        queries = jnp.take(self.queries, padded, axis=0, mode="clip")
        return _scores(queries, self.items, own, self.num_items)

    def first_rank(self, scores: jax.Array, members: np.ndarray) -> np.ndarray:
        """Rank, from 1, of the first of the items `members` (b, R) of each query."""
        fill = ((0, self.block_size - len(members)), (0, 0))
        rank = _first_rank(scores, np.pad(members, fill, constant_values=-1))
        return np.asarray(rank)[: len(members)]

    def top(
        self, scores: jax.Array, k: int, rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and indices, (rows, k) each, of the first k items."""
        values, indices = _top_k(scores, k)
        return np.asarray(values)[:rows], np.asarray(indices)[:rows]


# The three steps of a block are compiled apart: fused into one program, XLA's CPU code
# for the reductions loses its vectors and takes as long as the matrix product.


@functools.partial(jax.jit, static_argnames="num_items")
def _scores(
    queries: jax.Array, items: jax.Array, own: jax.Array | None, num_items: int
) -> jax.Array:
    """Similarities (b, G), -inf at padding items and at the query itself."""
    scores = jnp.matmul(queries, items.T, precision=jax.lax.Precision.HIGHEST)
    scores = scores.at[:, num_items:].set(-jnp.inf)
    if own is None:
        return scores
    return scores.at[jnp.arange(len(queries)), own].set(-jnp.inf)


@jax.jit
def _first_rank(scores: jax.Array, members: jax.Array) -> jax.Array:
    column = jnp.arange(scores.shape[1])

    def rank(query: tuple[jax.Array, jax.Array]) -> jax.Array:
        scores, members = query
        relevant = jnp.where(members < 0, -jnp.inf, scores[members])
        first = jnp.argmax(relevant)  # members ascend: the lowest index of equals
        best = relevant[first]
        tied = (scores == best) & (column < members[first])
        return 1 + jnp.sum((scores > best) | tied)

    # Row by row on a CPU, where a row stays in the cache.
    lanes = 1 if jax.default_backend() == "cpu" else len(scores)
    return jax.lax.map(rank, (scores, members), batch_size=lanes)


@functools.partial(jax.jit, static_argnames="k")
def _top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k` of (b, G) scores, by way of the k chunks with the largest maxima.

    An item outside those chunks is preceded by the maxima of k chunks, so that none is
    missed; chunks in ascending order keep equal scores in the order of their index.
    """
    if k * _CHUNK >= scores.shape[1]:
        return jax.lax.top_k(scores, k)
    chunks = scores.reshape(len(scores), -1, _CHUNK)
    chosen = jnp.sort(jax.lax.top_k(jnp.max(chunks, axis=2), k)[1], axis=1)  # (b, k)
    candidates = jnp.take_along_axis(chunks, chosen[:, :, None], axis=1)
    values, position = jax.lax.top_k(candidates.reshape(len(scores), -1), k)
    chunk = jnp.take_along_axis(chosen, position // _CHUNK, axis=1)
    return values, chunk * _CHUNK + position % _CHUNK


def _unit_rows(embeddings: ArrayLike, name: str) -> jax.Array:
    rows = jnp.asarray(embeddings)
    if rows.ndim != 2:
        raise ValueError(f"{name} must be (rows, width), got shape {rows.shape}")
    unit, finite = _normalize(rows)
    if not finite:
        raise ValueError(f"{name} hold NaN or infinity; rankings need finite numbers")
    return unit


@jax.jit
def _normalize(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unit rows in float32, and whether all entries of `rows` are finite."""
    unit = distances.normalize(rows).astype(jnp.float32)
    return unit, jnp.all(jnp.isfinite(rows))
