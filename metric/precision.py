"""Average precision of rankings, from their hits or from the ranks of their matches."""

import numpy as np


def at_r(hits: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R-precision and average precision at R.

    Args:
      hits: (b, k) booleans by rank, k >= R.
      relevant: (b,) R of each query, >= 1.

    Returns:
      (b,) each.
    """
    position = np.arange(1, hits.shape[1] + 1)
    hits = hits & (position <= relevant[:, None])
    found = np.cumsum(hits, axis=1)
    average = np.sum(found / position, axis=1, where=hits) / relevant
    return found[:, -1] / relevant, average


def of_ranks(ranks: np.ndarray, ap: str = "plain") -> tuple[np.ndarray, np.ndarray]:
    """First rank and average precision over the whole ranking.

    Args:
      ranks: (b, R) ranks from 1 of the matches, in any order; 0 is no match.
      ap: "plain", 1/R sum_j j / p_j, or "trapezoid", as in `metric.reid_measures`.

    Returns:
      (b,) each.
    """
    there = ranks > 0
    place = np.sort(np.where(there, ranks, np.iinfo(np.int32).max), axis=1)
    number = np.arange(1, ranks.shape[1] + 1)
    matches = np.sum(there, axis=1)
    precision = number / place
    if ap == "trapezoid":
        before = np.where(place == 1, 1, (number - 1) / np.maximum(place - 1, 1))
        precision = (before + precision) / 2
    counted = number <= matches[:, None]
    return place[:, 0], np.sum(precision, axis=1, where=counted) / matches
