"""Batches of identities x tracklets x frames: the protocol, short walks, seeds."""

import pickle

import numpy as np
import pytest

import metric

# Identity, and the lengths of its tracklets; the last two have one tracklet only.
WALKS = {
    30: (12, 9, 20),
    10: (3, 15),
    50: (1, 2),
    20: (10, 11, 12, 13),
    40: (25,),
    7: (4,),
}
SHAPE = {
    "identities_per_batch": 3,
    "tracklets_per_identity": 2,
    "frames_per_tracklet": 9,
}


def frames():
    labels, tracklets, number = [], [], 0
    for identity, lengths in WALKS.items():
        for length in lengths:
            labels += [identity] * length
            tracklets += [number] * length
            number += 1
    order = np.random.default_rng(0).permutation(len(labels))
    return np.array(labels)[order], np.array(tracklets)[order]


LABELS, TRACKLETS = frames()


def plan(**change):
    return metric.tracklet_plan(LABELS, TRACKLETS, **(SHAPE | {"seed": 3} | change))


def test_a_batch_holds_frames_of_two_tracklets_of_each_of_three_identities():
    for n in range(30):
        rows = plan()(n)
        assert rows.shape == (54,) and rows.dtype == np.int64
        identities = LABELS[rows].reshape(3, 18)
        assert (identities == identities[:, :1]).all()
        assert len(set(identities[:, 0])) == 3
        walks = TRACKLETS[rows].reshape(3, 2, 9)
        assert (walks == walks[:, :, :1]).all()


def test_different_tracklets_are_taken_where_there_are_enough():
    pairs = set()
    for n in range(200):
        rows = plan()(n).reshape(3, 18)
        for identity, walks in zip(LABELS[rows[:, 0]], TRACKLETS[rows][:, [0, 9]]):
            assert (walks[0] != walks[1]) == (len(WALKS[identity]) > 1)
            pairs.add((identity, *sorted(walks)))
    assert sum(identity == 20 for identity, *_ in pairs) == 6  # every pair of four


def test_long_tracklets_give_different_frames_and_short_ones_all_in_turn():
    short = 0
    for n in range(50):
        for rows in plan()(n).reshape(6, 9):
            length = np.sum(TRACKLETS == TRACKLETS[rows[0]])
            assert len(set(rows)) == min(length, 9)
            if length < 9:
                short += 1
                np.testing.assert_array_equal(rows, np.resize(rows[:length], 9))
    assert short > 20


def test_one_tracklet_repeated_brings_frames_of_its_own_each_time():
    drawn = [
        rows
        for n in range(20)
        for rows in plan()(n).reshape(3, 2, 9)
        if LABELS[rows[0, 0]] == 40
    ]
    assert drawn and all(set(first) != set(second) for first, second in drawn)


def test_identities_of_one_tracklet_can_be_left_out():
    seen = {i for n in range(20) for i in LABELS[plan(min_tracklets=2)(n)]}
    assert seen == {30, 10, 50, 20}


def test_an_epoch_offers_no_identity_twice():
    assert metric.tracklet_epoch_batches(LABELS, TRACKLETS, 3) == 2
    assert metric.tracklet_epoch_batches(LABELS, TRACKLETS, 3, min_tracklets=2) == 1
    for epoch in range(10):
        rows = np.concatenate([plan()(2 * epoch), plan()(2 * epoch + 1)])
        assert len(set(LABELS[rows])) == 6


def test_a_batch_is_a_function_of_seed_and_step_alone():
    first, again = plan(), pickle.loads(pickle.dumps(plan()))
    forwards = [first(n) for n in range(12)]
    for n in reversed(range(12)):
        np.testing.assert_array_equal(again(n), forwards[n])
    assert any((plan(seed=4)(n) != forwards[n]).any() for n in range(3))
    assert len({rows.tobytes() for rows in forwards}) == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities_per_batch": 7}, "needs 7 identities .* labels have 6"),
        ({"min_tracklets": 5}, "lower identities_per_batch or min_tracklets"),
        ({"identities_per_batch": 0}, "identities_per_batch must be 1"),
        ({"tracklets_per_identity": 0}, "tracklets_per_identity must be 1"),
        ({"frames_per_tracklet": 0}, "frames_per_tracklet must be 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plan(**change)


def test_frames_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="tracklet 1 has two identities"):
        metric.tracklet_plan([5, 5, 6], [0, 1, 1], seed=0, **SHAPE)
    with pytest.raises(ValueError, match="one label and one tracklet a frame"):
        metric.tracklet_plan([5, 5], [0, 1, 1], seed=0, **SHAPE)
