"""Re-ranking of a retrieval result by k-reciprocal neighbours."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from metric.search import Search

_NUMBERS = 1 << 22  # gathered at once


def k_reciprocal_reranking(
    queries: ArrayLike,
    gallery: ArrayLike,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    block_size: int | None = None,
) -> np.ndarray:
    """Distances after re-ranking with k-reciprocal encoding (Zhong et al. 2017).

    Among the N = Q + G items of queries and gallery, N(p, k) is p and its k nearest
    others, and R(p, k) = {q in N(p, k): p in N(q, k)} (eq. 3). Every q of R(p, k1)
    whose R(q, k1/2) lies in R(p, k1) by more than two thirds adds it (eq. 5). With d
    the squared distance of unit rows divided by the largest that p has,

        V_pq = exp(-d_pq) for q in that set, 0 elsewhere (eq. 7), with sum 1,
        V_p  = mean of V over p and its k2 - 1 nearest (eq. 11),
        d*   = (1 - weight) (1 - sum_j min(V_pj, V_qj) / sum_j max(V_pj, V_qj))
               + weight d (eq. 10 and 12).

    Differs: the paper scales neither d nor V; the authors' released code does, and the
    published numbers are its. An item is always its own first neighbour, and equal
    distances rank the lower index first, queries before gallery.

    Takes 4 Q G bytes for the result and 8 for every entry of V that is not 0, of which
    there are some hundred an item; nothing is N x N. At the size of Market-1501
    (3,368 x 15,913, D = 512) that is 630 MiB over the input. Time is that of an exact
    search of N among N and, for every query, of the entries of V in its columns.

    Args:
      queries: (Q, D) raw embeddings, normalised inside, compared in float32.
      gallery: (G, D) raw embeddings.
      k1: neighbours that are looked at, >= 1.
      k2: items averaged, >= 1; 1 leaves averaging out.
      weight: of the distance itself, in [0, 1]; 1 gives it back.
      block_size: rows compared with all N at once, >= 1; None bounds a block to 23 MiB.

    Returns:
      (Q, G) float32 distances in [0, 1], smaller is nearer.

    Raises:
      ValueError: widths disagree, embeddings are not finite, or `k1`, `k2`, `weight` or
        `block_size` is out of range.
    """
    if k1 < 1 or k2 < 1:
        raise ValueError(f"k1 and k2 must be 1 or more, got {k1} and {k2}")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be in [0, 1], got {weight}")
    ready = Search(queries, gallery, block_size)
    num_queries = ready.num_queries
    if 0 in (num_queries, ready.num_items):
        return np.zeros((num_queries, ready.num_items), np.float32)
    parts = (ready.queries[:num_queries], ready.items[: ready.num_items])
    unit = np.concatenate([np.asarray(part) for part in parts])
    near, scale, distances = _neighbours(unit, num_queries, max(k1, k2 - 1), block_size)
    encoding = _encoding(_expanded(near[:, : k1 + 1], round(k1 / 2) + 1), unit, scale)
    encoding = _averaged(encoding, near[:, :k2])
    rows, columns = encoding[:num_queries], encoding[num_queries:].tocsc()
    distances *= weight
    for row, shared in zip(distances, _shared(rows, columns)):
        # The minima and maxima of two rows of sum 1 add up to 2.
        row += (1 - weight) * (1 - shared / (2 - shared))
    return distances


def _neighbours(
    unit: np.ndarray, num_queries: int, k: int, block_size: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lists (N, 1 + k), largest squared distances (N,), scaled distances (Q, G)."""
    search = Search(unit, None, block_size)
    size = len(unit)
    near = np.empty((size, 1 + min(k, size - 1)), np.int32)
    near[:, 0] = np.arange(size)
    scale = np.empty(size, np.float32)
    distances = np.empty((num_queries, size - num_queries), np.float32)
    for part, rows in search.blocks(np.arange(size)):
        scores = search.scores(rows)
        _, near[part, 1:] = search.top(scores, near.shape[1] - 1, len(rows))
        farthest = 2 - 2 * np.asarray(_least(scores))[: len(rows)]
        # Where all items are one point, only the rounding of products is left.
        scale[part] = np.where(farthest > 4e-6, farthest, 1)
        asked = len(distances[part])
        if asked:
            similarities = np.asarray(scores)[:asked, num_queries:size]
            distances[part] = _scaled(similarities, scale[part][:asked, None])
    return near, scale, distances


@jax.jit
def _least(scores: jax.Array) -> jax.Array:
    """The smallest similarity (b,) that is not hidden."""
    return jnp.min(jnp.where(scores == -jnp.inf, jnp.inf, scores), axis=1)


def _scaled(similarities: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Squared distances of unit rows over their scale, in [0, 1]."""
    return np.clip((2 - 2 * similarities) / scale, 0, 1)


def _reciprocal(near: np.ndarray) -> np.ndarray:
    """Which entries of the lists (N, k) have the list's owner in theirs, (N, k)."""
    found = np.empty(near.shape, bool)
    step = max(1, _NUMBERS // near.shape[1] ** 2)
    for start in range(0, len(near), step):
        rows = slice(start, start + step)
        owner = near[rows, :1, None]
        found[rows] = np.any(near[near[rows]] == owner, axis=2)
    return found


def _expanded(near: np.ndarray, half: int) -> sparse.csr_array:
    """Ones (N, N) where q is in the expanded k-reciprocal set of p."""
    reciprocal, halves = _reciprocal(near), _reciprocal(near[:, :half])
    pairs = []
    step = max(1, _NUMBERS // (near.shape[1] ** 2 * half))
    for start in range(0, len(near), step):
        rows = slice(start, start + step)
        lists, kept = near[rows], reciprocal[rows]  # (b, k)
        others = near[lists, :half]  # (b, k, k/2): the lists of the list
        theirs = halves[lists] & kept[:, :, None]
        among = (others[..., None] == lists[:, None, None]) & kept[:, None, None]
        agreed = np.sum(np.any(among, axis=3) & theirs, axis=2)
        grows = 3 * agreed > 2 * np.sum(theirs, axis=2)
        theirs &= grows[:, :, None]
        for chosen, items in ((kept, lists), (theirs, others)):
            pairs.append(np.stack([start + np.nonzero(chosen)[0], items[chosen]]))
    owners, items = np.concatenate(pairs, axis=1)
    ones = np.ones(len(owners), np.float32)
    return sparse.csr_array((ones, (owners, items)), shape=(len(near), len(near)))


def _encoding(
    sets: sparse.csr_array, unit: np.ndarray, scale: np.ndarray
) -> sparse.csr_array:
    """V: exp(-d) on the sets, every row divided by its sum."""
    sets.sum_duplicates()
    owners = np.repeat(np.arange(len(unit)), np.diff(sets.indptr))
    step = max(1, _NUMBERS // unit.shape[1])
    for start in range(0, len(owners), step):
        part = slice(start, start + step)
        p, q = owners[part], sets.indices[part]
        similarities = np.einsum("nd,nd->n", unit[p], unit[q])
        sets.data[part] = np.exp(-_scaled(similarities, scale[p]))
    total = np.add.reduceat(sets.data, sets.indptr[:-1])  # none is empty: p is in its
    sets.data /= total[owners]
    return sets


def _averaged(encoding: sparse.csr_array, near: np.ndarray) -> sparse.csr_array:
    """The mean of V over the items of each list (N, k2)."""
    size, k2 = near.shape
    shares = np.full(near.size, 1 / k2, np.float32)
    places = np.arange(size + 1) * k2
    mean = sparse.csr_array((shares, near.ravel(), places), shape=(size, size))
    return (mean @ encoding).tocsr()


def _shared(
    queries: sparse.csr_array, gallery: sparse.csc_array
) -> Iterator[np.ndarray]:
    """Yields sum_j min(V_pj, V_qj) for all gallery items, (G,), of each query."""
    lengths = np.diff(gallery.indptr)
    for query in range(queries.shape[0]):
        row = slice(*queries.indptr[query : query + 2])
        columns, values = queries.indices[row], queries.data[row]
        length = lengths[columns]
        before = np.cumsum(length) - length
        places = np.repeat(gallery.indptr[columns] - before, length)
        places += np.arange(len(places))
        least = np.minimum(np.repeat(values, length), gallery.data[places])
        items = gallery.indices[places]
        yield np.bincount(items, weights=least, minlength=gallery.shape[0])
