"""Clustering measures of an embedding after k-means: NMI, F1, Rand index, purity."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from sklearn import cluster, exceptions
from threadpoolctl import threadpool_limits

from metric import distances

_normalize = jax.jit(distances.normalize)


def clustering_measures(
    embeddings: ArrayLike, labels: ArrayLike, *, seed: int = 0, restarts: int = 1
) -> dict[str, float]:
    """How well k-means on unit embeddings, one cluster a class, finds the classes.

    The best of `restarts` runs of k-means++ and Lloyd's algorithm (scikit-learn) is
    scored by `agreement`. The choice of the seed moves NMI by up to about a point, so
    report it and the restarts with the number.

    Args:
      embeddings: (N, D) raw embeddings, normalised inside.
      labels: (N,) class ids of any sortable type.
      seed: random seed; the same seed gives the same result.
      restarts: number of runs, >= 1, of which the tightest counts.

    Returns:
      `nmi`, `f1`, `rand_index` and `purity`, all in [0, 1].

    Raises:
      ValueError: there is no row, lengths disagree, embeddings are not finite, or
        `restarts` is below 1.
    """
    points, labels = np.asarray(embeddings), np.asarray(labels)
    if points.ndim != 2 or labels.shape != points.shape[:1] or not labels.size:
        raise ValueError(
            "embeddings must be (N, D) and labels (N,) with N >= 1, got "
            f"{points.shape} and {labels.shape}"
        )
    if restarts < 1:
        raise ValueError(f"restarts must be 1 or more, got {restarts}")
    if not np.isfinite(points.astype(np.float32)).all():
        raise ValueError(
            "embeddings hold NaN or infinity; k-means needs finite numbers"
        )
    means = cluster.KMeans(
        len(np.unique(labels)), n_init=restarts, max_iter=1000, random_state=seed
    )
    # One thread: more add their sums in any order, so that a seed would not fix the
    # result, and wait for each other ten times as long where the machine is busy.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct points than classes is a bad embedding, which the score says.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        clusters = means.fit_predict(np.asarray(_normalize(jnp.asarray(points))))
    return agreement(clusters, labels)


def agreement(clusters: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Normalised mutual information and other measures of two partitions.

    NMI = 2 I(C; Y) / (H(C) + H(Y)), natural logarithms. F1 is the harmonic mean of the
    precision and recall of "same cluster" as a prediction of "same class" over all
    unordered pairs, 2 TP / (pairs within clusters + pairs within classes). The Rand
    index is the share of pairs that both put together or both keep apart. Each is 1
    where its denominator is 0. Purity is the share of items in the largest class of
    their cluster.

    Args:
      clusters: (N,) cluster ids, N >= 1.
      labels: (N,) class ids.

    Returns:
      `nmi`, `f1`, `rand_index` and `purity`, all in [0, 1].
    """
    joint, owner, of_cluster, of_class = _overlaps(
        np.asarray(clusters), np.asarray(labels)
    )
    total = joint.sum()
    entropy = _entropy(of_cluster / total) + _entropy(of_class / total)
    information = max(0.0, entropy - _entropy(joint / total))
    together, pairs = _pairs(joint), _pairs(of_cluster) + _pairs(of_class)
    every = _pairs(total)
    largest = np.zeros_like(of_cluster)
    np.maximum.at(largest, owner, joint)
    return {
        "nmi": min(1.0, 2 * information / entropy) if entropy > 0 else 1.0,
        "f1": 2 * together / pairs if pairs else 1.0,
        "rand_index": 1 - (pairs - 2 * together) / every if every else 1.0,
        "purity": float(largest.sum() / total),
    }


def _overlaps(
    clusters: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sizes of the overlaps, the cluster of each; sizes of clusters and of classes."""
    _, cluster_ids, of_cluster = np.unique(
        clusters, return_inverse=True, return_counts=True
    )
    _, class_ids, of_class = np.unique(labels, return_inverse=True, return_counts=True)
    both, joint = np.unique(cluster_ids * len(of_class) + class_ids, return_counts=True)
    return joint, both // len(of_class), of_cluster, of_class


def _entropy(share: np.ndarray) -> float:
    return float(-np.sum(share * np.log(share)))


def _pairs(sizes: np.ndarray) -> int:
    return int(np.sum(sizes * (sizes - 1)) // 2)
