"""Batches of P classes with K images each, as a pure function of (seed, step)."""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def class_balanced_plan(
    labels: ArrayLike,
    *,
    classes_per_batch: int,
    images_per_class: int,
    seed: int,
    min_images: int = 1,
) -> Callable[[int], np.ndarray]:
    """Plans batches of P classes x K images (the protocol of Wang et al. 2019's code).

    Every epoch permutes the classes, walks through them in groups of P and drops a last
    group that is short. A class of K images or more gives K of them without
    replacement, a smaller one repeats all of its images in turn; a class of one image
    then gives positives at distance 0, which `min_images=2` leaves out.

    Args:
      labels: (N,) class ids of any sortable type.
      classes_per_batch: P >= 1.
      images_per_class: K >= 1.
      seed: random seed, >= 0.
      min_images: classes of fewer images are never drawn.

    Returns:
      `plan`: plan(n) gives the (P * K,) int64 row numbers of the n-th batch, K
      consecutive ones a class, without replaying the batches before it.

    Raises:
      ValueError: fewer than P classes qualify, or P or K is below 1.
    """
    if images_per_class < 1:
        raise ValueError(f"images_per_class must be 1 or more, got {images_per_class}")
    members = _members(labels, min_images)
    per_epoch = _per_epoch(len(members), classes_per_batch, min_images)
    # A partial of a module's function, so that worker processes can be sent the plan.
    return functools.partial(
        _batch, members, classes_per_batch, images_per_class, per_epoch, seed
    )


def _batch(
    members: list[np.ndarray],
    classes_per_batch: int,
    images_per_class: int,
    per_epoch: int,
    seed: int,
    n: int,
) -> np.ndarray:
    epoch, group = divmod(int(n), per_epoch)
    start = group * classes_per_batch
    order = _class_order(len(members), seed, epoch)
    # A third word keeps these streams apart from that of the epoch's permutation.
    rng = np.random.default_rng((seed, epoch, 1 + group))
    return np.concatenate(
        [
            _draw(rng, members[c], images_per_class)
            for c in order[start : start + classes_per_batch]
        ]
    )


@functools.lru_cache(maxsize=16)
def _class_order(classes: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(classes)


def epoch_batches(
    labels: ArrayLike, classes_per_batch: int, min_images: int = 1
) -> int:
    """Number of batches after which every class was offered once.

    Args:
      labels: (N,) class ids.
      classes_per_batch: P >= 1.
      min_images: classes of fewer images do not count.

    Returns:
      Number of whole groups of P classes, >= 1.

    Raises:
      ValueError: fewer than P classes qualify, or P is below 1.
    """
    available = len(_members(labels, min_images))
    return _per_epoch(available, classes_per_batch, min_images)


def _per_epoch(available: int, classes_per_batch: int, min_images: int) -> int:
    if classes_per_batch < 1:
        raise ValueError(
            f"classes_per_batch must be 1 or more, got {classes_per_batch}"
        )
    if available < classes_per_batch:
        raise ValueError(
            f"a batch needs {classes_per_batch} classes of at least {min_images} "
            f"images, the labels have {available}; lower classes_per_batch or "
            "min_images"
        )
    return available // classes_per_batch


def _members(labels: ArrayLike, min_images: int) -> list[np.ndarray]:
    """Row numbers of every class of at least `min_images` rows."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must have one axis, got shape {labels.shape}")
    order = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    classes = np.split(order, np.cumsum(counts)[:-1])
    return [rows for rows in classes if len(rows) >= max(1, min_images)]


def _draw(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) < count:
        return np.resize(rng.permutation(rows), count)
    return rng.choice(rows, count, replace=False)
