"""Differences between arms over paired seeds, and over test classes."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean difference with its interval.

    Attributes:
      mean: of arm minus reference.
      low: lower end of the interval; NaN where there are too few values.
      high: upper end.
      p: of no difference, two-sided; NaN where there are too few values.
      n: number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int


def paired(arm: ArrayLike, reference: ArrayLike, *, level: float = LEVEL) -> Difference:
    """Student's interval and p of the mean difference of pairs of runs.

    mean(d) ± t_{n-1} sd(d) / sqrt(n) with d = arm - reference, one pair a seed.

    Args:
      arm: (n,) measures, one a seed.
      reference: (n,) measures of the reference on the same seeds.
      level: coverage of the interval, in (0, 1).

    Raises:
      ValueError: the numbers of values differ, or there are none.
    """
    d = np.asarray(arm, float) - np.asarray(reference, float)
    if np.shape(arm) != np.shape(reference) or d.ndim != 1 or not len(d):
        raise ValueError(f"got {np.shape(arm)} and {np.shape(reference)} values")
    n, mean = len(d), float(d.mean())
    if n < 2:
        return Difference(mean, math.nan, math.nan, math.nan, n)
    error = float(d.std(ddof=1) / math.sqrt(n))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * error
    if error == 0:
        p = 1.0 if mean == 0 else 0.0
    else:
        p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, mean - half, mean + half, p, n)


def over_classes(
    arm: ArrayLike,
    reference: ArrayLike,
    *,
    level: float = LEVEL,
    repeats: int = 2000,
    seed: int = 0,
) -> Difference:
    """Bootstrap over test classes of the difference, averaged over seeds.

    It asks whether other test classes would have told the same, which an interval over
    seeds does not.

    Args:
      arm: (seeds, classes) measure of each class in each run.
      reference: the same of the reference.
      level: coverage of the percentile interval.
      repeats: resamples.
      seed: of the resampling.

    Returns:
      The difference; `n` is the number of classes and `p` is NaN.
    """
    d = (np.asarray(arm, float) - np.asarray(reference, float)).mean(axis=0)
    draws = np.random.default_rng(seed).integers(0, len(d), (repeats, len(d)))
    means = d[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(d.mean()), float(low), float(high), math.nan, len(d))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the p of each arm, adjusted for all of them.

    Sorted ascending, p_(k) becomes max_{j <= k} min(1, (m - j + 1) p_(j)); NaN stays
    and does not count.
    """
    known = [i for i, p in enumerate(ps) if not math.isnan(p)]
    adjusted, running = list(ps), 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(known) - rank) * ps[i]))
        adjusted[i] = running
    return adjusted
