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
      count: how many rows to take, 0 < count < N, with at least one row of every class
        on both sides.
      seed: of the draw. The result depends on it, on `labels` and on `count` alone.

    Returns:
      The rows taken and the others, both shuffled.

    Raises:
      ValueError: a class has one row, or `count` leaves a class without a row.

    Source: scikit-learn's StratifiedShuffleSplit, by which the reduced sets of AutoML
    papers were cut.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    labels = np.asarray(labels)
    present, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(f"class {present[counts.argmin()]} has one image, needs two")
    if not len(present) <= count <= len(labels) - len(present):
        raise ValueError(
            f"{count} of {len(labels)} images leave one of {len(present)} classes "
            "without an image"
        )
    shuffle = StratifiedShuffleSplit(
        1, train_size=count, test_size=len(labels) - count, random_state=seed
    )
    return next(shuffle.split(labels, labels))
