"""Draws, score-function estimators, and what the official code computes."""

import dataclasses
import functools
import itertools

import enumerable_policy as problem
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable_policy import CHANCES, LOGITS, ROWS, SIZE, STEPS
from scipy import stats

import augment
from augment import relaxations
from augment.policy_gradients import (
    leave_one_out_gradient,
    official_gradient,
    policy_draws,
    reinforce_gradient,
    step_baseline,
)

KEY = jax.random.key(5)
COUNT = 20_000


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnums=0)
def draw(count, key=KEY):
    return policy_draws(key, jnp.asarray(LOGITS), jnp.asarray(CHANCES), count=count)


def test_every_outcome_comes_as_often_as_it_should():
    draws = draw(COUNT)
    first, second = np.asarray(draws.applied).astype(int).T
    places = np.ravel_multi_index((draws.sub_policies, first, second), (ROWS, 2, 2))
    counts = np.bincount(places, minlength=16)
    wanted = [COUNT * p for _, _, p in problem.outcomes()]
    assert stats.chisquare(counts, wanted).pvalue > 1e-3
    # The four kinds of noise have nothing to do with each other.
    noise = [draws.category_noise[:, 0], draws.category_again[:, 0]]
    noise += [draws.coin_noise[:, 0, 0], draws.coins_again[:, 0]]
    for one, other in itertools.combinations(noise, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_the_scores_of_all_outcomes_sum_to_the_gradient():
    # Each outcome once; weighted by its probability the mean is an expectation.
    rows, coins, p = zip(*problem.outcomes())
    draws = dataclasses.replace(
        draw(16), sub_policies=jnp.array(rows), applied=jnp.array(coins) == 1
    )
    weighted = problem.values(draws) * jnp.array(p) * 16
    result = reinforce_gradient(draws, weighted, LOGITS, jnp.asarray(CHANCES))
    np.testing.assert_allclose(problem.flat(result), problem.gradient(), rtol=1e-10)


def looped(draws, weights):
    """Σ_d weight_d ∇ log P, term by term."""
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum()
    logits, chances = np.zeros(ROWS), np.zeros((ROWS, STEPS))
    for row, coins, weight in zip(draws.sub_policies, draws.applied, weights):
        logits += weight * ((np.arange(ROWS) == row) - shares)
        for step, (coin, chance) in enumerate(zip(coins, CHANCES[row])):
            score = 1 / chance if coin else -1 / (1 - chance)
            chances[row, step] += weight * score
    return np.concatenate([logits, chances.ravel()])


def test_estimators_are_their_sums():
    draws = draw(7)
    f = np.asarray(problem.values(draws))
    given = jnp.asarray(LOGITS), jnp.asarray(CHANCES)
    plain = reinforce_gradient(draws, f, *given, baseline=0.7)
    np.testing.assert_allclose(
        problem.flat(plain), looped(draws, (f - 0.7) / 7), rtol=1e-10, atol=1e-14
    )
    others = np.array([np.delete(f, place).mean() for place in range(7)])
    left_out = leave_one_out_gradient(draws, f, *given)
    np.testing.assert_allclose(
        problem.flat(left_out), looped(draws, (f - others) / 7), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("estimator", [reinforce_gradient, leave_one_out_gradient])
def test_score_functions_are_unbiased(estimator):
    samples = problem.estimates(
        lambda draws, f: estimator(draws, f, jnp.asarray(LOGITS), jnp.asarray(CHANCES)),
        repeats=200_000,
        count=4,
        seed=1,
    )
    found = problem.bias(samples)
    assert found.largest < found.bound and found.error < 0.01


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(("shared", "own"), [(2.0, 0.5), (0.0, 1.0), (1.0, 0.0)])
def test_the_baseline_of_a_step_predicts_a_draw_best_by_the_others(count, shared, own):
    f, mean = np.random.default_rng(count).normal(size=count), 0.3
    found, left = step_baseline(jnp.asarray(f), mean=mean, shared=shared, own=own)
    # The normal equations of f_d on the others, all with covariance `shared`.
    covariance = shared * np.ones((count, count)) + own * np.eye(count)
    others = covariance[1:, 1:]
    slope = np.linalg.pinv(others) @ covariance[1:, 0]
    for d in range(count):
        expected = mean + slope @ (np.delete(f, d) - mean)
        assert found[d] == pytest.approx(expected, abs=1e-12)
    unexplained = covariance[0, 0] - slope @ covariance[1:, 0]
    assert left == pytest.approx(unexplained, abs=1e-12)


def test_before_anything_is_known_a_step_leaves_one_out():
    f = jnp.asarray([1.0, 4.0, 7.0])
    found, left = step_baseline(f, mean=0.0, shared=0.0, own=0.0)
    np.testing.assert_allclose(found, [5.5, 4.0, 2.5])
    assert left == 0


def spread(baseline_of, batches):
    """Summed variance of REINFORCE with two draws a step, batches adding to f."""
    given = jnp.asarray(LOGITS), jnp.asarray(CHANCES)
    samples = problem.estimates(
        lambda draws, f: reinforce_gradient(draws, f, *given, baseline=baseline_of(f)),
        repeats=20_000,
        count=2,
        seed=3,
        batches=batches,
    )
    return samples.var(0).sum()


@pytest.mark.parametrize("times", [0.0, 0.5, 1.0, 4.0])
def test_the_baseline_of_a_step_has_the_least_variance_of_its_kind(times):
    own, mean = problem.variance(), problem.mean()
    shared = times * own
    ours, running, left_out = (
        spread(baseline_of, shared**0.5)
        for baseline_of in (
            lambda f: step_baseline(f, mean=mean, shared=shared, own=own)[0],
            lambda f: mean,
            lambda f: step_baseline(f, mean=mean, shared=1.0, own=0.0)[0],
        )
    )
    # One of the two is never far: alone where nothing is shared, or nearly all is.
    assert ours < 1.001 * running and ours < 1.02 * left_out
    if times == 4:
        assert ours < 0.5 * running
    if times == 0:
        assert ours < 0.7 * left_out


def test_the_baseline_of_a_step_biases_nothing():
    given, own = (jnp.asarray(LOGITS), jnp.asarray(CHANCES)), problem.variance()
    samples = problem.estimates(
        lambda draws, f: reinforce_gradient(
            draws,
            f,
            *given,
            baseline=step_baseline(f, mean=0.4, shared=2 * own, own=own)[0],
        ),
        repeats=200_000,
        count=3,
        seed=4,
        batches=(2 * own) ** 0.5,
    )
    found = problem.bias(samples)
    assert found.largest < found.bound and found.error < 0.01


@jax.jit
def released(draws, f, logits, chances, network):
    """One estimate of the released code, all 2 S coins in the control variate."""
    u, v = draws.coin_noise[0], jax.random.uniform(jax.random.key(9), (ROWS, STEPS))
    outcomes = relaxations.coin_latents(chances, u) > 0
    row = draws.sub_policies[0]

    def c(coins, category):
        inputs = [
            relaxations.soft_coins(coins).ravel(),
            relaxations.soft_category(category),
        ]
        return jnp.sum(jnp.tanh(jnp.concatenate(inputs) @ network))

    def terms(logits, chances):
        plain = c(
            relaxations.coin_latents(chances, u),
            relaxations.category_latents(logits, draws.category_noise[0]),
        )
        again = c(
            relaxations.conditional_coin_latents(chances, outcomes, v),
            relaxations.conditional_category_latents(
                logits, row, draws.category_again[0]
            ),
        )
        coins = jnp.log(jnp.where(outcomes, chances, 1 - chances))
        return jnp.sum(coins + jax.nn.log_softmax(logits)[row]), plain, again

    left = f - terms(logits, chances)[2]

    def surrogate(logits, chances):
        score, plain, again = terms(logits, chances)
        return left * score + plain - again

    return jnp.concatenate(
        [leaf.ravel() for leaf in jax.grad(surrogate, (0, 1))(logits, chances)]
    )


def test_the_control_variate_of_the_released_code_cancels():
    logits, chances = jnp.asarray(LOGITS), jnp.asarray(CHANCES)
    draws, plus, minus, radius = draw(1), 1.3, 0.9, 0.01
    ours = official_gradient(
        draws, jnp.array([-(plus - minus) / (2 * radius)]), logits, chances
    )
    for seed in range(3):
        network = jax.random.normal(jax.random.key(seed), (SIZE, 10))
        ends = [released(draws, f, logits, chances, network) for f in (plus, minus)]
        theirs = -(ends[0] - ends[1]) / (2 * radius)
        np.testing.assert_allclose(problem.flat(ours), theirs, rtol=1e-9)


def test_the_released_code_counts_the_sub_policy_once_for_each_coin():
    draws, given = draw(9), (jnp.asarray(LOGITS), jnp.asarray(CHANCES))
    f = problem.values(draws)
    official = official_gradient(draws, f, *given)
    plain = reinforce_gradient(draws, f, *given)
    np.testing.assert_allclose(official.logits, 2 * ROWS * plain.logits, rtol=1e-12)
    # Scores of coins that play no part have mean zero: noise, but no bias.
    samples = problem.estimates(
        lambda draws, f: official_gradient(draws, f, *given),
        repeats=200_000,
        count=1,
        seed=2,
    )
    wanted = problem.gradient()
    wanted[:ROWS] *= 2 * ROWS
    found = problem.bias(samples, wanted)
    assert found.largest < found.bound
    lean = problem.estimates(
        lambda draws, f: reinforce_gradient(draws, f, *given),
        repeats=200_000,
        count=1,
        seed=2,
    )
    spread = samples[:, ROWS:].var(0).sum() / lean[:, ROWS:].var(0).sum()
    assert spread > 2


def test_the_released_code_moves_no_chance_that_is_held_at_an_end():
    chances = jnp.asarray(CHANCES).at[0, 0].set(-0.1).at[2, 1].set(1.2)
    result = official_gradient(draw(9), jnp.ones(9), jnp.asarray(LOGITS), chances)
    held = np.zeros((ROWS, STEPS), bool)
    held[0, 0] = held[2, 1] = True
    np.testing.assert_array_equal(result.probabilities == 0, held)


def test_a_draw_of_a_search_can_be_applied():
    policy = augment.make_policy(
        [[("Invert", 0.5, 0.2), ("Rotate", 0.5, 0.3)]] * 2
        + [[("ShearX", 0.5, 0.4), ("Color", 0.5, 0.9)]] * 2
    )
    draws = draw(6)
    made = augment.make_draw(policy, draws.sub_policies, draws.applied)
    for row in range(6):
        mine = int(draws.sub_policies[row])
        assert np.array_equal(made.operations[row], policy.operations[mine])
        assert np.array_equal(made.levels[row], policy.levels[mine])
    assert np.array_equal(made.applied, draws.applied)
    assert made.table == policy.table


def test_one_sub_policy_and_sure_coins():
    logits, chances = jnp.zeros(1), jnp.array([[0.0, 1.0, 1.3]])
    draws = policy_draws(KEY, logits, chances, count=50)
    assert np.array_equal(draws.applied, [[False, True, True]] * 50)
    f = jnp.ones(50)
    for estimator in (reinforce_gradient, leave_one_out_gradient, official_gradient):
        result = estimator(draws, f, logits, chances)
        assert result.logits == 0 and np.isfinite(result.probabilities).all()


def test_what_is_not_a_number_shows():
    draws = draw(3)
    f = problem.values(draws).at[1].set(jnp.nan)
    for estimator in (reinforce_gradient, leave_one_out_gradient, official_gradient):
        result = estimator(draws, f, jnp.asarray(LOGITS), jnp.asarray(CHANCES))
        assert np.isnan(result.logits).all()
        assert np.isnan(result.probabilities[draws.sub_policies[1]]).all()


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (
            lambda: policy_draws(KEY, jnp.zeros(0), jnp.zeros((0, 2))),
            "at least one sub-policy of one operation",
        ),
        (
            lambda: policy_draws(KEY, jnp.zeros(3), jnp.zeros((3, 0))),
            "at least one sub-policy of one operation",
        ),
        (
            lambda: policy_draws(KEY, jnp.zeros(3), jnp.zeros((4, 2))),
            r"must be \(S,\) and \(S, n\), got \(3,\) and \(4, 2\)",
        ),
        (
            lambda: policy_draws(KEY, jnp.zeros(3), jnp.zeros((3, 2)), count=0),
            "count must be at least 1",
        ),
        (
            lambda: reinforce_gradient(draw(3), jnp.zeros(2), LOGITS, CHANCES),
            r"one value for each of 3 draws, got shape \(2,\)",
        ),
        (
            lambda: leave_one_out_gradient(draw(1), jnp.zeros(1), LOGITS, CHANCES),
            "two draws or more",
        ),
    ],
)
def test_bad_input_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
