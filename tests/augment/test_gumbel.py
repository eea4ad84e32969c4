"""DADA's Gumbel version: exact in value, its derivatives, and their bias."""

import itertools

import enumerable_policy as problem
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable_policy import CHANCES, LOGITS, ROWS, STEPS

from augment import relaxations
from augment.gumbel import gumbel_surrogate, gumbel_weights
from augment.policy_gradients import PolicyGradient, policy_draws

KEY = jax.random.key(5)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


IMAGES = np.random.default_rng(3).normal(size=(6, 4, 4, 1))


def released_mixture(draws, logits, chances):
    """Images of the released Gumbel code, every branch that was not drawn all ones."""
    parts = []
    for d, part in enumerate(jnp.split(IMAGES, 3)):
        latents = relaxations.category_latents(logits, draws.category_noise[d])
        soft = jax.nn.softmax(latents / 0.5)
        choice = jnp.eye(ROWS)[jnp.argmax(latents)]
        choice = choice - jax.lax.stop_gradient(soft) + soft
        row = int(draws.sub_policies[d])
        latents = relaxations.coin_latents(chances[row], draws.coin_noise[d, row])
        soft = jax.nn.sigmoid(latents / 0.5)
        coins = (soft >= 0.5) - jax.lax.stop_gradient(soft) + soft
        inside = 0.0
        for pattern in itertools.product((0, 1), repeat=STEPS):
            weight = jnp.prod(
                jnp.stack([b if on else 1 - b for b, on in zip(coins, pattern)])
            )
            drawn = pattern == tuple(int(on) for on in draws.applied[d])
            inside = inside + weight * (part if drawn else jnp.ones_like(part))
        total = 0.0
        for each in range(ROWS):
            total = total + choice[each] * (
                inside if each == row else jnp.ones_like(part)
            )
        parts.append(total)
    return jnp.concatenate(parts)


def test_the_gumbel_version_is_one_weight():
    draws = policy_draws(KEY, jnp.asarray(LOGITS), jnp.asarray(CHANCES), count=3)
    draws = jax.tree.map(np.asarray, draws)
    weights = np.random.default_rng(4).normal(size=IMAGES.shape)

    def mixture(logits, chances):
        return gumbel_surrogate(IMAGES, gumbel_weights(draws, logits, chances))

    given = jnp.asarray(LOGITS), jnp.asarray(CHANCES)
    np.testing.assert_array_equal(jax.jit(mixture)(*given), IMAGES)
    slopes = [
        jax.jit(jax.grad(lambda *x, run=run: jnp.sum(weights * run(*x) ** 2), (0, 1)))(
            *given
        )
        for run in (mixture, lambda *x: released_mixture(draws, *x))
    ]
    for ours, theirs in zip(*slopes):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-14)
        assert np.any(ours != 0)


@pytest.mark.parametrize(
    "crude",
    [
        # The released code's: what was not drawn counts as one.
        lambda draws, logits, chances: jnp.sum(
            gumbel_surrogate(
                problem.values(draws), gumbel_weights(draws, logits, chances)
            )
        ),
        # Straight-through with every branch computed, of a function of the images.
        lambda draws, logits, chances: jnp.sum(
            jax.vmap(all_branches, (0, None, None))(draws, logits, chances) ** 2
        ),
    ],
)
def test_the_gumbel_version_is_biased(crude):
    def estimator(draws, f):
        logits, chances = jax.grad(crude, (1, 2))(
            draws, jnp.asarray(LOGITS), jnp.asarray(CHANCES)
        )
        return PolicyGradient(logits, chances)

    samples = problem.estimates(estimator, repeats=200_000, count=1, seed=3)
    found = problem.bias(samples)
    assert found.largest > 3 * found.bound


def all_branches(draw, logits, chances):
    """The square root of f by its table, linear in straight-through choices."""
    category = relaxations.soft_category(
        relaxations.category_latents(logits, draw.category_noise), hard=True
    )
    coins = relaxations.soft_coins(
        relaxations.coin_latents(chances, draw.coin_noise), hard=True
    )
    table = jnp.sqrt(jnp.asarray(problem.TABLE))
    each = jnp.stack([1 - coins, coins], -1)
    return jnp.einsum("s,sa,sb,sab", category, each[:, 0], each[:, 1], table)


def test_bad_input_is_refused():
    draws = policy_draws(KEY, jnp.asarray(LOGITS), jnp.asarray(CHANCES))
    with pytest.raises(ValueError, match="temperature must be positive"):
        gumbel_weights(draws, LOGITS, CHANCES, temperature=0.0)
    with pytest.raises(ValueError, match="6 images do not divide into 4 groups"):
        gumbel_surrogate(jnp.asarray(IMAGES), jnp.ones(4))
