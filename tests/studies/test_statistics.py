"""The statistics of studies by hand, and what they promise under repetition."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxfaces.studies import statistics


def test_interval_by_hand():
    # d = 1, 2, 3: mean 2, sd 1, error 1 / sqrt(3), t_2(0.975) = 4.302653.
    found = statistics.paired([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    half = 4.302652729911275 / math.sqrt(3)
    assert (found.mean, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - half)
    assert found.high == pytest.approx(2 + half)
    assert found.p == pytest.approx(stats.ttest_rel([2, 4, 6], [1, 2, 3]).pvalue)


def test_one_seed_gives_no_interval():
    found = statistics.paired([1.0], [0.5])
    assert found.mean == 0.5 and math.isnan(found.low) and math.isnan(found.p)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (1.0, 0.0)])
def test_equal_differences_have_an_interval_of_no_width(shift, p):
    found = statistics.paired([1 + shift, 2 + shift], [1.0, 2.0])
    assert (found.low, found.high, found.p) == (shift, shift, p)


@pytest.mark.parametrize("pair", [([1.0], [1.0, 2.0]), ([], [])])
def test_unpaired_values_are_refused(pair):
    with pytest.raises(ValueError, match="values"):
        statistics.paired(*pair)


def test_interval_covers_the_true_difference_95_times_in_100():
    rng = np.random.default_rng(0)
    truth, repeats, n = 0.7, 2000, 5
    seeds = rng.normal(0, 3, (repeats, n))  # what a seed does to both arms
    arms = seeds + truth + rng.normal(0, 1, (repeats, n))
    references = seeds + rng.normal(0, 1, (repeats, n))
    found = [statistics.paired(a, b) for a, b in zip(arms, references)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    # Four standard errors of a share of 0.95 in 2,000.
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)


def test_holm_by_hand():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []
    first, second = statistics.holm([math.nan, 0.02])
    assert math.isnan(first) and second == 0.02


def test_holm_errs_in_at_most_5_of_100_families_without_any_difference():
    rng = np.random.default_rng(1)
    repeats, n, arms = 2000, 5, 4
    wrong = 0
    for _ in range(repeats):
        reference = rng.normal(size=n)
        ps = [statistics.paired(rng.normal(size=n), reference).p for _ in range(arms)]
        wrong += min(statistics.holm(ps)) < 0.05
    assert wrong / repeats < 0.05 + 4 * math.sqrt(0.05 * 0.95 / repeats)


def test_bootstrap_over_classes_narrows_with_their_number():
    rng = np.random.default_rng(2)
    widths = []
    for classes in (20, 500):
        arm = 0.1 + rng.normal(size=(3, classes))
        found = statistics.over_classes(arm, np.zeros((3, classes)))
        assert found.low < found.mean < found.high and found.n == classes
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 3


def test_bootstrap_over_equal_classes_is_a_point():
    found = statistics.over_classes(np.full((2, 9), 0.4), np.full((2, 9), 0.1))
    assert found.low == pytest.approx(0.3) and found.high == pytest.approx(0.3)
