"""Exact retrieval measures and nearest neighbours, one block of queries at a time."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from metric import groups, precision
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
    mesh: Mesh | None = None,
    per_query: bool = False,
    whole_ranking: bool = False,
    average: Literal["query", "class"] = "query",
) -> dict[str, Any]:
    """How well items of the same class are ranked first by cosine similarity.

    With R relevant items (same label) in the gallery of a query, rel(l) = 1 where the
    item of rank l is relevant, and prec(l) the share of relevant items up to rank l:

        recall@k = [some rel(l) = 1, l <= k],  R-precision = prec(R),
        AP@R = 1/R sum_{l<=R} prec(l) rel(l),  RR = 1 / (rank of the first relevant),

    each averaged over queries (Musgrave et al. 2020, section 4). AP over the whole
    ranking is 1/R sum_j j / p_j, with p_1 < … < p_R the ranks of the relevant items.
    Rankings are exact; equal similarities rank the lower gallery index first.

    Args:
      queries: (Q, D) raw embeddings, normalised inside, ranked in float32.
      query_labels: (Q,) class ids of any sortable type.
      gallery: (G, D) raw embeddings, or None: each query is ranked against all others.
      gallery_labels: (G,) class ids; given exactly when `gallery` is.
      ks: the k of recall@k, each >= 1; one larger than the gallery means all of it.
      block_size: queries ranked at once, >= 1; None bounds a block to 23 MiB.
      count_singletons: True counts queries without a relevant item as complete misses,
        as published scripts do; False leaves them out of all means.
      mesh: devices over which the gallery is split, each holding and searching its
        part of the rows; None is the default device. Similarities, and so the ranking,
        are those of one device, up to the rounding of the matrix products.
      per_query: also return the values of each query, of which the measures are means.
      whole_ranking: also return `map`, the mean of AP over the whole ranking, which
        takes the rank of every relevant item.
      average: means over all queries, or over classes of the means within each.

    Returns:
      `recall_at_k` {k: mean}, `map_at_r`, `r_precision`, `mrr`, all in [0, 1], and
      `num_dropped`, the number of queries left out. Means over no query are NaN.
      With `per_query` also `per_query`: the measures with arrays (Q,) in place of
      the means, NaN where a query is left out.

    Raises:
      ValueError: lengths or widths disagree, embeddings are not finite, `ks` or
        `block_size` hold anything below 1, or `average` is neither of the two.
    """
    if average not in ("query", "class"):
        raise ValueError(f"average must be query or class, got {average!r}")
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("give gallery and gallery_labels together, or neither")
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be 1 or more, got {tuple(ks)}")
    search = Search(queries, gallery, block_size, mesh)
    query_ids, gallery_ids = groups.class_ids(query_labels, gallery_labels)
    search.check_labels(query_ids, gallery_ids)

    relevant_items = groups.ItemsByClass(gallery_ids, query_ids.max(initial=-1) + 1)
    relevant = relevant_items.counts[query_ids] - (gallery is None)  # R of each query
    # In the order of R, a large class lengthens only the lists of its own queries.
    order = np.argsort(relevant, kind="stable")
    order = order[relevant[order] > 0]
    rank = np.empty(len(order), np.int64)
    r_precision, average_precision, whole = np.empty((3, len(order)))
    for part, rows in search.blocks(order):
        scores = search.scores(rows)
        length = groups.few_lengths(int(relevant_items.counts[query_ids[rows]].max()))
        _, nearest = search.top(scores, min(length, len(gallery_ids)), len(rows))
        hits = gallery_ids[nearest] == query_ids[rows, None]
        rank[part] = 1 + np.argmax(hits, axis=1)
        members = relevant_items.members(query_ids[rows], length)
        if whole_ranking:
            ranks = search.ranks(scores, members)
            rank[part], whole[part] = precision.of_ranks(ranks)
        elif not hits.any(axis=1).all():
            rank[part] = search.first_rank(scores, members)
        r_precision[part], average_precision[part] = precision.at_r(
            hits, relevant[rows]
        )

    counted = np.arange(len(relevant)) if count_singletons else order
    classes, sizes = np.unique(query_ids[counted], return_counts=True)
    place = np.searchsorted(classes, query_ids[order])

    def mean(values: np.ndarray) -> float:
        if not len(counted):
            return math.nan
        if average == "class":
            return float(np.mean(np.bincount(place, values, len(classes)) / sizes))
        return float(np.sum(values) / len(counted))

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
            **({"map": reduce(whole)} if whole_ranking else {}),
        }

    found = reduced(mean) | {"num_dropped": len(relevant) - len(counted)}
    return found | {"per_query": reduced(each)} if per_query else found


def nearest_neighbours(
    queries: ArrayLike,
    gallery: ArrayLike | None = None,
    *,
    k: int,
    block_size: int | None = None,
    mesh: Mesh | None = None,
    approx: bool = False,
    recall_target: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """The k gallery items of largest cosine similarity, exactly unless `approx`.

    Equal similarities rank the lower gallery index first where the search is exact.

    Args:
      queries: (Q, D) raw embeddings, normalised inside, compared in float32.
      gallery: (G, D) raw embeddings, or None: the neighbours of each query among all
        others, never itself.
      k: number of neighbours, >= 1.
      block_size: queries ranked at once, >= 1; None bounds a block to 23 MiB.
      mesh: devices over which the gallery is split, as in `retrieval_measures`.
      approx: True takes `jax.lax.approx_max_k` (Chern et al. 2022), which misses a few
        of the k and is quicker on a TPU; elsewhere jax sorts and finds all of them.
      recall_target: the share of the k to be found, in expectation, in (0, 1).

    Returns:
      (Q, k) int64 gallery indices and (Q, k) float32 similarities, best first. Where
      the gallery has fewer than k items, the rest are index -1, similarity -inf.

    Raises:
      ValueError: widths disagree, embeddings are not finite, `k` or `block_size` is
        below 1, or `recall_target` is not between 0 and 1.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    if not 0 < recall_target < 1:
        raise ValueError(f"recall_target must be in (0, 1), got {recall_target}")
    search = Search(queries, gallery, block_size, mesh)
    recall = recall_target if approx else None
    num_queries = search.num_queries
    indices = np.full((num_queries, k), -1, np.int64)
    similarities = np.full((num_queries, k), -np.inf, np.float32)
    found = min(k, search.num_items - (gallery is None))
    if found > 0:
        for part, rows in search.blocks(np.arange(num_queries)):
            similarities[part, :found], indices[part, :found] = search.top(
                search.scores(rows), found, len(rows), recall
            )
    return indices, similarities
