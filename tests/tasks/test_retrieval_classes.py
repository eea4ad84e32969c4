"""Retrieval measures class by class."""

import math

import numpy as np
import pytest

import metric
from jaxfaces.tasks import retrieval_classes


def clusters(rng, labels):
    return np.eye(8)[labels] + 0.6 * rng.normal(size=(len(labels), 8))


def test_classes_of_equal_size_average_to_the_measure():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([2, 5, 7], 10))
    queries = clusters(rng, labels)
    found = retrieval_classes.measures([(queries, {"label": labels})])
    whole = metric.retrieval_measures(queries, labels)
    assert {name: value.shape for name, value in found.items()} == {
        "recall_at_1": (3,),
        "map_at_r": (3,),
    }
    assert found["map_at_r"].mean() == pytest.approx(whole["map_at_r"])
    assert found["recall_at_1"].mean() == pytest.approx(whole["recall_at_k"][1])


def test_a_class_is_that_of_the_query_and_one_without_a_match_is_nan():
    rng = np.random.default_rng(1)
    labels, items = np.array([4, 4, 1, 6]), np.array([4, 1, 1, 0])
    queries, gallery = clusters(rng, labels), clusters(rng, items)
    found = retrieval_classes.measures(
        [(queries, {"label": labels}), (gallery, {"label": items})]
    )["map_at_r"]
    assert found.shape == (3,) and math.isnan(found[2])
    for i, label in enumerate((1, 4)):
        rows = labels == label
        alone = metric.retrieval_measures(
            queries[rows], labels[rows], gallery=gallery, gallery_labels=items
        )
        assert found[i] == pytest.approx(alone["map_at_r"])
