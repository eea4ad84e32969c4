"""Re-identification measures against a plain sort and the published script's loop."""

import math

import jax
import numpy as np
import pytest

import metric


def _exact_units(rng, rows):
    """Rows with four entries ±1/2: similarities are multiples of 1/4, without error."""
    units = np.zeros((rows, 8), np.float32)
    for row in units:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return units


def _scene(seed, queries=14, gallery=60, people=6, cameras=3):
    """Queries and gallery of a few people, some pictures junk (-1) or of nobody (0)."""
    rng = np.random.default_rng(seed)
    return (
        _exact_units(rng, queries),
        rng.integers(1, people + 2, queries),
        rng.integers(0, cameras, queries),
        _exact_units(rng, gallery),
        rng.integers(-1, people, gallery),
        rng.integers(0, cameras, gallery),
    )


def _oracle(scene, ks, junk, distractors, ap):
    """Walks down every list as the evaluation script of Market-1501 does."""
    queries, query_ids, query_cameras, gallery, ids, cameras = scene
    firsts, precisions, dropped = [], [], 0
    for query, person, camera in zip(queries, query_ids, query_cameras):
        ranking = sorted(
            range(len(gallery)),
            key=lambda j: (-float(np.dot(query.astype(float), gallery[j])), j),
        )
        kept = [
            j
            for j in ranking
            if ids[j] not in junk and not (ids[j] == person and cameras[j] == camera)
        ]
        good = [j for j in kept if ids[j] == person and person not in distractors]
        if not good:
            dropped += 1
            continue
        recall = area = plain = found = 0
        precision = 1.0
        for rank, j in enumerate(kept, 1):
            found += j in good
            new_recall, new_precision = found / len(good), found / rank
            area += (new_recall - recall) * (precision + new_precision) / 2
            plain += (j in good) * new_precision / len(good)
            recall, precision = new_recall, new_precision
        firsts.append(1 + min(kept.index(j) for j in good))
        precisions.append(plain if ap == "plain" else area)
    return {
        "cmc_at_k": {k: np.mean([f <= k for f in firsts]) for k in ks},
        "map": np.mean(precisions),
        "num_dropped": dropped,
    }


def _assert_same(measured, wanted):
    assert measured.keys() == wanted.keys()
    for name, value in wanted.items():
        assert measured[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("ap", ["plain", "trapezoid"])
@pytest.mark.parametrize(
    ("junk", "distractors"),
    [((-1,), ()), ((-1,), (0,)), ((-1, 0), ()), ((), (3,)), ((2,), (-1, 0))],
)
def test_measures_equal_a_walk_down_every_list(junk, distractors, ap):
    for seed in range(3):
        scene = _scene(seed)
        given = {"junk": junk, "distractors": distractors, "ap": ap}
        measured = metric.reid_measures(*scene, ks=(1, 2, 5), **given)
        _assert_same(measured, _oracle(scene, (1, 2, 5), **given))
        assert measured["num_dropped"] > 0  # nobody 7 is in the gallery


def test_ranks_by_hand():
    """Ranks 2 and 5 of five, after junk and the query's own camera are deleted."""
    angles = np.radians([0, 10, 20, 30, 40, 50, 60])
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ids = [1, -1, 5, 1, 0, 6, 1]
    cameras = [0, 1, 0, 1, 0, 1, 2]  # the first item is the query's own picture
    scene = ([[1.0, 0.0]], [1], [0], gallery, ids, cameras)
    plain = metric.reid_measures(*scene, ks=(1, 2))
    assert plain["cmc_at_k"] == {1: 0.0, 2: 1.0}
    assert plain["map"] == pytest.approx((1 / 2 + 2 / 5) / 2)
    trapezoid = metric.reid_measures(*scene, ap="trapezoid")
    assert trapezoid["map"] == pytest.approx(
        ((0 / 1 + 1 / 2) / 2 + (1 / 4 + 2 / 5) / 2) / 2
    )


@pytest.mark.parametrize("block_size", [1, 5, 14])
@pytest.mark.parametrize("devices", [None, 8])
def test_blocks_and_devices_change_nothing(block_size, devices):
    mesh = None if devices is None else jax.make_mesh((devices,), ("data",))
    scene = _scene(9, gallery=700)
    measured = metric.reid_measures(*scene, block_size=block_size, mesh=mesh)
    assert measured == metric.reid_measures(*scene)


def test_no_query_left_gives_nan():
    measured = metric.reid_measures(
        np.eye(2), [1, 2], [0, 0], np.eye(2), [1, 2], [0, 0]
    )
    assert measured["num_dropped"] == 2
    assert math.isnan(measured["map"]) and math.isnan(measured["cmc_at_k"][1])
    nothing = metric.reid_measures(
        np.eye(2), [1, 2], [0, 0], np.eye(2), [-1, -1], [1, 1]
    )
    assert nothing["num_dropped"] == 2


def test_ids_may_be_strings_and_unsigned():
    scene = list(_scene(3))
    scene[4] = np.maximum(scene[4], 0)
    wanted = metric.reid_measures(*scene, junk=(0,))
    scene[1], scene[4] = scene[1].astype(np.uint8), scene[4].astype(np.uint8)
    assert metric.reid_measures(*scene, junk=(-1, 0)) == wanted
    scene[1], scene[4] = scene[1].astype(str), scene[4].astype(str)
    assert metric.reid_measures(*scene, junk=("0",)) == wanted
    assert metric.reid_measures(*scene)["num_dropped"] == wanted["num_dropped"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_labels": [0]}, "query_labels must have shape"),
        ({"query_cameras": [0]}, "query_cameras must have shape"),
        ({"gallery_labels": [0]}, "gallery_labels must have shape"),
        ({"gallery_cameras": [0]}, "gallery_cameras must have shape"),
        ({"queries": np.eye(4)[:3]}, "one width"),
        ({"gallery": np.full((3, 3), np.nan)}, "gallery hold NaN"),
        ({"ks": (0,)}, "ks must be 1 or more"),
        ({"ap": "area"}, "ap must be plain or trapezoid"),
        ({"distractors": (-1,)}, "not both"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_arguments_that_disagree_are_refused(change, message):
    given = {
        "queries": np.eye(3),
        "query_labels": [1, 2, 3],
        "query_cameras": [0, 0, 0],
        "gallery": np.eye(3),
        "gallery_labels": [1, 2, 3],
        "gallery_cameras": [1, 1, 1],
    } | change
    with pytest.raises(ValueError, match=message):
        metric.reid_measures(**given)
