"""The P x K sampler follows its protocol and is a pure function of (seed, step)."""

import subprocess
import sys

import numpy as np
import pytest

from metric import sampling

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(7), range(1, 8)) * 10)


def _plan(**change):
    given = {"classes_per_batch": 3, "images_per_class": 4, "seed": 5} | change
    return sampling.class_balanced_plan(LABELS, **given)


def test_batch_holds_k_consecutive_rows_of_each_of_p_classes():
    plan = _plan()
    for n in range(20):
        rows = plan(n)
        assert rows.shape == (12,) and rows.dtype == np.int64
        classes = LABELS[rows].reshape(3, 4)
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0])) == 3


def test_epoch_offers_no_class_twice_and_drops_the_tail():
    plan = _plan()
    assert sampling.epoch_batches(LABELS, 3) == 2
    left_out = set()
    for epoch in range(10):
        rows = np.concatenate([plan(2 * epoch), plan(2 * epoch + 1)])
        classes = set(LABELS[rows])
        assert len(classes) == 6
        left_out |= set(LABELS) - classes
    assert len(left_out) > 2  # another class each time


def test_large_class_is_drawn_without_replacement_and_all_of_it_in_time():
    plan = _plan()
    seen = {}
    for n in range(200):
        for rows in plan(n).reshape(3, 4):
            if np.sum(LABELS == LABELS[rows[0]]) >= 4:
                assert len(set(rows)) == 4
                seen.setdefault(LABELS[rows[0]], set()).update(rows)
    assert {c: len(rows) for c, rows in seen.items()} == {30: 4, 40: 5, 50: 6, 60: 7}


def test_small_class_repeats_its_images_in_turn():
    plan = _plan()
    sizes = set()
    for n in range(40):
        for rows in plan(n).reshape(3, 4):
            size = np.sum(LABELS == LABELS[rows[0]])
            if size < 4:
                sizes.add(size)
                assert len(set(rows[:size])) == size
                np.testing.assert_array_equal(rows, np.resize(rows[:size], 4))
    assert sizes == {1, 2, 3}


def test_random_access_equals_order_and_seeds_and_steps_differ():
    ahead = _plan()
    wanted = [ahead(n) for n in range(30)]
    back = _plan()
    for n in reversed(range(30)):
        np.testing.assert_array_equal(back(n), wanted[n])
    assert len({tuple(rows) for rows in wanted}) == 30
    assert any((_plan(seed=6)(n) != wanted[n]).any() for n in range(3))


def test_batches_stay_the_same_across_versions():
    labels = np.repeat(np.arange(4), 3)
    plan = sampling.class_balanced_plan(
        labels, classes_per_batch=2, images_per_class=2, seed=0
    )
    # Written with numpy 2.4: a resumed run must go on with the batches it began with.
    golden = [[8, 7, 0, 2], [4, 3, 9, 10], [10, 11, 2, 0]]
    np.testing.assert_array_equal([plan(0), plan(1), plan(2)], golden)


def test_min_images_leaves_small_classes_out():
    plan = _plan(min_images=4, classes_per_batch=4)
    assert set(LABELS[plan(0)]) == {30, 40, 50, 60}
    assert sampling.epoch_batches(LABELS, 2, min_images=3) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes_per_batch": 8}, "needs 8 classes"),
        ({"min_images": 6}, "have 2"),
        ({"classes_per_batch": 0}, "classes_per_batch"),
        ({"images_per_class": 0}, "images_per_class"),
    ],
)
def test_impossible_batches_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        _plan(**change)


def test_package_and_sampler_are_imported_without_jax():
    code = (
        "import sys, metric; metric.class_balanced_plan; "
        "assert 'jax' not in sys.modules; assert 'ranked_list_loss' in dir(metric); "
        "assert [getattr(metric, n) for n in metric._MODULES]; "
        "assert 'jaxfaces' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
