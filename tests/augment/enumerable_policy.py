"""Four sub-policies of two operations, and a value for each of the 16 outcomes."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from augment.policy_gradients import policy_draws

ROWS, STEPS = 4, 2
SIZE = ROWS * (1 + STEPS)
RANDOM = np.random.default_rng(0)
TABLE = np.exp(RANDOM.normal(size=(ROWS, 2, 2)))
LOGITS = RANDOM.normal(size=ROWS)
CHANCES = RANDOM.uniform(0.15, 0.85, (ROWS, STEPS))


def outcomes():
    """Yields every (row, coins) with its probability."""
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum()
    for row, *coins in itertools.product(range(ROWS), (0, 1), (0, 1)):
        chances = np.where(coins, CHANCES[row], 1 - CHANCES[row])
        yield row, coins, shares[row] * np.prod(chances)


def mean():
    return sum(p * TABLE[row, *coins] for row, coins, p in outcomes())


def variance():
    """Of f between draws."""
    squares = sum(p * TABLE[row, *coins] ** 2 for row, coins, p in outcomes())
    return squares - mean() ** 2


def gradient():
    """The exact gradient, (12,): logits, then probabilities."""
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum()
    logits, chances = np.zeros(ROWS), np.zeros((ROWS, STEPS))
    for row, coins, p in outcomes():
        value = TABLE[row, *coins]
        logits += p * value * ((np.arange(ROWS) == row) - shares)
        chances[row] += (
            p
            * value
            * np.where(coins, 1, -1)
            / np.where(coins, CHANCES[row], 1 - CHANCES[row])
        )
    return np.concatenate([logits, chances.ravel()])


def values(draws):
    """f at D draws."""
    first, second = draws.applied.astype(int).T
    return jnp.asarray(TABLE)[draws.sub_policies, first, second]


def flat(result):
    return jnp.concatenate([result.logits, result.probabilities.ravel()])


def estimates(estimator, *, repeats, count, seed, batches=0.0):
    """(repeats, 12) gradients of `estimator(draws, values)`, each of `count` draws.

    `batches` is the deviation of what is added to all values of an estimate.
    """

    def one(key):
        drawing, adding = jax.random.split(key)
        draws = policy_draws(
            drawing, jnp.asarray(LOGITS), jnp.asarray(CHANCES), count=count
        )
        added = batches * jax.random.normal(adding)
        return flat(estimator(draws, values(draws) + added))

    keys = jax.random.split(jax.random.key(seed), repeats)
    return np.asarray(jax.jit(jax.vmap(one))(keys))


def running_mean(mean, f, step):
    """The mean of f that a search compares the next draws with."""
    keep = jnp.minimum(0.9, step / (step + 1))
    return keep * mean + (1 - keep) * jnp.mean(f)


def estimates_in_a_row(estimator, *, steps, count, seed):
    """As `estimates`, of `estimator(draws, values, baseline)` with a running mean."""

    def step(mean, given):
        number, key = given
        draws = policy_draws(
            key, jnp.asarray(LOGITS), jnp.asarray(CHANCES), count=count
        )
        f = values(draws)
        return running_mean(mean, f, number), flat(estimator(draws, f, mean))

    given = jnp.arange(steps), jax.random.split(jax.random.key(seed), steps)
    run = jax.jit(lambda given: jax.lax.scan(step, jnp.zeros(()), given)[1])
    return np.asarray(run(given))


@dataclasses.dataclass(frozen=True)
class Bias:
    """The largest |z| of the mean's components, and the length of its error."""

    largest: float
    bound: float
    error: float


def bias(samples, wanted=None):
    """How far the mean of samples is from the exact gradient.

    `bound` is what the largest |z| stays below with probability 0.99, by Bonferroni;
    `error` the length of the standard errors relative to the gradient's.
    """
    wanted = gradient() if wanted is None else wanted
    errors = samples.std(0) / np.sqrt(len(samples))
    return Bias(
        largest=np.abs((samples.mean(0) - wanted) / errors).max(),
        bound=stats.norm.isf(0.01 / (2 * len(wanted))),
        error=np.linalg.norm(errors) / np.linalg.norm(wanted),
    )
