"""Laws of latents, conditional and marginal, and values and slopes of relaxations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from augment import relaxations

KEY = jax.random.key(7)
COUNT = 100_000
LOGITS = np.log([0.1, 0.2, 0.3, 0.4])
CHANCES = np.array([0.05, 0.3, 0.5, 0.9])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def category(place):
    """N latents and conditional latents of a category, and the choices."""
    first, second = jax.random.split(jax.random.fold_in(KEY, place))
    shape = (COUNT, len(LOGITS))
    logits = jnp.broadcast_to(LOGITS, shape)
    latents = relaxations.category_latents(logits, relaxations.noise(first, shape))
    chosen = jnp.argmax(latents, -1)
    given = relaxations.conditional_category_latents(
        logits, chosen, relaxations.noise(second, shape)
    )
    return np.asarray(latents), np.asarray(chosen), np.asarray(given)


def coins(place):
    first, second = jax.random.split(jax.random.fold_in(KEY, place))
    shape = (COUNT, len(CHANCES))
    chances = jnp.broadcast_to(CHANCES, shape)
    latents = relaxations.coin_latents(chances, relaxations.noise(first, shape))
    outcomes = latents > 0
    given = relaxations.conditional_coin_latents(
        chances, outcomes, relaxations.noise(second, shape)
    )
    return np.asarray(latents), np.asarray(outcomes), np.asarray(given)


def alike(one, other):
    """Two samples of one law, by Kolmogorov and Smirnov, at a fixed key."""
    return stats.ks_2samp(one, other).pvalue > 1e-3


def test_choices_come_as_often_as_they_should():
    _, chosen, _ = category(0)
    counts = np.bincount(chosen, minlength=4)
    assert stats.chisquare(counts, COUNT * np.exp(LOGITS)).pvalue > 1e-3
    outcomes = coins(0)[1]
    for column, chance in enumerate(CHANCES):
        heads = int(outcomes[:, column].sum())
        assert stats.binomtest(heads, COUNT, chance).pvalue > 1e-3


def test_latents_of_a_category_given_the_choice():
    latents, _, given = category(1)
    other, chosen, _ = category(2)  # the conditional law by selection, of other keys
    mine = np.argmax(latents, -1)
    assert np.array_equal(mine, np.argmax(given, -1))
    for row in range(4):
        for column in range(4):
            assert alike(given[mine == row, column], other[chosen == row, column]), (
                row,
                column,
            )
    # Unconditionally they have the law of Gumbel variables about log π.
    for column in range(4):
        law = stats.gumbel_r(LOGITS[column]).cdf
        assert stats.kstest(given[:, column], law).pvalue > 1e-3
        assert stats.kstest(latents[:, column], law).pvalue > 1e-3
    # The columns of z̃ hang together as those of z do.
    ours, theirs = np.corrcoef(given.T), np.corrcoef(latents.T)
    np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_latents_of_coins_given_their_outcomes():
    latents, outcomes, given = coins(3)
    other, others, _ = coins(4)
    assert np.array_equal(outcomes, given > 0)
    for column, chance in enumerate(CHANCES):
        for outcome in (False, True):
            ours = given[outcomes[:, column] == outcome, column]
            theirs = other[others[:, column] == outcome, column]
            assert alike(ours, theirs), (column, outcome)
        law = stats.logistic(np.log(chance / (1 - chance))).cdf
        assert stats.kstest(given[:, column], law).pvalue > 1e-3
        assert stats.kstest(latents[:, column], law).pvalue > 1e-3


def test_conditional_latents_are_the_formulas_of_the_papers():
    v = np.linspace(0.05, 0.95, 7)[:, None]
    theta = np.broadcast_to(CHANCES, (7, 4))
    for outcome in (False, True):
        below = v * theta + 1 - theta if outcome else v * (1 - theta)
        wanted = np.log(theta / (1 - theta)) + np.log(below / (1 - below))
        result = relaxations.conditional_coin_latents(
            jnp.asarray(theta),
            jnp.full(theta.shape, outcome),
            jnp.broadcast_to(v, theta.shape),
        )
        np.testing.assert_allclose(result, wanted, rtol=1e-10)
    v = np.random.default_rng(0).uniform(size=4)
    for b in range(4):
        wanted = -np.log(-np.log(v) / np.exp(LOGITS) - np.log(v[b]))
        wanted[b] = -np.log(-np.log(v[b]))
        result = relaxations.conditional_category_latents(
            jnp.asarray(LOGITS) + 3.0, jnp.asarray(b), jnp.asarray(v)
        )
        np.testing.assert_allclose(result, wanted, rtol=1e-10)


def test_hard_values_with_soft_slopes():
    logits = jnp.broadcast_to(LOGITS, (1000, 4))
    weights = np.random.default_rng(1).normal(size=(1000, 4))
    for draw, given in (
        (relaxations.gumbel_softmax, logits),
        (relaxations.relaxed_bernoulli, jnp.broadcast_to(CHANCES, (1000, 4))),
    ):
        hard = np.asarray(draw(KEY, given))
        soft = np.asarray(draw(KEY, given, hard=False))
        assert set(np.unique(hard)) == {0.0, 1.0}
        slopes = [
            jax.grad(lambda x, h, draw=draw: jnp.sum(weights * draw(KEY, x, hard=h)))(
                given, h
            )
            for h in (True, False)
        ]
        np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-12)
        cold = draw(KEY, given, temperature=1e-3, hard=False)
        assert np.mean(np.abs(cold - hard)) < 1e-2 < np.mean(np.abs(soft - hard))
    np.testing.assert_array_equal(
        np.argmax(relaxations.gumbel_softmax(KEY, logits), -1),
        np.argmax(relaxations.gumbel_softmax(KEY, logits, hard=False), -1),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_breaks_at_the_ends(dtype):
    ends = jnp.array([0.0, 1.0, -0.3, 1.2, 1e-9], dtype)
    edge = jnp.array([1e-6, 1 - 1e-6], dtype)

    def both(p, u, v):
        z = relaxations.coin_latents(p, u)
        return z, relaxations.conditional_coin_latents(p, z > 0, v)

    for u in edge:
        for v in edge:
            wide = jnp.full_like(ends, u), jnp.full_like(ends, v)
            z, given = both(ends, *wide)
            assert np.isfinite(z).all() and np.isfinite(given).all()
            assert np.array_equal(z > 0, given > 0)
            slopes = jax.jacobian(both)(ends, *wide)
            assert all(np.isfinite(slope).all() for slope in slopes)
    # Beyond the range the slope is that of the end.
    slope = jax.grad(lambda p: relaxations.clamp(p))
    assert slope(jnp.asarray(-0.3)) == slope(jnp.asarray(0.5)) == 1
    far = jnp.array([0.0, -2000.0, 500.0], dtype)
    u = jnp.full_like(far, 0.3)
    for b in range(3):
        z, slopes = jax.jvp(
            lambda x, b=b: relaxations.conditional_category_latents(x, jnp.array(b), u),
            (far,),
            (jnp.ones_like(far).at[1].set(2.0),),
        )
        assert np.isfinite(z).all() and np.isfinite(slopes).all()
        assert jnp.argmax(z) == b


def test_noise_keeps_away_from_the_ends():
    u = np.asarray(relaxations.noise(KEY, (COUNT * 10,)))
    assert 1e-6 <= u.min() < 1e-5 and 1 - 1e-5 < u.max() <= 1 - 1e-6


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    for draw in (relaxations.gumbel_softmax, relaxations.relaxed_bernoulli):
        with pytest.raises(ValueError, match="temperature must be positive"):
            draw(KEY, jnp.asarray(CHANCES), temperature=temperature)
    traced = jax.jit(relaxations.gumbel_softmax)
    assert traced(KEY, jnp.asarray(LOGITS), temperature=0.7).sum() == 1
