"""Clustering measures against scikit-learn and counted pairs."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from metric import clustering


def _blobs(seed, classes=6, per_class=15, spread=0.1):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    centres = np.eye(classes)[labels]
    return centres + spread * rng.standard_normal(centres.shape), labels


PERFECT = dict.fromkeys(("nmi", "f1", "rand_index", "purity"), 1)


def _pair_f1(clusters, labels):
    pairs = list(itertools.combinations(range(len(labels)), 2))
    together = [clusters[i] == clusters[j] for i, j in pairs]
    related = [labels[i] == labels[j] for i, j in pairs]
    hits = sum(t and r for t, r in zip(together, related))
    precision, recall = hits / sum(together), hits / sum(related)
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(6))
def test_agreement_equals_sklearn_nmi_and_counted_pairs(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 60)
    noisy = np.where(rng.random(60) < 0.3, rng.integers(0, 7, 60), labels) * 3 - 4
    measured = clustering.agreement(noisy, labels)
    wanted = metrics.normalized_mutual_info_score(labels, noisy)
    assert measured["nmi"] == pytest.approx(wanted, abs=1e-12)
    assert measured["f1"] == pytest.approx(_pair_f1(noisy, labels), abs=1e-12)
    assert measured["rand_index"] == pytest.approx(metrics.rand_score(labels, noisy))
    largest = [np.bincount(labels[noisy == c]).max() for c in np.unique(noisy)]
    assert measured["purity"] == pytest.approx(sum(largest) / 60)


def test_agreement_by_hand():
    # Every cluster holds one of each class: no information, no pair is right.
    measured = clustering.agreement([0, 0, 1, 1], ["a", "b", "a", "b"])
    wanted = {"nmi": 0, "f1": 0, "rand_index": 1 / 3, "purity": 1 / 2}
    assert measured == pytest.approx(wanted, abs=1e-12)
    measured = clustering.agreement([0, 0, 0, 1], [0, 0, 1, 1])
    assert measured["f1"] == pytest.approx(2 * 1 / (3 + 2))


@pytest.mark.parametrize("labels", [[5], [1, 2, 3], [4, 4, 4]])
def test_agreement_of_equal_partitions_is_one(labels):
    assert clustering.agreement(labels, labels) == pytest.approx(PERFECT)


def test_separate_blobs_are_found_whatever_the_lengths_of_their_rows():
    points, labels = _blobs(0)
    lengths = np.random.default_rng(1).uniform(0.01, 100, (len(points), 1))
    measured = clustering.clustering_measures(
        points * lengths, labels, seed=0, restarts=5
    )
    assert measured == pytest.approx(PERFECT)


def test_labels_without_structure_score_low():
    points, labels = _blobs(2)
    shuffled = np.random.default_rng(3).permutation(labels)
    assert clustering.clustering_measures(points, shuffled, seed=0)["f1"] < 0.4


def test_same_seed_gives_the_same_result():
    points, labels = _blobs(4, classes=20, spread=0.4)
    first, second, other = (
        clustering.clustering_measures(points, labels, seed=s) for s in (1, 1, 2)
    )
    assert first == second != other


def test_fewer_points_than_classes_is_scored_without_a_warning(recwarn):
    measured = clustering.clustering_measures(np.ones((6, 3)), [0, 0, 1, 1, 2, 2])
    assert measured["nmi"] == 0 and not recwarn.list


@pytest.mark.parametrize(
    ("points", "labels", "restarts", "message"),
    [
        (np.eye(3), [0, 1], 1, "must be"),
        (np.zeros((0, 3)), [], 1, "N >= 1"),
        (np.full((2, 2), np.nan), [0, 1], 1, "NaN"),
        (np.eye(3), [0, 1, 1], 0, "restarts"),
    ],
)
def test_bad_arguments_are_refused(points, labels, restarts, message):
    with pytest.raises(ValueError, match=message):
        clustering.clustering_measures(points, labels, restarts=restarts)
