"""Kendall's W against sums by hand, Friedman's statistic and enumerated orders."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import augment
from augment import agreement

RNG = np.random.default_rng(0)


def test_three_raters_of_four_items_by_hand():
    # Rank sums 4, 7, 8, 11: squares of their distances from 7.5 add up to 25.
    weights = [[1, 2, 3, 4], [2, 1, 3, 4], [1, 4, 2, 3]]
    assert augment.kendall_w(weights) == pytest.approx(12 * 25 / (9 * 60))


def test_ties_share_their_ranks_and_are_corrected_for():
    # Ranks 1.5 1.5 3 4 and 1 2.5 2.5 4 add up to 2.5 4 5.5 8: squares 16.5.
    weights = [[5, 5, 7, 9], [0, 1, 1, 2]]
    assert augment.kendall_w(weights) == pytest.approx(12 * 16.5 / (4 * 60 - 2 * 12))


@pytest.mark.parametrize("values", [1000, 4])
def test_it_is_friedmans_statistic_over_its_most(values):
    weights = RNG.integers(0, values, (5, 12))
    chi = stats.friedmanchisquare(*weights.T).statistic
    assert augment.kendall_w(weights) == pytest.approx(chi / (5 * 11))


def test_its_ends():
    same = np.tile(RNG.permutation(9), (4, 1))
    assert augment.kendall_w(np.exp(same)) == pytest.approx(1)
    assert augment.kendall_w([[1, 2, 3], [3, 2, 1]]) == 0
    assert np.isnan(augment.kendall_w(np.ones((2, 3))))


def test_p_is_that_of_all_orders():
    weights = np.array([[1, 2, 3, 4], [2, 1, 3, 4]])
    every = [
        augment.kendall_w([weights[0], order])
        for order in itertools.permutations(weights[1])
    ]
    exact = np.mean(np.array(every) >= augment.kendall_w(weights) - 1e-9)
    found = augment.permutation_p(weights, permutations=20_000)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


def test_p_is_small_where_all_agree_and_never_zero():
    weights = np.tile(np.arange(8), (4, 1))
    assert augment.permutation_p(weights, permutations=99) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(4), "shape"),
        (np.ones((1, 4)), "two raters"),
        (np.ones((4, 1)), "two items"),
        ([[1, 2], [np.nan, 3]], "finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        augment.kendall_w(weights)


def test_applied_is_that_of_draws():
    policy = augment.random_policy(jax.random.key(1), count=6)
    draw = augment.sample(policy, jax.random.key(2), 100_000)
    used = np.asarray(draw.operations)[np.asarray(draw.applied)]
    expected = np.bincount(used, minlength=len(policy.table)) / 100_000
    np.testing.assert_allclose(agreement.applied(policy), expected, atol=0.01)


@pytest.fixture
def files(tmp_path):
    """Three policies that agree about Rotate alone."""
    paths = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        pairs = augment.unsearched_policy()
        rotated = (np.asarray(pairs.operations) == 4).any(axis=1)
        weights = np.exp(3 * rotated + rng.normal(size=105))
        rows = [
            [(pairs.table[o].name, 0.5, 0.5) for o in row]
            for row in np.asarray(pairs.operations)
        ]
        paths.append(tmp_path / f"{seed}.json")
        augment.save_policy(augment.make_policy(rows, weights=weights), paths[-1])
    return [str(path) for path in paths]


def test_the_command_prints_what_agrees(files, capsys):
    assert agreement.main(files) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("operations   W = 0.")
    assert "(3 policies, 105 sub-policies)" in lines[1]
    assert lines[4].startswith("Rotate ")
    assert len(lines) == 4 + 15


def test_the_command_refuses_in_a_line(files, tmp_path, capsys):
    augment.save_policy(augment.make_policy([[("Rotate", 1, 1)]]), tmp_path / "x.json")
    for given, message in (
        (files[:1], "two policies"),
        ([*files, str(tmp_path / "x.json")], "not of the same sub-policies"),
        ([*files, "missing.json"], "missing.json"),
    ):
        with pytest.raises(SystemExit):
            agreement.main(given)
        assert message in capsys.readouterr().err.splitlines()[-1]


def test_equal_logits_agree_about_nothing():
    text = agreement.report([augment.unsearched_policy()] * 2)
    assert text.count("W is of no use") == 2 and "p =" not in text
    assert np.isnan(augment.permutation_p(np.zeros((2, 105))))
    assert jnp.isnan(augment.kendall_w(np.zeros((2, 105))))
