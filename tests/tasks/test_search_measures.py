"""How much of each operation a policy has, against draws of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import augment
from jaxfaces.tasks import search_measures, search_state
from jaxfaces.tasks.search_settings import SearchSettings

SETTINGS = SearchSettings(operations=("Rotate", "Invert", "Color"))
POLICY = {
    "logits": jnp.array([0.0, 1.0, -1.0]),
    "probabilities": jnp.array([[0.9, 1.2], [0.3, 0.1], [0.5, -0.1]]),
    "levels": jnp.array([[1.0, 0.5], [0.1, 0.6], [0.3, 1.4]]),
}


def test_use_of_operations_is_that_of_draws():
    policy = search_state.as_policy(SETTINGS, POLICY)
    draw = augment.sample(policy, jax.random.key(0), 200_000)
    applied = np.asarray(draw.applied)
    levels = np.clip(draw.levels, 0, 1)
    found = search_measures.by_operation(SETTINGS, POLICY)
    for row in range(3):
        here = np.asarray(draw.operations) == row
        strong = abs(2 * levels - 1) * applied * here
        expected = {
            "applied": (applied & here).sum(1).mean(),
            "strength": strong.sum(1).mean(),
            "probability": applied[here].mean(),
            "level": levels[here].mean(),
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, abs=5e-3), name


def test_policies_over_time_are_measured_one_by_one():
    many = {name: jnp.stack([x, x + 0.1]) for name, x in POLICY.items()}
    one = search_measures.by_operation(SETTINGS, POLICY)
    for name, values in search_measures.by_operation(SETTINGS, many).items():
        assert values.shape == (2, 3)
        np.testing.assert_allclose(values[0], one[name], rtol=1e-6)


def test_what_can_be_planted_is_measured_where_it_is_searched_for():
    found = search_measures.measures(SETTINGS, POLICY)
    assert set(found) == {
        *("entropy", "rotate_share", "rotate_strength", "rotate_rank"),
        *("invert_share", "invert_rank"),
    }
    used = search_measures.by_operation(SETTINGS, POLICY)
    assert found["invert_share"] == used["applied"][1]
    # Pairs are drawn with 0.245, 0.665 and 0.090.
    by_hand = [0.245 * 0.9 + 0.665 * 0.3, 0.245 * 1 + 0.09 * 0.5, 0.665 * 0.1]
    np.testing.assert_allclose(used["applied"], by_hand, atol=1e-3)
    assert (found["rotate_rank"], found["invert_rank"]) == (1, 2)
    first = search_state.first_arrays(SETTINGS)
    assert search_measures.measures(SETTINGS, first)["rotate_rank"] == 2  # all alike
    without = SearchSettings(operations=("Brightness", "Color"))
    first = search_state.first_arrays(without)
    assert set(search_measures.measures(without, first)) == {"entropy"}


def test_a_collapse_is_told_in_words_unless_there_is_no_choice():
    assert search_measures.remarks(POLICY) == []
    sure = POLICY | {"logits": jnp.array([0.0, 40.0, 0.0])}
    [words] = search_measures.remarks(sure)
    assert "the search has collapsed" in words and "--policy_lr" in words
    one = {name: x[:1] for name, x in POLICY.items()}
    assert search_measures.remarks(one) == []


def test_coins_that_all_fell_are_told_in_words():
    # The pair with likely coins is hardly drawn.
    chances = jnp.array([[0.9, 0.9], [0.0, -0.2], [0.01, 0.0]])
    idle = {"logits": jnp.array([-9.0, 0.0, 0.0]), "probabilities": chances}
    [words] = search_measures.remarks(idle)
    assert "hardly ever applies an operation" in words and "--policy_lr" in words
    assert search_measures.remarks(idle | {"logits": jnp.zeros(3)}) == []


@pytest.mark.parametrize("done", [0, 1, 3, 20])
def test_charts_show_the_steps_that_are_done(done):
    search = search_state.first_search(SETTINGS, jax.random.key(0), 8)
    for step in range(done):
        policy = {name: x + 0.01 * (step + 1) for name, x in search.policy.items()}
        search = search_state.remembered(
            search.replace(policy=policy), jnp.zeros(1), step, 20
        )
    found = search_measures.charts(SETTINGS, search, done, 20)
    steps = found["policy"].axes[0].lines[0].get_xdata()
    assert steps[0] == 0
    assert steps[-1] == done
    assert np.all(np.diff(steps) > 0)
