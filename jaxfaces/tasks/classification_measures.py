"""Measures of a classifier on a split, from its logits."""

import numpy as np
from scipy.special import log_softmax

BINS = 15  # of the calibration error, as in Guo et al. 2017


def measures(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, error, top-5 accuracy, log-loss and calibration error.

    Args:
      logits: (N, C) class scores.
      labels: (N,) classes in 0 … C - 1.

    Returns:
      `accuracy`, `error` = 1 - accuracy, `log_loss` in nats, `ece`; `top_5` where there
      are more than five classes. A row with NaN counts as wrong.
    """
    logits = np.asarray(logits, np.float64)
    log_p = log_softmax(logits, axis=1)
    right = hits(logits, labels)
    found = {
        "accuracy": right.mean(),
        "error": 1 - right.mean(),
        "log_loss": -log_p[np.arange(len(labels)), labels].mean(),
        "ece": calibration_error(np.exp(log_p), labels),
    }
    if logits.shape[1] > 5:
        first = np.argsort(-np.nan_to_num(logits), axis=1, kind="stable")[:, :5]
        finite = np.isfinite(logits).all(axis=1)
        found["top_5"] = ((first == labels[:, None]).any(axis=1) & finite).mean()
    return {name: float(value) for name, value in found.items()}


def hits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) booleans, True where the largest of (N, C) scores is the label's.

    Of equal scores that of the first class counts, in all measures.
    """
    finite = np.isfinite(logits).all(axis=1)
    return finite & (np.nan_to_num(logits).argmax(axis=1) == labels)


def calibration(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence and accuracy of predictions of like confidence.

    Args:
      probabilities: (N, C), rows that add up to 1.
      labels: (N,) classes.

    Returns:
      Number of predictions, their mean confidence and their accuracy for each of 15
      equally wide bins of the largest probability, in order; 0 where a bin is empty.
    """
    confidence = probabilities.max(axis=1)
    right = hits(probabilities, labels)
    kept = np.isfinite(confidence)
    confidence, right = confidence[kept], right[kept]
    # (lower, upper]: 1 belongs to the last bin.
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts, mean, share = (
        np.bincount(bins, weights, BINS) for weights in (None, confidence, right)
    )
    filled = np.maximum(counts, 1)
    return counts, mean / filled, share / filled


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error: Σ_b n_b / N · |accuracy_b - confidence_b|.

    Args:
      probabilities: (N, C), rows that add up to 1.
      labels: (N,) classes.

    Returns:
      The error in [0, 1]; NaN where a row is not finite.

    Source: Guo et al. 2017 (On calibration of modern neural networks), eq. 3.
    """
    if not np.isfinite(probabilities).all():
        return float("nan")
    counts, confidence, accuracy = calibration(probabilities, labels)
    return float(np.sum(counts * np.abs(accuracy - confidence)) / counts.sum())


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(C, C) counts: row the label, column the prediction."""
    classes = logits.shape[1]
    pairs = labels * classes + np.nan_to_num(logits).argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
