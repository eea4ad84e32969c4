"""Exact retrieval measures and nearest neighbours, one block of queries at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metric.search import Search


def retrieval_measures(
    queries: ArrayLike,
    query_labels: ArrayLike,
    *,
    gallery: ArrayLike | None = None,
    gallery_labels: ArrayLike | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    block_size: int | None = None,
    count_singletons: bool = False,
    per_query: bool = False,
) -> dict[str, Any]:
    """How well items of the same class are ranked first by cosine similarity.

    With R relevant items (same label) in the gallery of a query, rel(l) = 1 where the
    item of rank l is relevant, and prec(l) the share of relevant items up to rank l:

        recall@k = [some rel(l) = 1, l <= k],  R-precision = prec(R),
        AP@R = 1/R sum_{l<=R} prec(l) rel(l),  RR = 1 / (rank of the first relevant),

    each averaged over queries (Musgrave et al. 2020, section 4). The ranking is exact
    and over the whole gallery; equal similarities rank the lower gallery index first.

    Args:
      queries: (Q, D) raw embeddings, normalised inside, ranked in float32.
      query_labels: (Q,) class ids of any sortable type.
      gallery: (G, D) raw embeddings, or None: each query is ranked against all others.
      gallery_labels: (G,) class ids; given exactly when `gallery` is.
      ks: the k of recall@k, each >= 1; one larger than the gallery means all of it.
      block_size: queries ranked at once, >= 1; None bounds a block to 23 MiB.
      count_singletons: True counts queries without a relevant item as complete misses,
        as published scripts do; False leaves them out of all means.
      per_query: also return the values of each query, of which the measures are means.

    Returns:
      `recall_at_k` {k: mean}, `map_at_r`, `r_precision`, `mrr`, all in [0, 1], and
      `num_dropped`, the number of queries left out. Means over no query are NaN.
      With `per_query` also `per_query`: the first four with arrays (Q,) in place of
      the means, NaN where a query is left out.

    Raises:
      ValueError: lengths or widths disagree, embeddings are not finite, or `ks` or
        `block_size` hold anything below 1.
    """
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("give gallery and gallery_labels together, or neither")
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be 1 or more, got {tuple(ks)}")
    search = Search(queries, gallery, block_size)
    query_ids, gallery_ids = _class_ids(query_labels, gallery_labels)
    search.check_labels(query_ids, gallery_ids)

    relevant_items = _ItemsByClass(gallery_ids, query_ids.max(initial=-1) + 1)
    relevant = relevant_items.counts[query_ids] - (gallery is None)  # R of each query
    # In the order of R, a large class lengthens only the lists of its own queries.
    order = np.argsort(relevant, kind="stable")
    order = order[relevant[order] > 0]
    rank = np.empty(len(order), np.int64)
    r_precision, average_precision = np.empty((2, len(order)))
    for part, rows in search.blocks(order):
        scores = search.scores(rows)
        length = _few_lengths(int(relevant_items.counts[query_ids[rows]].max()))
        _, nearest = search.top(scores, min(length, len(gallery_ids)), len(rows))
        hits = gallery_ids[nearest] == query_ids[rows, None]
        rank[part] = 1 + np.argmax(hits, axis=1)
        if not hits.any(axis=1).all():
            members = relevant_items.members(query_ids[rows], length)
            rank[part] = search.first_rank(scores, members)
        r_precision[part], average_precision[part] = _precision_at_r(
            hits, relevant[rows]
        )

    counted = len(relevant) if count_singletons else len(order)

    def mean(values: np.ndarray) -> float:
        return float(np.sum(values) / counted) if counted else math.nan

    def each(values: np.ndarray) -> np.ndarray:
        every = np.full(len(relevant), 0.0 if count_singletons else np.nan)
        every[order] = values
        return every

    def reduced(reduce: Callable[[np.ndarray], Any]) -> dict[str, Any]:
        return {
            "recall_at_k": {k: reduce(rank <= k) for k in ks},
            "map_at_r": reduce(average_precision),
            "r_precision": reduce(r_precision),
            "mrr": reduce(1 / rank),
        }

    found = reduced(mean) | {"num_dropped": len(relevant) - counted}
    return found | {"per_query": reduced(each)} if per_query else found


def nearest_neighbours(
    queries: ArrayLike,
    gallery: ArrayLike | None = None,
    *,
    k: int,
    block_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k gallery items of largest cosine similarity, exactly.

    Equal similarities rank the lower gallery index first.

    Args:
      queries: (Q, D) raw embeddings, normalised inside, compared in float32.
      gallery: (G, D) raw embeddings, or None: the neighbours of each query among all
        others, never itself.
      k: number of neighbours, >= 1.
      block_size: queries ranked at once, >= 1; None bounds a block to 23 MiB.

    Returns:
      (Q, k) int64 gallery indices and (Q, k) float32 similarities, best first. Where
      the gallery has fewer than k items, the rest are index -1, similarity -inf.

    Raises:
      ValueError: widths disagree, embeddings are not finite, or `k` or `block_size` is
        below 1.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    search = Search(queries, gallery, block_size)
    num_queries = search.num_queries
    indices = np.full((num_queries, k), -1, np.int64)
    similarities = np.full((num_queries, k), -np.inf, np.float32)
    found = min(k, search.num_items - (gallery is None))
    if found > 0:
        for part, rows in search.blocks(np.arange(num_queries)):
            similarities[part, :found], indices[part, :found] = search.top(
                search.scores(rows), found, len(rows)
            )
    return indices, similarities


class _ItemsByClass:
    """Gallery indices sorted by class, so that those of a class are one slice."""

    def __init__(self, ids: np.ndarray, num_classes: int):
        self.order = np.argsort(ids, kind="stable").astype(np.int32)
        self.counts = np.bincount(ids, minlength=num_classes)
        self.starts = np.cumsum(self.counts) - self.counts

    def members(self, ids: np.ndarray, length: int) -> np.ndarray:
        """Ascending gallery indices (b, length) of classes (b,), filled with -1."""
        offset = np.arange(length)
        position = self.starts[ids, None] + offset
        items = np.take(self.order, position, mode="clip")
        return np.where(offset < self.counts[ids, None], items, -1)


def _precision_at_r(
    hits: np.ndarray, relevant: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """R-precision and average precision at R, (b,) each, of hits (b, k) by rank."""
    position = np.arange(1, hits.shape[1] + 1)
    hits = hits & (position <= relevant[:, None])
    found = np.cumsum(hits, axis=1)
    average = np.sum(found / position, axis=1, where=hits) / relevant
    return found[:, -1] / relevant, average


def _class_ids(
    query_labels: ArrayLike, gallery_labels: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of any type as int32 ids from 0, the same for queries and gallery."""
    queries = np.asarray(query_labels)
    items = queries if gallery_labels is None else np.asarray(gallery_labels)
    _, ids = np.unique(np.concatenate([queries, items]), return_inverse=True)
    ids = ids.astype(np.int32)
    return ids[: len(queries)], ids[len(queries) :]


def _few_lengths(length: int) -> int:
    """The next power of two, so that few list lengths are compiled."""
    return 1 << (length - 1).bit_length()
