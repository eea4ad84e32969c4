"""Class-disjoint division of rows into training and validation."""

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
