"""RELAX: its formula, its mean, its variance, and what its control variate learns."""

import dataclasses
import functools

import chex
import enumerable_policy as problem
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from enumerable_policy import CHANCES, LOGITS, ROWS, STEPS
from jax.flatten_util import ravel_pytree

from augment import relaxations
from augment.control_variate import apply_control_variate, init_control_variate
from augment.policy_gradients import (
    leave_one_out_gradient,
    policy_draws,
    reinforce_gradient,
)
from augment.relax import relax_gradient

KEY = jax.random.key(6)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnames="temperature")
def relaxed(draws, values, control, **options):
    return relax_gradient(
        draws, values, jnp.asarray(LOGITS), jnp.asarray(CHANCES), control, **options
    )


@functools.partial(jax.jit, static_argnums=0)
def draw(count, key=KEY):
    return policy_draws(key, jnp.asarray(LOGITS), jnp.asarray(CHANCES), count=count)


@functools.cache
def trained():
    """A control variate after 1,000 steps of 64 draws."""
    with jax.enable_x64(True):
        optimiser = optax.adam(0.01)
        control = init_control_variate(jax.random.key(0), ROWS, STEPS)
        state = optimiser.init(control)

        mean = jnp.zeros(())

        @jax.jit
        def step(control, state, mean, number, key):
            draws = draw(64, key)
            f = problem.values(draws)
            result = relaxed(draws, f, control, baseline=mean)
            updates, state = optimiser.update(result.control, state)
            mean = problem.running_mean(mean, f, number)
            return optax.apply_updates(control, updates), state, mean

        for number, key in enumerate(jax.random.split(jax.random.key(1), 1000)):
            control, state, mean = step(control, state, mean, number, key)
        return control


def randomly(scale=1.0):
    control = init_control_variate(KEY, ROWS, STEPS, width=5)
    control["output"]["kernel"] = scale * jax.random.normal(KEY, (5,))
    return control


def test_it_is_unbiased_with_a_control_variate_trained_on_other_draws():
    control = trained()
    samples = problem.estimates(
        lambda draws, f: relaxed(draws, f, control, baseline=problem.mean()),
        repeats=60_000,
        count=4,
        seed=5,
    )
    found = problem.bias(samples)
    assert found.largest < found.bound and found.error < 0.01


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_it_is_unbiased_with_any_control_variate(temperature):
    control = randomly(0.5)
    samples = problem.estimates(
        lambda draws, f: relaxed(
            draws, f, control, temperature=temperature, baseline=0.7
        ),
        repeats=60_000,
        count=4,
        seed=6,
    )
    found = problem.bias(samples)
    assert found.largest < found.bound and found.error < 0.015


def test_the_coins_of_the_drawn_row_alone_would_bias_the_logits():
    control = trained()

    def naive(draw, value):
        row = draw.sub_policies
        latents = relaxations.coin_latents(CHANCES, draw.coin_noise)
        coins = relaxations.soft_coins(latents)[row]

        def terms(logits):
            z = relaxations.category_latents(logits, draw.category_noise)
            again = relaxations.conditional_category_latents(
                logits, row, draw.category_again
            )
            z, again = map(relaxations.soft_category, (z, again))
            plain = apply_control_variate(control, coins, z)
            return (
                jax.nn.log_softmax(logits)[row],
                plain,
                apply_control_variate(control, coins, again),
            )

        left = value - terms(jnp.asarray(LOGITS))[2]

        def surrogate(logits):
            score, plain, again = terms(logits)
            return left * score + plain - again

        return jax.grad(surrogate)(jnp.asarray(LOGITS))

    def estimator(draws, f):
        result = reinforce_gradient(draws, f, jnp.asarray(LOGITS), jnp.asarray(CHANCES))
        logits = jax.vmap(naive)(draws, f).mean(0)
        return dataclasses.replace(result, logits=logits)

    samples = problem.estimates(estimator, repeats=60_000, count=4, seed=7)
    found = problem.bias(samples[:, :ROWS], problem.gradient()[:ROWS])
    assert found.largest > 3 * found.bound


def test_its_variance_is_below_that_of_reinforce_with_the_same_mean():
    control = trained()
    given = jnp.asarray(LOGITS), jnp.asarray(CHANCES)
    ours, theirs, left_out = (
        np.array([each[:ROWS].sum(), each[ROWS:].sum()])
        for each in (
            problem.estimates_in_a_row(estimator, steps=20_000, count=4, seed=8).var(0)
            for estimator in (
                lambda draws, f, mean: relaxed(draws, f, control, baseline=mean),
                lambda draws, f, mean: reinforce_gradient(
                    draws, f, *given, baseline=mean
                ),
                lambda draws, f, mean: leave_one_out_gradient(draws, f, *given),
            )
        )
    )
    # 0.87 and 0.32 of it, and 0.69 and 0.23 of what leaving one out has.
    assert (ours < theirs * [0.95, 0.5]).all(), (ours, theirs)
    assert (ours < left_out * [0.8, 0.4]).all(), (ours, left_out)
    # The loss is what falls: the mean square of a draw's gradient.
    draws = draw(20_000)
    moments = [
        relaxed(draws, problem.values(draws), each, baseline=problem.mean())
        for each in (control, init_control_variate(KEY, ROWS, STEPS))
    ]
    assert moments[0].second_moment < 0.5 * moments[1].second_moment


def test_before_training_it_is_reinforce():
    draws = draw(5)
    f = problem.values(draws)
    control = init_control_variate(KEY, ROWS, STEPS)
    result = relaxed(draws, f, control, baseline=0.3)
    plain = reinforce_gradient(
        draws, f, jnp.asarray(LOGITS), jnp.asarray(CHANCES), baseline=0.3
    )
    np.testing.assert_allclose(
        problem.flat(result), problem.flat(plain), rtol=1e-10, atol=1e-14
    )
    # And yet it learns: the last layer has a gradient.
    assert (result.control["output"]["kernel"] != 0).all()


def by_hand(draws, d, f, control):
    """One draw's gradient in NumPy, derivatives of c by central differences."""
    hidden, output = jax.tree.map(np.asarray, (control["hidden"], control["output"]))
    row, b = int(draws.sub_policies[d]), np.asarray(draws.applied[d])
    u, v = np.asarray(draws.category_noise[d]), np.asarray(draws.category_again[d])
    coin_u, coin_v = np.asarray(draws.coin_noise[d]), np.asarray(draws.coins_again[d])
    tau = 0.5

    def c(coins, category):
        inputs = 2 * np.concatenate([coins, category]) - 1
        units = np.tanh(inputs @ hidden["kernel"] + hidden["bias"])
        return units @ output["kernel"] + output["bias"]

    def logit(p):
        return np.log(p / (1 - p))

    def sigmoid(z):
        return 1 / (1 + np.exp(-z / tau))

    def softmax(z):
        return np.exp(z) / np.exp(z).sum()

    all_coins = sigmoid(logit(CHANCES) + logit(coin_u))

    def of_logits(logits):
        shares = softmax(logits)
        z = np.log(shares) - np.log(-np.log(u))
        again = -np.log(-np.log(v) / shares - np.log(v[row]))
        again[row] = -np.log(-np.log(v[row]))
        soft, soft_again = softmax(z / tau), softmax(again / tau)
        return c(soft @ all_coins, soft), c(soft_again @ all_coins, soft_again)

    def of_chances(p):
        below = np.where(b, coin_v * p + 1 - p, coin_v * (1 - p))
        again = logit(p) + logit(below)
        one_hot = (np.arange(ROWS) == row) * 1.0
        z = logit(p) + logit(coin_u[row])
        return c(sigmoid(z), one_hot), c(sigmoid(again), one_hot)

    def estimate(function, at, score):
        slope = np.zeros_like(at)
        for place in range(len(at)):
            step = 1e-5 * (np.arange(len(at)) == place)
            up, down = function(at + step), function(at - step)
            slope[place] = ((up[0] - up[1]) - (down[0] - down[1])) / 2e-5
        return (f - function(at)[1]) * score + slope

    p = CHANCES[row]
    chances = np.zeros((ROWS, STEPS))
    chances[row] = estimate(of_chances, p, np.where(b, 1 / p, -1 / (1 - p)))
    score = (np.arange(ROWS) == row) - softmax(LOGITS)
    logits = estimate(of_logits, LOGITS, score)
    return np.concatenate([logits, chances.ravel()])


def test_it_is_its_formula():
    draws, control = draw(6), randomly()
    f = np.asarray(problem.values(draws))
    result = relaxed(draws, f, control)
    each = np.stack([by_hand(draws, d, f[d], control) for d in range(6)])
    np.testing.assert_allclose(problem.flat(result), each.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.second_moment, np.mean(each**2), rtol=1e-6)


def test_the_loss_of_the_control_variate_is_truly_differentiated():
    draws, control = draw(3), randomly()
    f = problem.values(draws)
    run = relaxed
    slopes = run(draws, f, control).control
    flat, rebuild = ravel_pytree(control)
    for seed in range(3):
        direction = jax.random.normal(jax.random.key(seed), flat.shape)
        ends = [
            run(draws, f, rebuild(flat + side * 1e-6 * direction)).second_moment
            for side in (1, -1)
        ]
        wanted = (ends[0] - ends[1]) / 2e-6
        found = ravel_pytree(slopes)[0] @ direction
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_draws_are_averaged_and_one_compilation_serves_all():
    control = randomly()
    chex.clear_trace_counter()
    run = jax.jit(chex.assert_max_traces(relaxed.__wrapped__, n=1))
    alone = []
    draws = draw(4)
    f = problem.values(draws)
    for d in range(4):
        mine = jax.tree.map(lambda leaf, d=d: leaf[d : d + 1], draws)
        alone.append(run(mine, f[d : d + 1], control))
    mean = jax.tree.map(lambda *leaves: sum(leaves) / 4, *alone)
    chex.assert_trees_all_close(relaxed(draws, f, control), mean, rtol=1e-9, atol=1e-13)


def test_rows_that_were_not_drawn_have_no_gradient():
    draws = draw(2)
    result = relaxed(draws, problem.values(draws), randomly())
    drawn = np.isin(np.arange(ROWS), draws.sub_policies)
    assert (result.probabilities[~drawn] == 0).all()
    assert (result.probabilities[drawn] != 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 2), (3, 1), (2, 3)])
def test_small_policies_and_sure_coins(dtype, shape):
    logits = jnp.zeros(shape[0], dtype).at[0].set(30)
    chances = jnp.full(shape, 0.5, dtype).at[0, 0].set(1).at[-1, -1].set(-0.2)
    control = init_control_variate(KEY, *shape)
    control["output"]["kernel"] += 1.0
    draws = policy_draws(KEY, logits, chances, count=20)
    result = jax.jit(relax_gradient)(
        draws, jnp.arange(20.0), logits, chances, control, baseline=9.5
    )
    chex.assert_tree_all_finite(result)
    assert result.logits.shape == logits.shape
    assert result.probabilities.shape == shape
    if shape[0] == 1:
        np.testing.assert_allclose(result.logits, 0, atol=1e-12)


def test_what_is_not_a_number_shows():
    draws = draw(3)
    f = problem.values(draws).at[0].set(jnp.nan)
    result = relaxed(draws, f, randomly())
    assert np.isnan(result.logits).all() and np.isnan(result.second_moment)
    assert np.isnan(result.probabilities[draws.sub_policies[0]]).all()


def test_bad_input_is_refused():
    draws, control = draw(2), randomly()
    f = problem.values(draws)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        relaxed(draws, f, control, temperature=0)
    with pytest.raises(ValueError, match="one value for each of 2 draws"):
        relaxed(draws, f[:1], control)
    with pytest.raises(ValueError, match="needs sub-policies, operations and units"):
        init_control_variate(KEY, 0)


def test_the_control_variate_has_the_size_of_its_inputs():
    control = init_control_variate(KEY, 105, 2)
    kernel = control["hidden"]["kernel"]
    assert kernel.shape == (107, 100)
    assert 0.095 < np.abs(kernel).max() <= 107**-0.5
