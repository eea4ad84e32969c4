"""What a search is read out as, and the random pairs it is compared with."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import augment

SEARCHED = augment.make_policy(
    [[("Rotate", 0.1 * n, 0.5), ("Invert", 0.5, 0.1 * n)] for n in range(10)],
    weights=[3, 1, 4, 2, 5, 9, 8, 6, 10, 7],
)


def test_the_best_are_the_likeliest_in_order_and_equally_likely():
    found = augment.best_sub_policies(SEARCHED, count=3)
    np.testing.assert_allclose(found.probabilities[:, 0], [0.8, 0.5, 0.6], rtol=1e-6)
    np.testing.assert_allclose(found.levels[:, 1], [0.8, 0.5, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(found.logits, np.zeros(3))


def test_fewer_are_a_prefix_of_more_and_all_is_the_most():
    whole = augment.best_sub_policies(SEARCHED)
    assert len(whole.logits) == 10
    for count in (1, 5):
        part = augment.best_sub_policies(SEARCHED, count=count)
        np.testing.assert_array_equal(part.levels, whole.levels[:count])


def test_it_may_be_part_of_a_program():
    found = jax.jit(lambda: augment.best_sub_policies(SEARCHED, count=3))()
    expected = augment.best_sub_policies(SEARCHED, count=3)
    np.testing.assert_array_equal(found.operations, expected.operations)
    np.testing.assert_array_equal(found.levels, expected.levels)


def test_what_a_search_moved_too_far_is_brought_back():
    moved = dataclasses.replace(
        SEARCHED,
        probabilities=SEARCHED.probabilities + 0.5,
        levels=SEARCHED.levels - 0.7,
    )
    found = augment.best_sub_policies(moved)
    assert found.probabilities.max() == 1
    assert found.levels.min() == 0


def test_none_is_refused():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        augment.best_sub_policies(SEARCHED, count=0)


def test_a_text_repeats_the_best_in_words_and_reads_back_whole(tmp_path):
    text = augment.policy_text(SEARCHED, best=2)
    assert json.loads(text)["best"] == [
        "0.1818: Rotate 0.80 @ 0.50, Invert 0.50 @ 0.80",
        "0.1636: Rotate 0.50 @ 0.50, Invert 0.50 @ 0.50",
    ]
    path = tmp_path / "policy.json"
    path.write_text(text)
    again = augment.load_policy(path)
    np.testing.assert_array_equal(again.logits, SEARCHED.logits)
    assert "best" not in json.loads(augment.policy_text(SEARCHED))
    augment.save_policy(again, path)
    assert path.read_text() == augment.policy_text(SEARCHED)


def test_numbers_that_are_not_finite_have_no_text():
    bad = dataclasses.replace(SEARCHED, logits=SEARCHED.logits.at[0].set(jnp.nan))
    with pytest.raises(ValueError, match="not finite"):
        augment.policy_text(bad, best=2)


def test_random_pairs_may_be_of_other_operations():
    table = [augment.operation(name) for name in ("Rotate", "Invert", "Color")]
    made = augment.random_policy(jax.random.key(0), count=3, table=table)
    assert sorted(map(tuple, np.asarray(made.operations))) == [(0, 1), (0, 2), (1, 2)]
    assert [each.name for each in made.table] == ["Rotate", "Invert", "Color"]
    with pytest.raises(ValueError, match="count must lie in 1 … 3, got 4"):
        augment.random_policy(jax.random.key(0), count=4, table=table)
