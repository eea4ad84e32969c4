"""Division of rows into training and validation: by class, or within every class."""

import math

import numpy as np


def split_classes(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Sets the last classes aside for validation, so that no class is on both sides.

    Args:
      labels: (N,) integers.
      fraction: share of the classes in validation, 0 <= fraction < 1. Of C classes the
        last ceil(fraction * C) in label order are taken.

    Returns:
      The rows, in order, of the training classes and of the validation classes.

    Raises:
      ValueError: `fraction` is out of range or leaves no class to train on.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the fraction must be in [0, 1), got {fraction}")
    labels = np.asarray(labels)
    classes = np.unique(labels)
    # Rounded first: 0.07 * 100 is 7.000000000000001 in floating point.
    held = math.ceil(round(fraction * len(classes), 9))
    if held and held == len(classes):
        raise ValueError(
            f"a fraction of {fraction} takes all {held} classes for validation"
        )
    validation = np.isin(labels, classes[len(classes) - held :])
    return np.flatnonzero(~validation), np.flatnonzero(validation)


def split_within_classes(
    labels: np.ndarray, count: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Takes rows at random, from every class its share.

    Args:
      labels: (N,) integers.
      count: how many rows to take, 0 < count < N.
      seed: of the draw. The result depends on it, on `labels` and on `count` alone.

    Returns:
      The rows taken and the others, both shuffled; each has rows of every class.

    Raises:
      ValueError: a class would be on one side alone.

    Source: scikit-learn's StratifiedShuffleSplit, by which the reduced sets of AutoML
    papers were cut.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    labels = np.asarray(labels)
    present, counts = np.unique(labels, return_counts=True)
    rest = len(labels) - count
    if counts.min() < 2 or min(count, rest) < len(present):
        raise ValueError(
            f"{count} and {rest} images cannot both have images of all "
            f"{len(present)} classes, the smallest of {counts.min()}"
        )
    shuffle = StratifiedShuffleSplit(
        1, train_size=count, test_size=rest, random_state=seed
    )
    taken, others = next(shuffle.split(labels, labels))
    for side in (taken, others):
        missing = np.setdiff1d(present, labels[side])
        if len(missing):  # of a class far smaller than the others
            raise ValueError(
                f"{len(side)} images would have none of class {missing[0]}, which has "
                f"{counts[present == missing[0]][0]} in all"
            )
    return taken, others
