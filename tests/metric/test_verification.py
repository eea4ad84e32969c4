"""Verification measures against counts at every threshold, in plain loops."""

import math

import numpy as np
import pytest

import metric


def _curve(similarities, same):
    """(t, FAR, TAR, accuracy) of every threshold that differs, the highest first."""
    points = []
    for t in [math.inf, *sorted(set(similarities), reverse=True)]:
        hits = sum(s >= t for s, y in zip(similarities, same) if y)
        wrong = sum(s >= t for s, y in zip(similarities, same) if not y)
        pos, neg = sum(same), len(same) - sum(same)
        accuracy = (hits + neg - wrong) / (pos + neg)
        points.append((t, wrong / neg, hits / pos, accuracy))
    return points


def _oracle(similarities, same, fars):
    similarities, same = similarities.tolist(), same.tolist()
    curve = _curve(similarities, same)
    pairs = [
        (a > b) + (a == b) / 2
        for a, p in zip(similarities, same)
        for b, q in zip(similarities, same)
        if p and not q
    ]
    for (_, far, tar, _), (_, next_far, next_tar, _) in zip(curve, curve[1:]):
        low, high = far - (1 - tar), next_far - (1 - next_tar)
        if low < 0 <= high:
            eer = far + (next_far - far) * -low / (high - low)
    return {
        "tar_at_far": {f: max(x[2] for x in curve if x[1] <= f) for f in fars},
        "eer": eer,
        "auc": sum(pairs) / len(pairs),
        "accuracy": max(x[3] for x in curve),
    }


@pytest.mark.parametrize("levels", [3, 12, 1000])  # from many ties to none
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_measures_equal_counts_at_every_threshold(levels, share):
    fars = (0.0, 0.03, 0.1, 0.29, 0.5, 1.0)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        same = rng.random(60) < share
        similarities = rng.integers(0, levels, 60) + levels // 3 * same
        similarities = (similarities / 8).astype(np.float32)
        measured = metric.verification_measures(similarities, same, fars=fars)
        for name, value in _oracle(similarities, same, fars).items():
            assert measured[name] == pytest.approx(value, abs=1e-12), name
        assert (measured["num_same"], measured["num_different"]) == (
            same.sum(),
            60 - same.sum(),
        )
        _assert_thresholds_do_what_is_said(similarities, same, measured)


def _assert_thresholds_do_what_is_said(similarities, same, measured):
    for far, t in measured["threshold_at_far"].items():
        accepted = similarities >= t
        assert np.mean(accepted[~same]) <= far
        assert np.mean(accepted[same]) == measured["tar_at_far"][far]
    accepted = similarities >= measured["threshold"]
    assert np.mean(accepted == same) == pytest.approx(measured["accuracy"])
    roc = measured["roc"]
    for far, tar, t in zip(roc["far"], roc["tar"], roc["threshold"]):
        accepted = similarities >= t
        assert (np.mean(accepted[~same]), np.mean(accepted[same])) == (far, tar)
    curve = {(far, tar) for _, far, tar, _ in _curve(similarities, same)}
    assert {(0.0, 0.0), (1.0, 1.0)} < set(zip(roc["far"], roc["tar"])) <= curve


def test_measures_by_hand():
    similarities = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    same = [True, True, False, True, False, False]
    measured = metric.verification_measures(similarities, same, fars=(0.3, 0.4))
    assert measured["tar_at_far"] == {0.3: 2 / 3, 0.4: 1.0}
    assert measured["auc"] == pytest.approx(8 / 9)
    assert measured["eer"] == pytest.approx(1 / 3)
    assert measured["accuracy"] == pytest.approx(5 / 6)
    assert measured["threshold"] == 0.8  # 0.6 is as good, and lower


def test_pairs_that_are_told_apart_and_pairs_that_are_all_alike():
    perfect = metric.verification_measures([3, 2, 1, 0], [1, 1, 0, 0], fars=(0.0,))
    assert (perfect["eer"], perfect["auc"], perfect["accuracy"]) == (0, 1, 1)
    assert perfect["tar_at_far"] == {0.0: 1.0}
    alike = metric.verification_measures(np.ones(8), np.arange(8) < 2)
    assert (alike["eer"], alike["auc"], alike["accuracy"]) == (0.5, 0.5, 0.75)
    assert alike["threshold"] == math.inf
    assert alike["tar_at_far"] == {1e-3: 0, 1e-2: 0, 1e-1: 0}


def test_a_far_that_binary_fractions_miss_counts_whole_pairs():
    similarities = np.arange(101)
    same = similarities == 71  # above all but 29 of the 100 others
    measured = metric.verification_measures(similarities, same, fars=(0.28, 0.29))
    assert 0.29 * 100 < 29
    assert measured["tar_at_far"] == {0.28: 0.0, 0.29: 1.0}


@pytest.mark.parametrize("same", [[True] * 3, [False] * 3, []])
def test_one_kind_of_pairs_gives_nan(same):
    measured = metric.verification_measures(np.arange(len(same)), np.array(same, bool))
    for name in ("eer", "auc", "accuracy", "threshold"):
        assert math.isnan(measured[name])
    assert all(math.isnan(t) for t in measured["tar_at_far"].values())
    assert all(math.isnan(t) for t in measured["threshold_at_far"].values())
    assert len(measured["roc"]["far"]) == 0
    assert measured["num_same"] + measured["num_different"] == len(same)


@pytest.mark.parametrize("block_size", [1, 7, None])
def test_all_pairs_of_a_set_are_counted_once(block_size):
    rng = np.random.default_rng(2)
    x = np.zeros((40, 8), np.float32)  # similarities are multiples of 1/4
    for row in x:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    labels = rng.integers(0, 5, 40)
    first, second = np.triu_indices(40, 1)
    similarities = np.sum(x[first] * x[second], axis=1)
    wanted = metric.verification_measures(similarities, labels[first] == labels[second])
    measured = metric.all_pairs_verification(3 * x, labels, block_size=block_size)
    roc, wanted_roc = measured.pop("roc"), wanted.pop("roc")
    assert measured == wanted
    for name in roc:
        np.testing.assert_array_equal(roc[name], wanted_roc[name])


def test_inputs_are_left_as_they_were():
    similarities, same = np.array([0.1, 0.9, 0.5]), np.array([True, True, True])
    same[0] = False
    metric.verification_measures(similarities, same)
    np.testing.assert_array_equal(similarities, [0.1, 0.9, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"same": [True]}, "same must have shape"),
        ({"similarities": np.eye(2)}, r"similarities must be \(pairs,\)"),
        ({"similarities": [0.0, np.nan]}, "similarities hold NaN"),
        ({"fars": (1.5,)}, "fars must be in"),
    ],
)
def test_arguments_that_disagree_are_refused(change, message):
    given = {"similarities": [0.0, 1.0], "same": [False, True]} | change
    with pytest.raises(ValueError, match=message):
        metric.verification_measures(**given)


def test_sets_too_large_to_compare_and_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match="10 pairs, more than max_pairs=9"):
        metric.all_pairs_verification(np.eye(5), np.arange(5), max_pairs=9)
    with pytest.raises(ValueError, match="labels must have shape"):
        metric.all_pairs_verification(np.eye(5), np.arange(4))
