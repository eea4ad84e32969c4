"""Gradients of expectations over a policy's discrete choices.

A draw is a sub-policy s ~ Categorical(softmax(logits)) and, for each of its operations,
a coin of probability `probabilities[s, i]`. The caller evaluates f at the draws, and an
estimator of ∂ E[f] / ∂ (logits, probabilities) takes the values:

    draws = augment.policy_draws(key, logits, probabilities, count=8)
    values = ...                                  # (8,) f(sub-policy, coins)
    gradient = augment.leave_one_out_gradient(draws, values, logits, probabilities)

Probabilities are plain numbers, held within [1e-6, 1 - 1e-6] where they are used; the
gradient is the one at the held number. `relax_gradient` is the estimator with a learnt
control variate.
"""

import dataclasses

import jax
import jax.numpy as jnp

from augment import relaxations
from augment.relaxations import CLAMP, Number


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyDraws:
    """D independent draws, and the uniform noise that they are functions of.

    Attributes:
      sub_policies: (D,) int32 rows of the policy.
      applied: (D, n) bool, the coins of those rows.
      category_noise: (D, S), of the choice.
      coin_noise: (D, S, n), of the coins of all rows.
      category_again: (D, S), of the choice's conditional latents.
      coins_again: (D, n), of the drawn coins' conditional latents.
    """

    sub_policies: jax.Array
    applied: jax.Array
    category_noise: jax.Array
    coin_noise: jax.Array
    category_again: jax.Array
    coins_again: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PolicyGradient:
    """A gradient in the parameters of a policy's choices.

    Attributes:
      logits: (S,).
      probabilities: (S, n).
    """

    logits: jax.Array
    probabilities: jax.Array


def policy_draws(
    key: jax.Array, logits: jax.Array, probabilities: jax.Array, *, count: int = 1
) -> PolicyDraws:
    """Draws sub-policies and coins.

    Args:
      key: PRNG key.
      logits: (S,) log-weights of the sub-policies.
      probabilities: (S, n) chances that operations are applied.
      count: D, number of draws.

    Returns:
      The draws.

    Raises:
      ValueError: there are no sub-policies or operations, shapes disagree, or `count`
        is below 1.
    """
    check_parameters(logits, probabilities)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    keys = jax.random.split(key, 4)
    rows, steps = probabilities.shape
    category_noise = relaxations.noise(keys[0], (count, rows))
    coin_noise = relaxations.noise(keys[1], (count, rows, steps))
    latents = jax.vmap(relaxations.category_latents, (None, 0))(logits, category_noise)
    chosen = jnp.argmax(latents, -1).astype(jnp.int32)
    return PolicyDraws(
        sub_policies=chosen,
        applied=_outcomes(probabilities, coin_noise)[jnp.arange(count), chosen],
        category_noise=category_noise,
        coin_noise=coin_noise,
        category_again=relaxations.noise(keys[2], (count, rows)),
        coins_again=relaxations.noise(keys[3], (count, steps)),
    )


def reinforce_gradient(
    draws: PolicyDraws,
    values: jax.Array,
    logits: jax.Array,
    probabilities: jax.Array,
    *,
    baseline: Number = 0.0,
) -> PolicyGradient:
    """The score-function estimator, (f - baseline) ∇ log P, averaged over draws.

    Args:
      draws: D draws.
      values: (D,) f.
      logits: (S,), those that the draws were made with.
      probabilities: (S, n), likewise.
      baseline: () or (D,) what f is compared with, such as a running mean or
        `step_baseline`; unbiased as long as none depends on the draw that it is for.

    Returns:
      The gradient.

    Raises:
      ValueError: shapes disagree.

    Source: Williams 1992 (REINFORCE).
    """
    check_parameters(logits, probabilities)
    check_values(draws, values)
    weights = (values - baseline) / len(values)
    return PolicyGradient(
        logits=_category_scores(draws, weights, logits),
        probabilities=_drawn_coin_scores(draws, weights, probabilities),
    )


def leave_one_out_gradient(
    draws: PolicyDraws,
    values: jax.Array,
    logits: jax.Array,
    probabilities: jax.Array,
) -> PolicyGradient:
    """The score-function estimator, each draw against the mean of the others.

    Args:
      draws: D >= 2 draws.
      values: (D,) f.
      logits: (S,), those that the draws were made with.
      probabilities: (S, n), likewise.

    Returns:
      The gradient.

    Raises:
      ValueError: there is one draw only, or shapes disagree.

    Source: Kool et al. 2019.
    """
    check_values(draws, values)
    count = len(values)
    if count < 2:
        raise ValueError("leaving one out needs two draws or more, got 1")
    against = (values - jnp.mean(values)) * count / (count - 1)
    return reinforce_gradient(draws, against, logits, probabilities)


def step_baseline(
    values: jax.Array, *, mean: Number, shared: Number, own: Number
) -> tuple[jax.Array, jax.Array]:
    """What each draw is best compared with where draws are tried on one batch.

    There f_d = mean + (what the batch adds to all) + (what is the draw's own), of
    variances `shared` and `own`. The linear prediction of f_d from the mean and from
    the other draws that is off by the least is

        b_d = mean + κ (mean of the others - mean),
        κ = shared / (shared + own / (D - 1)),

    off by the variance own + (1 - κ) shared. It is the mean for one draw or where
    batches do not matter, and leaves one out where nothing else does.

    Args:
      values: (D,) f of the draws of a step.
      mean: () of f; like the variances it must not depend on these draws.
      shared: () variance of f between steps, >= 0.
      own: () variance between draws of a step, >= 0.

    Returns:
      (D,) baselines and the () variance of f - b.
    """
    others = len(values) - 1
    if not others:
        return jnp.broadcast_to(mean, values.shape), jnp.asarray(shared + own)
    both = shared * others + own
    share = jnp.where(both > 0, shared * others, 1) / jnp.where(both > 0, both, 1)
    left_out = (jnp.sum(values) - values) / others
    return mean + share * (left_out - mean), own + (1 - share) * shared


def official_gradient(
    draws: PolicyDraws,
    values: jax.Array,
    logits: jax.Array,
    probabilities: jax.Array,
) -> PolicyGradient:
    """What the official code of DADA computes, for comparison.

    Its estimator is taken at w + Rv and w - Rv with the same latents and the same
    control variate, which cancels in the difference: what remains is a score function
    with f = -(L⁺ - L⁻) / 2R. The score of the sub-policy is summed once for each of the
    S n coins, and the scores of the coins that play no part are not left out, so that
    the gradient in the logits is S n times too long and the other one noisier. A
    probability outside of [1e-6, 1 - 1e-6] has no gradient.

    Args:
      draws: D draws; the official code has one.
      values: (D,) f, such as `linear_step_value`.
      logits: (S,), those that the draws were made with.
      probabilities: (S, n), likewise.

    Returns:
      The gradient.

    Raises:
      ValueError: shapes disagree.

    Source: the official code of Li et al. 2020 (DADA), search_relax.
    """
    check_parameters(logits, probabilities)
    check_values(draws, values)
    weights = values / len(values)
    scores = _coin_scores(probabilities, _outcomes(probabilities, draws.coin_noise))
    moves = probabilities == jnp.clip(probabilities, CLAMP, 1 - CLAMP)
    return PolicyGradient(
        logits=probabilities.size * _category_scores(draws, weights, logits),
        probabilities=jnp.where(moves, jnp.einsum("d,dsn->sn", weights, scores), 0),
    )


def check_parameters(logits: jax.Array, probabilities: jax.Array) -> None:
    """Refuses parameters that are not (S,) and (S, n), or empty."""
    shapes = f"got {logits.shape} and {probabilities.shape}"
    if probabilities.ndim != 2 or logits.shape != probabilities.shape[:1]:
        raise ValueError(f"logits and probabilities must be (S,) and (S, n), {shapes}")
    if not probabilities.size:
        raise ValueError(
            f"a policy needs at least one sub-policy of one operation, {shapes}"
        )


def check_values(draws: PolicyDraws, values: jax.Array) -> None:
    """Refuses values that are not one for each draw."""
    if values.shape != draws.sub_policies.shape:
        raise ValueError(
            f"there must be one value for each of {len(draws.sub_policies)} draws, "
            f"got shape {values.shape}"
        )


def _outcomes(probabilities: jax.Array, noise: jax.Array) -> jax.Array:
    """(D, S, n) bool coins of all rows."""
    return jax.vmap(relaxations.coin_latents, (None, 0))(probabilities, noise) > 0


def _category_scores(
    draws: PolicyDraws, weights: jax.Array, logits: jax.Array
) -> jax.Array:
    """(S,) weighted sum over draws of the gradient of log π_s."""
    chosen = jax.nn.one_hot(draws.sub_policies, len(logits), dtype=logits.dtype)
    return weights @ (chosen - jax.nn.softmax(logits)[None])


def _coin_scores(probabilities: jax.Array, outcomes: jax.Array) -> jax.Array:
    """Gradient of the log-probability of each of (D, ..., n) outcomes."""
    chances = relaxations.clamp(probabilities)
    chances = jnp.broadcast_to(chances, outcomes.shape)
    return jnp.where(outcomes, 1 / chances, -1 / (1 - chances))


def _drawn_coin_scores(
    draws: PolicyDraws, weights: jax.Array, probabilities: jax.Array
) -> jax.Array:
    """(S, n) weighted sum over draws, in the rows that were drawn."""
    scores = _coin_scores(probabilities[draws.sub_policies], draws.applied)
    rows = weights[:, None] * scores
    return jnp.zeros_like(probabilities).at[draws.sub_policies].add(rows)
