"""Retrieval measures against a full sort in plain numpy."""

import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from metric import retrieval


def _exact_units(rng, rows):
    """Rows with four entries ±1/2: similarities are multiples of 1/4, without error."""
    units = np.zeros((rows, 8), np.float32)
    for row in units:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return units


def _oracle(queries, query_labels, gallery=None, gallery_labels=None, singletons=False):
    """Every measure by sorting (-similarity, index) of every query; unit rows in."""
    alone = gallery is None
    items = queries if alone else gallery
    labels = query_labels if alone else gallery_labels
    found, dropped = [], 0
    for i, query in enumerate(queries):
        others = [j for j in range(len(items)) if not (alone and j == i)]
        similarity = {j: float(np.dot(query.astype(float), items[j])) for j in others}
        others.sort(key=lambda j: (-similarity[j], j))
        hits = [labels[j] == query_labels[i] for j in others]
        r = sum(hits)
        if r == 0:
            dropped += 1
            continue
        first = hits.index(True) + 1
        precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(r) if hits[n]]
        found.append((first, sum(hits[:r]) / r, sum(precisions) / r))
    n = len(found) + (dropped if singletons else 0)
    return {
        "recall_at_k": {k: sum(f <= k for f, _, _ in found) / n for k in (1, 2, 4, 8)},
        "map_at_r": sum(a for _, _, a in found) / n,
        "r_precision": sum(p for _, p, _ in found) / n,
        "mrr": sum(1 / f for f, _, _ in found) / n,
        "num_dropped": 0 if singletons else dropped,
    }


def _assert_same(measured, wanted):
    assert measured.keys() == wanted.keys()
    for name, value in wanted.items():
        assert measured[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_size", [1, 7, 37, None])
def test_measures_equal_a_full_sort_with_ties_and_singletons(seed, block_size):
    rng = np.random.default_rng(seed)
    units = _exact_units(rng, 37)
    labels = np.minimum(rng.geometric(0.15, 37), 12)  # skewed, some classes alone
    measured = retrieval.retrieval_measures(units, labels, block_size=block_size)
    _assert_same(measured, _oracle(units, labels))


def _whole_ap(units, labels):
    """AP over all ranks by sorting, of each query with company; its class."""
    found = []
    for i, query in enumerate(units):
        others = [j for j in range(len(units)) if j != i]
        others.sort(key=lambda j: (-float(np.dot(query, units[j])), j))
        hits = np.array([labels[j] == labels[i] for j in others])
        if hits.any():
            precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            found.append((precisions[hits].mean(), labels[i]))
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("block_size", [7, None])
def test_ap_over_the_whole_ranking_equals_a_full_sort(seed, block_size):
    rng = np.random.default_rng(seed)
    units = _exact_units(rng, 37)
    labels = np.minimum(rng.geometric(0.15, 37), 12)
    options = {"block_size": block_size, "whole_ranking": True}
    measured = retrieval.retrieval_measures(units, labels, **options)
    wanted = _whole_ap(units, labels)
    assert measured.pop("map") == pytest.approx(np.mean([ap for ap, _ in wanted]))
    _assert_same(measured, _oracle(units, labels))  # the others stay as they are
    measured = retrieval.retrieval_measures(units, labels, average="class", **options)
    by_class = [
        np.mean([ap for ap, own in wanted if own == label])
        for label in {own for _, own in wanted}
    ]
    assert measured["map"] == pytest.approx(np.mean(by_class))


def test_classes_without_company_count_as_missed_ones_where_asked():
    rows = np.eye(3)[[0, 0, 1, 2, 2]]
    labels = [0, 0, 1, 2, 2]  # two perfect classes, one alone
    for singletons, wanted in ((True, 2 / 3), (False, 1)):
        measured = retrieval.retrieval_measures(
            rows, labels, average="class", count_singletons=singletons
        )
        assert measured["map_at_r"] == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block_size", [3, None])
@pytest.mark.parametrize("singletons", [False, True])
def test_separate_gallery_equals_a_full_sort(seed, block_size, singletons):
    rng = np.random.default_rng(seed)
    queries, gallery = _exact_units(rng, 11), _exact_units(rng, 29)
    query_labels, gallery_labels = rng.integers(0, 6, 11), rng.integers(1, 8, 29)
    query_labels[4] = 0
    measured = retrieval.retrieval_measures(
        queries,
        query_labels,
        gallery=gallery,
        gallery_labels=gallery_labels,
        block_size=block_size,
        count_singletons=singletons,
    )
    wanted = _oracle(queries, query_labels, gallery, gallery_labels, singletons)
    _assert_same(measured, wanted)
    assert singletons or (measured["num_dropped"] == np.sum(query_labels == 0) > 0)


def test_equal_similarities_rank_the_lower_index_first():
    units = np.ones((4, 3))
    measured = retrieval.retrieval_measures(units, [0, 1, 1, 0], ks=(1, 2, 3))
    # Lists: 0 -> 1 2 3, 1 -> 0 2 3, 2 -> 0 1 3, 3 -> 0 1 2.
    assert measured["recall_at_k"] == {1: 0.25, 2: 0.75, 3: 1.0}
    assert measured["mrr"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 2 + 1) / 4)
    assert measured["map_at_r"] == 0.25
    indices, _ = retrieval.nearest_neighbours(units, k=2)
    np.testing.assert_array_equal(indices, [[1, 2], [0, 2], [0, 1], [0, 1]])


def test_duplicates_tie_wherever_they_stand_in_the_gallery():
    rng = np.random.default_rng(0)
    half = rng.standard_normal((389, 130))
    gallery = np.concatenate([half, half])[:777]
    indices, similarities = retrieval.nearest_neighbours(half[:20], gallery, k=2)
    np.testing.assert_array_equal(indices, np.arange(20)[:, None] + [0, 389])
    np.testing.assert_array_equal(similarities[:, 0], similarities[:, 1])
    last, _ = retrieval.nearest_neighbours(half[387:388], gallery, k=2)
    np.testing.assert_array_equal(last, [[387, 776]])


def test_mean_over_first_ranks_beyond_the_list_of_r_items():
    angles = np.radians([0, 10, 20, 30, 40, 50])
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    measured = retrieval.retrieval_measures(circle, [0, 1, 2, 3, 4, 0], ks=(4, 5))
    assert measured["recall_at_k"] == {4: 0.0, 5: 1.0}
    assert measured["mrr"] == pytest.approx(1 / 5)
    assert (measured["map_at_r"], measured["num_dropped"]) == (0.0, 4)


@pytest.mark.parametrize("block_size", [16, 100, None])
def test_large_class_beside_small_ones_equals_a_full_sort(block_size):
    rng = np.random.default_rng(5)
    labels = np.concatenate([np.zeros(150, int), np.repeat(np.arange(1, 21), 3)])
    units = _exact_units(rng, len(labels))
    measured = retrieval.retrieval_measures(units, labels, block_size=block_size)
    _assert_same(measured, _oracle(units, labels))


def test_long_gallery_searched_by_chunks_equals_a_stable_sort():
    rng = np.random.default_rng(6)
    gallery = _exact_units(rng, 700)
    queries = _exact_units(rng, 9)
    indices, similarities = retrieval.nearest_neighbours(queries, gallery, k=5)
    dots = queries @ gallery.T
    wanted = np.argsort(-dots, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(indices, wanted)
    np.testing.assert_array_equal(similarities, np.take_along_axis(dots, wanted, 1))


def test_block_size_changes_nothing():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((90, 16))
    labels = rng.integers(0, 20, 90)
    results = [
        retrieval.retrieval_measures(x, labels, block_size=b) for b in (1, 13, 90, 200)
    ]
    assert all(result == results[0] for result in results)
    near = [retrieval.nearest_neighbours(x, k=4, block_size=b)[0] for b in (1, 13, 200)]
    assert all((n == near[0]).all() for n in near)


def test_scale_of_a_row_changes_nothing():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((40, 6)).astype(np.float32)
    scale = 10.0 ** rng.integers(-20, 20, (40, 1)).astype(np.float32)
    labels = np.arange(40) % 8
    wanted = retrieval.retrieval_measures(x, labels)
    _assert_same(retrieval.retrieval_measures(x * scale, labels), wanted)


def test_labels_may_be_strings_or_large_integers():
    rng = np.random.default_rng(9)
    x, labels = rng.standard_normal((12, 4)), np.arange(12) % 3
    wanted = retrieval.retrieval_measures(x, labels)
    for other in (np.array(list("abc"))[labels], labels * 2**40 - 7):
        assert retrieval.retrieval_measures(x, other) == wanted


def test_no_query_left_gives_nan_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured = retrieval.retrieval_measures(np.eye(3), [0, 1, 2])
        empty = retrieval.retrieval_measures(np.zeros((0, 3)), np.zeros(0, int))
    assert measured["num_dropped"] == 3 and empty["num_dropped"] == 0
    for result in (measured, empty):
        assert all(math.isnan(result[name]) for name in ("mrr", "map_at_r"))
        assert all(math.isnan(r) for r in result["recall_at_k"].values())
    counted = retrieval.retrieval_measures(np.eye(3), [0, 1, 2], count_singletons=True)
    assert counted["mrr"] == 0 and counted["num_dropped"] == 0


@pytest.mark.parametrize("singletons", [False, True])
def test_measures_are_the_means_of_their_values_by_query(singletons):
    rng = np.random.default_rng(3)
    units, labels = _exact_units(rng, 37), np.minimum(rng.geometric(0.15, 37), 12)
    measured = retrieval.retrieval_measures(
        units, labels, per_query=True, count_singletons=singletons
    )
    values = measured.pop("per_query")
    alone = np.bincount(labels)[labels] == 1
    assert 0 < alone.sum() < len(labels)
    for name in ("map_at_r", "r_precision", "mrr"):
        bad = np.isnan(values[name]) if not singletons else values[name] == 0
        assert values[name].shape == (37,) and bad[alone].all()
        assert np.nanmean(values[name]) == pytest.approx(measured[name])
    for k, hits in values["recall_at_k"].items():
        assert np.nanmean(hits) == pytest.approx(measured["recall_at_k"][k])
    _assert_same(measured, _oracle(units, labels, singletons=singletons))


def test_k_beyond_the_gallery_takes_all_of_it():
    measured = retrieval.retrieval_measures(np.eye(3), [0, 0, 1], ks=(1000,))
    assert measured["recall_at_k"] == {1000: 1.0}
    indices, similarities = retrieval.nearest_neighbours(np.eye(3), k=5)
    assert (indices[:, 2:] == -1).all() and (similarities[:, 2:] == -np.inf).all()
    np.testing.assert_array_equal(indices[:, :2], [[1, 2], [0, 2], [0, 1]])


def test_results_are_plain_python_numbers():
    measured = retrieval.retrieval_measures(jnp.eye(4), jnp.array([0, 0, 1, 1]))
    assert all(type(measured[n]) is float for n in ("map_at_r", "r_precision", "mrr"))
    assert all(type(value) is float for value in measured["recall_at_k"].values())
    assert type(measured["num_dropped"]) is int


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad):
    x = np.eye(3)
    x[1, 1] = bad
    with pytest.raises(ValueError, match="queries hold NaN or infinity"):
        retrieval.retrieval_measures(x, [0, 0, 1])
    with pytest.raises(ValueError, match="gallery hold NaN or infinity"):
        retrieval.nearest_neighbours(np.eye(3), x, k=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_labels": [0, 1]}, "query_labels must have shape"),
        ({"gallery_labels": [0, 1, 2, 3]}, "gallery_labels must have shape"),
        ({"gallery_labels": None}, "together"),
        ({"gallery": np.eye(4)}, "one width"),
        ({"queries": np.ones(3)}, "rows, width"),
        ({"ks": (0,)}, "ks must be 1 or more"),
        ({"average": "items"}, "average must be query or class"),
        ({"block_size": 0}, "block_size must be 1 or more"),
    ],
)
def test_arguments_that_disagree_are_refused(change, message):
    given = {
        "queries": np.eye(3),
        "query_labels": [0, 1, 0],
        "gallery": np.eye(3),
        "gallery_labels": [0, 1, 0],
    } | change
    queries, labels = given.pop("queries"), given.pop("query_labels")
    with pytest.raises(ValueError, match=message):
        retrieval.retrieval_measures(queries, labels, **given)
