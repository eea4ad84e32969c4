"""Label noise of known rate, for studies: symmetric, pair-flip and open-set.

Pure numpy functions of a seed. An exact share of the rows is changed, round(rate N)
(half to even) of them, drawn without replacement: arms of a study then differ by which
rows are wrong, not by how many.
"""

import numpy as np
from numpy.typing import ArrayLike


def symmetric_noise(
    seed: int, labels: ArrayLike, rate: float, *, classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gives a share of the rows another class, each other class being as likely.

    Args:
      seed: random seed, >= 0.
      labels: (N,) integer class ids.
      rate: share of the rows to change, in [0, 1].
      classes: number of classes 0 … C - 1 to draw from; None draws from those that
        occur in `labels`.

    Returns:
      New labels (N,) of the same type, and the (N,) booleans of what was changed; a
      changed label always differs from the old one.

    Raises:
      ValueError: a rate out of range, fewer than two classes, labels that are not (N,)
        integers or not below `classes`.
    """
    labels, names, position = _classes(labels, classes)
    changed, rng = _chosen(seed, len(labels), rate)
    steps = rng.integers(1, len(names), size=len(labels))
    return _moved(labels, names, position, np.where(changed, steps, 0)), changed


def pair_flip_noise(
    seed: int, labels: ArrayLike, rate: float, *, classes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gives a share of the rows the next class, the last one's being the first.

    Args:
      seed: random seed, >= 0.
      labels: (N,) integer class ids.
      rate: share of the rows to change, in [0, 1].
      classes: number of classes 0 … C - 1; None takes those that occur in `labels`, in
        ascending order.

    Returns:
      New labels (N,) of the same type, and the (N,) booleans of what was changed.

    Raises:
      ValueError: see `symmetric_noise`.
    """
    labels, names, position = _classes(labels, classes)
    changed, _ = _chosen(seed, len(labels), rate)
    return _moved(labels, names, position, changed.astype(np.int64)), changed


def open_set_noise(
    seed: int, labels: ArrayLike, rate: float, *, held_out: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puts images of classes that are not to be learned under the labels of others.

    The rows of the classes `held_out` leave the data and are the stock to draw from,
    each at most once; of the N others a share is replaced by rows of the stock, which
    take over their labels.

    Args:
      seed: random seed, >= 0.
      labels: (M,) integer class ids of all images.
      rate: share of the N rows to replace, in [0, 1].
      held_out: class ids that are outside.

    Returns:
      Row numbers (N,) of the images to take, their labels (N,), of which none is of a
      held-out class, and the (N,) booleans of what was replaced.

    Raises:
      ValueError: a rate out of range, labels that are not (M,) integers, held-out
        classes that have no image, leave no class or have too few images.
    """
    labels = _integers(labels)
    outside = np.isin(labels, np.asarray(held_out))
    stock, rows = np.flatnonzero(outside), np.flatnonzero(~outside)
    if not len(stock) or not len(rows):
        raise ValueError(
            f"held_out must name some of the classes and not all: {len(stock)} of "
            f"{len(labels)} images are theirs"
        )
    changed, rng = _chosen(seed, len(rows), rate)
    wanted = int(np.sum(changed))
    if wanted > len(stock):
        raise ValueError(
            f"rate {rate} needs {wanted} images of held-out classes, there are "
            f"{len(stock)}: hold out more classes or lower the rate"
        )
    taken = rows.copy()
    taken[changed] = rng.choice(stock, wanted, replace=False)
    return taken, labels[rows], changed


def _chosen(
    seed: int, rows: int, rate: float
) -> tuple[np.ndarray, np.random.Generator]:
    """Which rows are changed, an exact share of them."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    rng = np.random.default_rng(seed)
    changed = np.zeros(rows, bool)
    changed[rng.permutation(rows)[: round(rate * rows)]] = True
    return changed, rng


def _classes(
    labels: ArrayLike, classes: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the names of the classes and where each label lies among them."""
    labels = _integers(labels)
    names, position = np.unique(labels, return_inverse=True)
    if classes is not None:
        if len(names) and not 0 <= names[0] <= names[-1] < classes:
            raise ValueError(
                f"labels must be in 0 … {classes - 1}, got {names[0]} … {names[-1]}"
            )
        names, position = np.arange(classes), labels
    if len(names) < 2:
        raise ValueError(f"noise needs two classes or more, got {len(names)}")
    return labels, names, position


def _integers(labels: ArrayLike) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be (rows,) integers, got {labels.dtype} {labels.shape}"
        )
    return labels


def _moved(
    labels: np.ndarray, names: np.ndarray, position: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """Labels so many classes further on, round the circle."""
    moved = (position.astype(np.int64) + steps) % len(names)
    return names[moved].astype(labels.dtype)
