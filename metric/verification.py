"""Verification of pairs: ROC, TAR at FAR, equal error rate, best accuracy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metric import groups
from metric.search import Search, check_column


def verification_measures(
    similarities: ArrayLike,
    same: ArrayLike,
    *,
    fars: Sequence[float] = (1e-3, 1e-2, 1e-1),
) -> dict[str, Any]:
    """How well a threshold on similarity tells pairs of one class from other pairs.

    A pair is accepted where its similarity is >= t. TAR(t) is the share of accepted
    pairs among those of one class, FAR(t) among the others (Fawcett 2006; Huang et al.
    2007 for faces):

        TAR at FAR f = TAR of the lowest t with FAR(t) <= f, never interpolated: with N
        pairs of two classes and f < 1/N no such pair is accepted,
        AUC = P(s+ > s-) + P(s+ = s-) / 2, the area below the ROC,
        EER = FAR where FAR = 1 - TAR, on the ROC with its points joined by lines,
        accuracy = the largest share of right decisions that any t gives.

    Pairs of equal similarity are accepted together, so their order does not matter.

    Args:
      similarities: (P,) similarities, larger for more alike; for two lists of
        embeddings `jnp.sum(metric.normalize(x) * metric.normalize(y), -1)`; distances
        with the sign changed.
      same: (P,) booleans, True for pairs of one class.
      fars: the f of TAR at FAR, each in [0, 1].

    Returns:
      `tar_at_far` {f: TAR}, `threshold_at_far` {f: t}, `eer`, `auc`, `accuracy`,
      `threshold` (that of the accuracy, the highest of equals), `roc`, a dict of the
      arrays `far`, `tar` and `threshold` from (0, 0) to (1, 1) at the corners of the
      ROC, and the counts `num_same` and `num_different`. Where either count is 0 all
      measures are NaN and the arrays are empty: there is nothing to tell apart.

    Raises:
      ValueError: lengths disagree, a similarity is not finite, or a FAR is not in
        [0, 1].
    """
    similarities, same = np.asarray(similarities), np.asarray(same)
    if similarities.ndim != 1:
        raise ValueError(f"similarities must be (pairs,), got {similarities.shape}")
    check_column("same", same, len(similarities))
    if not np.isfinite(similarities).all():
        raise ValueError("similarities hold NaN or infinity")
    if similarities.dtype != np.float64:
        similarities = similarities.astype(np.float32)
    same = same.astype(bool)
    return _measures(similarities[same], similarities[~same], fars)


def all_pairs_verification(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    fars: Sequence[float] = (1e-3, 1e-2, 1e-1),
    block_size: int | None = None,
    max_pairs: int = 200_000_000,
) -> dict[str, Any]:
    """`verification_measures` of all unordered pairs of a labelled set, exactly.

    Similarities are found in blocks and kept, 4 bytes a pair, then sorted: 20,000 rows
    take 0.8 GB. For more rows draw pairs and call `verification_measures`.

    Args:
      embeddings: (N, D) raw embeddings, normalised inside, compared in float32.
      labels: (N,) class ids of any sortable type.
      fars: the f of TAR at FAR, each in [0, 1].
      block_size: rows compared with all others at once, >= 1; None bounds a block to
        23 MiB.
      max_pairs: more pairs than these are refused.

    Returns:
      What `verification_measures` returns.

    Raises:
      ValueError: lengths disagree, embeddings are not finite, there are more than
        `max_pairs` pairs, or `fars` or `block_size` is out of range.
    """
    search = Search(embeddings, None, block_size)
    ids, _ = groups.class_ids(labels, None)
    check_column("labels", ids, search.num_queries)
    size = search.num_queries
    pairs = size * (size - 1) // 2
    if pairs > max_pairs:
        raise ValueError(
            f"{size} rows have {pairs} pairs, more than max_pairs={max_pairs}; raise "
            "it (4 bytes a pair) or give verification_measures a sample of pairs"
        )
    counts = np.bincount(ids).astype(np.int64)
    found = np.empty(int(np.sum(counts * (counts - 1)) // 2), np.float32)
    others = np.empty(pairs - len(found), np.float32)
    column = np.arange(size)
    done = [0, 0]
    for _, rows in search.blocks(column):
        scores = np.asarray(search.scores(rows))[: len(rows), :size]
        later = column > rows[:, None]  # each pair once
        positive = ids[rows, None] == ids
        for which, (kept, mask) in enumerate(
            ((found, later & positive), (others, later & ~positive))
        ):
            chosen = scores[mask]
            kept[done[which] : done[which] + len(chosen)] = chosen
            done[which] += len(chosen)
    return _measures(found, others, fars)


def _measures(
    positive: np.ndarray, negative: np.ndarray, fars: Sequence[float]
) -> dict[str, Any]:
    """The measures of similarities of the two kinds, which are sorted in place."""
    if any(not 0 <= far <= 1 for far in fars):
        raise ValueError(f"fars must be in [0, 1], got {tuple(fars)}")
    counts = {"num_same": len(positive), "num_different": len(negative)}
    if not len(positive) or not len(negative):
        unknown = dict.fromkeys(fars, math.nan)
        single = dict.fromkeys(("eer", "auc", "accuracy", "threshold"), math.nan)
        roc = {name: np.empty(0) for name in ("far", "tar", "threshold")}
        both = {"tar_at_far": unknown, "threshold_at_far": dict(unknown)}
        return {**both, **single, "roc": roc, **counts}
    positive.sort()
    negative.sort()
    threshold, accepted, wrong = _corners(positive, negative)
    tar, far = accepted / len(positive), wrong / len(negative)
    right = accepted + (len(negative) - wrong)
    best = int(np.argmax(right))
    limit = {f: _threshold_at_far(negative, f) for f in fars}
    return {
        "tar_at_far": {
            f: float(_number_from(positive, t) / len(positive))
            for f, t in limit.items()
        },
        "threshold_at_far": {f: float(t) for f, t in limit.items()},
        "eer": _equal_error_rate(far, tar),
        "auc": float(np.sum(np.diff(far) * (tar[1:] + tar[:-1])) / 2),
        "accuracy": float(right[best] / (len(positive) + len(negative))),
        "threshold": float(threshold[best]),
        "roc": {"far": far, "tar": tar, "threshold": threshold},
        **counts,
    }


def _number_from(values: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    """How many of the ascending values are >= each threshold."""
    return len(values) - np.searchsorted(values, threshold, side="left")


def _corners(
    positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, descending, and the pairs of each kind that they accept.

    The ROC bends only where a similarity of a positive pair is passed, so two points
    for each of these, just above it and at it, are all of its corners.
    """
    values = np.unique(positive)[::-1]
    infinity = values.dtype.type(np.inf)
    at_and_above = np.stack([np.nextafter(values, infinity), values], axis=1).ravel()
    threshold = np.concatenate([[infinity], at_and_above, [-infinity]])
    accepted = _number_from(positive, threshold)
    wrong = _number_from(negative, threshold)
    new = (np.diff(accepted) > 0) | (np.diff(wrong) > 0)
    kept = np.concatenate([[True], new])
    return threshold[kept], accepted[kept], wrong[kept]


def _threshold_at_far(negative: np.ndarray, far: float) -> np.ndarray:
    """The lowest threshold that accepts at most a share `far` of ascending values."""
    allowed = math.floor(far * len(negative))
    if (allowed + 1) / len(negative) <= far:  # the product was rounded down
        allowed += 1
    infinity = negative.dtype.type(np.inf)
    if allowed >= len(negative):
        return -infinity
    return np.nextafter(negative[-1 - allowed], infinity)


def _equal_error_rate(far: np.ndarray, tar: np.ndarray) -> float:
    """FAR where the line through the points of an ROC crosses FAR = 1 - TAR."""
    excess = far - (1 - tar)  # from -1 to 1, never falling
    after = int(np.argmax(excess >= 0))
    step = excess[after] - excess[after - 1]
    share = -excess[after - 1] / step
    return float(far[after - 1] + share * (far[after] - far[after - 1]))
