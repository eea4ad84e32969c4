"""Measures of a classifier against loops over the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfaces.tasks import classification_files as files
from jaxfaces.tasks import classification_measures as measures


def drawn(seed, rows=200, classes=7):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(0, 2, (rows, classes))
    logits[np.arange(rows), labels] += rng.normal(1, 2, rows)
    return logits, labels


def by_loops(logits, labels, bins=15):
    right = top = nll = 0.0
    groups = [[] for _ in range(bins)]
    for row, label in zip(logits, labels):
        e = [math.exp(x) for x in row]
        p = [x / sum(e) for x in e]
        nll -= math.log(p[label])
        order = sorted(range(len(p)), key=lambda k: -p[k])
        right += order[0] == label
        top += label in order[:5]
        confidence = p[order[0]]
        for b in range(bins):  # the bin (b / bins, (b + 1) / bins]
            if b / bins < confidence <= (b + 1) / bins:
                groups[b].append((confidence, order[0] == label))
    n = len(labels)
    ece = sum(
        len(g) / n * abs(sum(r for _, r in g) / len(g) - sum(c for c, _ in g) / len(g))
        for g in groups
        if g
    )
    return {"accuracy": right / n, "error": 1 - right / n, "log_loss": nll / n} | {
        "ece": ece,
        "top_5": top / n,
    }


@pytest.mark.parametrize("seed", range(4))
def test_measures_equal_the_loops(seed):
    logits, labels = drawn(seed)
    assert measures.measures(logits, labels) == pytest.approx(by_loops(logits, labels))


def test_five_classes_have_no_top_five():
    assert "top_5" not in measures.measures(*drawn(0, classes=5))


def test_a_classifier_that_knows_how_sure_it_is_has_no_calibration_error():
    p = np.tile([[0.8, 0.2]], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert measures.calibration_error(p, labels) == pytest.approx(0)
    assert measures.calibration_error(p, 1 - labels) == pytest.approx(0.6)


@given(st.integers(0, 1000), st.floats(-5, 5))
def test_scores_may_be_shifted_and_rows_reordered(seed, shift):
    logits, labels = drawn(seed, rows=30)
    order = np.random.default_rng(seed).permutation(30)
    moved = measures.measures((logits + shift)[order], labels[order])
    assert moved == pytest.approx(measures.measures(logits, labels))


def test_a_row_that_is_not_finite_is_wrong_and_shows_in_the_loss():
    logits, labels = drawn(0)
    logits[3] = np.nan
    found = measures.measures(logits, labels)
    rest = np.delete(np.arange(len(labels)), 3)
    kept = measures.measures(logits[rest], labels[rest])
    assert found["accuracy"] == pytest.approx(kept["accuracy"] * 199 / 200)
    assert math.isnan(found["log_loss"])
    assert math.isnan(found["ece"])


def test_confusion_counts_pairs():
    logits, labels = drawn(1)
    expected = np.zeros((7, 7), int)
    for row, label in zip(logits, labels):
        expected[label, row.argmax()] += 1
    np.testing.assert_array_equal(measures.confusion(logits, labels), expected)


def test_bins_hold_all_predictions_the_surest_in_the_last():
    p = np.array([[1.0, 0.0], [0.5, 0.5], [0.55, 0.45]])
    counts, confidence, accuracy = measures.calibration(p, np.array([0, 1, 0]))
    assert counts.sum() == 3
    assert counts[-1] == 1
    assert confidence[-1] == accuracy[-1] == 1
    assert confidence[7] == 0.5  # (7/15, 8/15]
    assert accuracy[7] == 0.0


def test_surest_mistakes_come_first():
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_array_equal(files.surest_mistakes(p, labels, 9), [2, 3, 1])
    np.testing.assert_array_equal(files.surest_mistakes(p, labels, 1), [2])


def test_classes_without_names_go_by_number():
    assert files.named((), 3) == "3"
    assert files.told(("cat", "dog"), np.array([0.25, 0.75])) == "dog, 75 %"


def test_of_equal_scores_the_first_class_counts():
    found = measures.measures(np.zeros((7, 7)), np.arange(7))
    assert found["accuracy"] == pytest.approx(1 / 7)
    assert found["top_5"] == pytest.approx(5 / 7)
