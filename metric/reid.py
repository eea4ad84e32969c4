"""Re-identification: match characteristic and average precision across cameras."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from metric import groups, precision
from metric.search import Search, check_column


def reid_measures(
    queries: ArrayLike,
    query_labels: ArrayLike,
    query_cameras: ArrayLike,
    gallery: ArrayLike,
    gallery_labels: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    ks: Sequence[int] = (1, 5, 10, 20),
    junk: Sequence[Any] = (-1,),
    distractors: Sequence[Any] = (),
    ap: Literal["plain", "trapezoid"] = "plain",
    block_size: int | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """How well a person is found again in the pictures of other cameras.

    From the ranking of a query by cosine similarity, every item with its id *and* its
    camera and every item with a junk id are deleted (Zheng et al. 2015, section 4).
    Matches are the items with its id that remain, R of them at the ranks p_1 < … < p_R:

        CMC-k = [p_1 <= k],   plain AP = 1/R sum_j j / p_j,
        trapezoid AP = 1/R sum_j (before_j + j / p_j) / 2,

    where before_j = (j - 1) / (p_j - 1) is the precision one rank above the match, 1
    where there is none: the area below the recall-precision line of the scripts of
    Market-1501 and MARS. Each is averaged over the queries that have a match. Equal
    similarities rank the lower gallery index first.

    Args:
      queries: (Q, D) raw embeddings, normalised inside, ranked in float32.
      query_labels: (Q,) person ids of any sortable type.
      query_cameras: (Q,) camera ids of any sortable type.
      gallery: (G, D) raw embeddings.
      gallery_labels: (G,) person ids.
      gallery_cameras: (G,) camera ids.
      ks: the k of CMC-k, each >= 1.
      junk: ids that are deleted from every ranking, as pictures that count for nothing;
        the released evaluation of MARS has (-1, 0).
      distractors: ids that stay, as items that match nobody. Queries whose own id is
        junk or a distractor have no match.
      ap: "plain" or "trapezoid"; which one a published mAP is makes up to a few points.
      block_size: queries ranked at once, >= 1; None bounds a block to 23 MiB.
      mesh: devices over which the gallery is split, as in `retrieval_measures`.

    Returns:
      `cmc_at_k` {k: mean} and `map`, in [0, 1], and `num_dropped`, the number of
      queries without a match. Means over no query are NaN.

    Raises:
      ValueError: lengths or widths disagree, embeddings are not finite, `ks` or
        `block_size` hold anything below 1, an id is both junk and a distractor, or `ap`
        is neither of the two.
    """
    if any(k < 1 for k in ks):
        raise ValueError(f"ks must be 1 or more, got {tuple(ks)}")
    if ap not in ("plain", "trapezoid"):
        raise ValueError(f"ap must be plain or trapezoid, got {ap!r}")
    if both := set(junk) & set(distractors):
        raise ValueError(f"an id is junk or a distractor, not both: {list(both)}")
    rows: Any = gallery if isinstance(gallery, jax.Array) else np.asarray(gallery)
    labels, cameras = np.asarray(gallery_labels), np.asarray(gallery_cameras)
    check_column("gallery_labels", labels, len(rows))
    check_column("gallery_cameras", cameras, len(rows))
    if (thrown := _among(labels, junk)).any():
        rows, labels, cameras = (x[~thrown] for x in (rows, labels, cameras))
    search = Search(queries, rows, block_size, mesh)
    query_ids, ids = groups.class_ids(query_labels, labels)
    search.check_labels(query_ids, ids)
    query_shots, shots = _shots(query_ids, query_cameras, ids, cameras)
    search.hide_equal(query_shots, shots)

    items = groups.ItemsByClass(ids, query_ids.max(initial=-1) + 1)
    same_shot = np.bincount(shots, minlength=query_shots.max(initial=-1) + 1)
    matches = items.counts[query_ids] - same_shot[query_shots]  # R of each query
    matches[_among(np.asarray(query_labels), distractors)] = 0
    # In the order of the class size, a large class lengthens only its own lists.
    order = np.argsort(items.counts[query_ids], kind="stable")
    order = order[matches[order] > 0]
    first = np.empty(len(order), np.int64)
    average = np.empty(len(order))
    for part, chosen in search.blocks(order):
        length = groups.few_lengths(int(items.counts[query_ids[chosen]].max()))
        members = items.members(query_ids[chosen], length)
        ranks = search.ranks(search.scores(chosen), members)
        first[part], average[part] = precision.of_ranks(ranks, ap)

    def mean(values: np.ndarray) -> float:
        return float(np.mean(values)) if len(order) else math.nan

    return {
        "cmc_at_k": {k: mean(first <= k) for k in ks},
        "map": mean(average),
        "num_dropped": len(query_ids) - len(order),
    }


def _shots(
    query_ids: np.ndarray, query_cameras: ArrayLike, ids: np.ndarray, cameras: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """One number for each pair of an id and a camera, of queries and of items."""
    check_column("query_cameras", np.asarray(query_cameras), len(query_ids))
    query_cameras, cameras = groups.class_ids(query_cameras, cameras)
    both = np.int64(1) + max(query_cameras.max(initial=0), cameras.max(initial=0))
    return groups.class_ids(query_ids * both + query_cameras, ids * both + cameras)


def _among(labels: np.ndarray, chosen: Sequence[Any]) -> np.ndarray:
    """Which labels are one of the chosen ids."""
    return np.isin(labels, list(chosen)) if chosen else np.zeros(labels.shape, bool)
