"""Label noise: exact shares, where it goes, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metric import noise

MAKERS = (noise.symmetric_noise, noise.pair_flip_noise)
by_maker = pytest.mark.parametrize("make", MAKERS)


@by_maker
@given(
    st.integers(0, 99),
    st.lists(st.integers(-5, 5), min_size=2, max_size=40).filter(
        lambda labels: len(set(labels)) > 1
    ),
    st.floats(0, 1),
)
def test_an_exact_share_of_rows_gets_another_class_of_the_same_set(
    make, seed, labels, rate
):
    found, changed = make(seed, labels, rate)
    assert changed.dtype == bool and changed.sum() == round(rate * len(labels))
    np.testing.assert_array_equal(found != np.array(labels), changed)
    assert set(found) <= set(labels)
    for again, same in zip(make(seed, labels, rate), (found, changed)):
        np.testing.assert_array_equal(again, same)


def test_symmetric_noise_draws_every_other_class_alike():
    labels = np.repeat([3, 5, 9, 11], 3000)
    found, _ = noise.symmetric_noise(0, labels, 1.0)
    for name in (3, 5, 9, 11):
        counts = [
            np.sum(found[labels == name] == k) for k in (3, 5, 9, 11) if k != name
        ]
        np.testing.assert_allclose(counts, 1000, atol=5 * np.sqrt(3000 * 2 / 9))


def test_pair_flip_goes_to_the_next_class_and_round():
    found, _ = noise.pair_flip_noise(0, [2, 7, 4, 7], 1.0)
    np.testing.assert_array_equal(found, [4, 2, 7, 2])


@by_maker
def test_classes_that_do_not_occur_are_drawn_where_their_number_is_given(make):
    found, changed = make(1, np.full(50, 2, np.uint8), 1.0, classes=4)
    assert changed.all() and found.dtype == np.uint8
    assert set(found) == ({0, 1, 3} if make is noise.symmetric_noise else {3})


@by_maker
def test_seeds_choose_other_rows_and_leave_the_given_labels_alone(make):
    labels = np.arange(100) % 5
    kept = labels.copy()
    masks = [make(seed, labels, 0.3)[1] for seed in range(2)]
    assert (masks[0] != masks[1]).any()
    np.testing.assert_array_equal(labels, kept)


def test_open_set_noise_puts_held_out_images_under_the_labels_of_others():
    labels = np.repeat(np.arange(6), 10)
    rows, found, changed = noise.open_set_noise(0, labels, 0.25, held_out=[1, 4])
    assert len(rows) == len(found) == len(changed) == 40 and changed.sum() == 10
    assert len(set(rows)) == 40  # every image once
    assert np.isin(labels[rows[changed]], [1, 4]).all()
    inside = np.flatnonzero(~np.isin(labels, [1, 4]))
    np.testing.assert_array_equal(found, labels[inside])
    np.testing.assert_array_equal(rows[~changed], inside[~changed])


@by_maker
@pytest.mark.parametrize(
    ("labels", "rate", "options", "message"),
    [
        ([0, 1], -0.1, {}, "rate"),
        ([0, 1], 1.1, {}, "rate"),
        ([0, 1], float("nan"), {}, "rate"),
        ([1, 1], 0.5, {}, "two classes"),
        ([], 0.5, {"classes": 1}, "two classes"),
        ([0.0, 1.0], 0.5, {}, "integers"),
        ([[0, 1]], 0.5, {}, "integers"),
        ([0, 5], 0.5, {"classes": 5}, "0 … 4"),
        ([-1, 2], 0.5, {"classes": 5}, "0 … 4"),
    ],
)
def test_what_makes_no_sense_is_refused(make, labels, rate, options, message):
    with pytest.raises(ValueError, match=message):
        make(0, np.array(labels, int) if labels == [] else labels, rate, **options)


@pytest.mark.parametrize(
    ("rate", "held_out", "message"),
    [
        (2.0, [1], "rate"),
        (0.5, [7], "held_out"),
        (0.5, [0, 1, 2], "held_out"),
        (1.0, [1], "lower the rate"),
    ],
)
def test_open_set_noise_refuses_what_it_cannot_fill(rate, held_out, message):
    with pytest.raises(ValueError, match=message):
        noise.open_set_noise(0, [0, 0, 1, 2], rate, held_out=held_out)
