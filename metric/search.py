"""Exact search by cosine similarity, one block of queries at a time."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from numpy.typing import ArrayLike

from metric import distances, ranking

# Similarities that a device holds at once by default, 23 MiB: the C library takes
# larger buffers from the system anew for every block, and XLA's CPU loops over them run
# at half the speed.
_BLOCK_SCORES = 6_000_000


class Search:
    """Unit queries and gallery on the device, ready to be compared block by block.

    With a mesh both are split by rows over its devices; nothing is held whole.
    """

    def __init__(
        self,
        queries: ArrayLike,
        gallery: ArrayLike | None,
        block_size: int | None,
        mesh: Mesh | None = None,
    ):
        shards = 1
        if mesh is not None:
            shards = mesh.size
            devices = mesh.devices.reshape(-1)
            mesh = Mesh(devices, (ranking.AXIS,), axis_types=(AxisType.Auto,))
        self.mesh = mesh
        self.queries, self.num_queries = self._unit_rows(queries, "queries")
        self.items, self.num_items = self.queries, self.num_queries
        if gallery is not None:
            self.items, self.num_items = self._unit_rows(gallery, "gallery")
        if self.items.shape[1] != self.queries.shape[1]:
            raise ValueError(
                "queries and gallery must have one width, got "
                f"{self.queries.shape[1]} and {self.items.shape[1]}"
            )
        self.excludes_itself = gallery is None
        self.keys: tuple[np.ndarray, jax.Array] | None = None
        if block_size is None:
            local = max(1, len(self.items) // shards)
            block_size = max(16, _BLOCK_SCORES // local // 16 * 16)
            block_size = min(block_size, max(1, self.num_queries))
        if block_size < 1:
            raise ValueError(f"block_size must be 1 or more, got {block_size}")
        self.block_size = block_size

    def hide_equal(self, query_keys: np.ndarray, item_keys: np.ndarray) -> None:
        """Takes an item out of the ranking of a query with the same key, (Q,), (G,)."""
        fill = (0, len(self.items) - self.num_items)
        filled = np.pad(item_keys, fill, constant_values=-1)
        self.keys = (query_keys, self._placed(filled))

    def check_labels(self, query_ids: np.ndarray, gallery_ids: np.ndarray) -> None:
        """Raises unless there is a label a row."""
        check_column("query_labels", query_ids, self.num_queries)
        check_column("gallery_labels", gallery_ids, self.num_items)

    def blocks(self, order: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Yields slices of `order` and the query numbers that they hold."""
        for start in range(0, len(order), self.block_size):
            part = slice(start, min(start + self.block_size, len(order)))
            yield part, order[part]

    def scores(self, rows: np.ndarray) -> jax.Array:
        """Similarities of a whole block, the rows after `rows` being a fill."""
        padded = self._filled(rows, 0)
        own = padded if self.excludes_itself else None
        queries = ranking.take(self.queries, padded, mesh=self.mesh)
        found = ranking.scores(
            queries, self.items, own, num_items=self.num_items, mesh=self.mesh
        )
        if self.keys is None:
            return found
        query_keys, item_keys = self.keys
        return ranking.hide(found, query_keys[padded], item_keys, mesh=self.mesh)

    def first_rank(self, scores: jax.Array, members: np.ndarray) -> np.ndarray:
        """Rank, from 1, of the first of the items `members` (b, R) of each query."""
        padded = self._filled(members, -1)
        rank = ranking.ranks(scores, padded, first=True, mesh=self.mesh)
        return np.asarray(rank)[: len(members), 0]

    def ranks(self, scores: jax.Array, members: np.ndarray) -> np.ndarray:
        """Ranks (b, R) of `members`, from 1; 0 where one is -1 or hidden."""
        padded = self._filled(members, -1)
        rank = ranking.ranks(scores, padded, first=False, mesh=self.mesh)
        return np.asarray(rank)[: len(members)]

    def top(
        self, scores: jax.Array, k: int, rows: int, recall: float | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and indices, (rows, k) each, of the first k items.

        A `recall` is that of `lax.approx_max_k`; None is exact.
        """
        values, indices = ranking.top(scores, k=k, recall=recall, mesh=self.mesh)
        return np.asarray(values)[:rows], np.asarray(indices)[:rows]

    def _filled(self, rows: np.ndarray, value: int) -> np.ndarray:
        """The rows of a block, filled up with `value` to its full size."""
        fill = [(0, self.block_size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        return np.pad(rows, fill, constant_values=value)

    def _unit_rows(self, embeddings: ArrayLike, name: str) -> tuple[jax.Array, int]:
        """Unit rows on the devices, filled up with zeros, and how many were given."""
        rows = (
            embeddings if isinstance(embeddings, jax.Array) else np.asarray(embeddings)
        )
        if rows.ndim != 2:
            raise ValueError(f"{name} must be (rows, width), got shape {rows.shape}")
        # Whole chunks for the top k; also, matrix products may sum the columns of a
        # ragged edge in another order, and duplicates there would miss their tie by a
        # bit.
        shards = 1 if self.mesh is None else self.mesh.size
        fill = -len(rows) % (ranking.CHUNK * shards)
        unit, finite = _normalize(self._placed(rows, fill))
        if not finite:
            raise ValueError(
                f"{name} hold NaN or infinity; rankings need finite numbers"
            )
        return unit, len(rows)

    def _placed(self, rows: np.ndarray | jax.Array, fill: int = 0) -> jax.Array:
        """Rows and `fill` rows of zeros on the device, or split over the mesh."""
        padding = ((0, fill),) + ((0, 0),) * (rows.ndim - 1)
        if self.mesh is None:
            return jnp.pad(jnp.asarray(rows), padding)
        split = NamedSharding(self.mesh, ranking.ROWS)
        if isinstance(rows, jax.Array):
            return jax.device_put(jnp.pad(rows, padding) if fill else rows, split)
        length = len(rows) + fill
        dtype = jax.dtypes.canonicalize_dtype(rows.dtype)

        def shard(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(length)
            part = rows[start:stop].astype(dtype)
            short = ((0, stop - start - len(part)), *padding[1:])
            return np.pad(part, short)

        return jax.make_array_from_callback((length, *rows.shape[1:]), split, shard)


def check_column(name: str, column: np.ndarray, rows: int) -> None:
    """Raises unless a column has an entry a row."""
    if column.shape != (rows,):
        raise ValueError(f"{name} must have shape {(rows,)}, got {column.shape}")


@jax.jit
def _normalize(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unit rows in float32, and whether all entries of `rows` are finite."""
    unit = distances.normalize(rows).astype(jnp.float32)
    return unit, jnp.all(jnp.isfinite(rows))
