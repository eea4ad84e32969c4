"""Discrete choices as functions of noise that has no parameters, and their relaxations.

A category b and a coin are read off latents z(parameters, noise), b = argmax z and
b = [z > 0], and softmax(z/τ), sigmoid(z/τ) are their relaxations. The conditional
latents z̃ have the law of z given what was drawn. All are differentiable in the
parameters with the noise held fixed.

Source: Jang et al. 2017 and Maddison et al. 2017 for the relaxations; Tucker et al.
2017 (REBAR) and Grathwohl et al. 2018 (RELAX), appendices, for conditional latents.
"""

import chex
import jax
import jax.numpy as jnp

Number = float | jax.Array
CLAMP = 1e-6  # noise and probabilities stay this far from 0 and 1
TEMPERATURE = 0.5


def noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform numbers of the default floating dtype, within [1e-6, 1 - 1e-6]."""
    return jnp.clip(jax.random.uniform(key, shape, float), CLAMP, 1 - CLAMP)


def clamp(probabilities: jax.Array) -> jax.Array:
    """Probabilities held within [1e-6, 1 - 1e-6], with unit derivative everywhere.

    One that has left the range has the gradient of the end at which it acts, so that
    it can return.
    """
    held = jax.lax.stop_gradient(jnp.clip(probabilities, CLAMP, 1 - CLAMP))
    return held + (probabilities - jax.lax.stop_gradient(probabilities))


def category_latents(logits: jax.Array, uniforms: jax.Array) -> jax.Array:
    """Latents z = log π - log(-log u), whose argmax has probabilities π.

    Args:
      logits: (..., K), π = softmax(logits).
      uniforms: u, (..., K) noise.

    Returns:
      (..., K) latents.
    """
    chex.assert_equal_shape([logits, uniforms])
    return jax.nn.log_softmax(logits) - jnp.log(-jnp.log(uniforms))


def conditional_category_latents(
    logits: jax.Array, chosen: jax.Array, uniforms: jax.Array
) -> jax.Array:
    """Latents of a category, given which one was chosen.

    z̃_b = -log(-log v_b) for the chosen b, and -log(-log v_k / π_k - log v_b) for the
    others.

    Args:
      logits: (..., K), π = softmax(logits).
      chosen: b, (...) integer in 0 … K - 1.
      uniforms: v, (..., K) noise.

    Returns:
      (..., K) latents z̃, of which the one at b is the largest.
    """
    chex.assert_equal_shape([logits, uniforms])
    chex.assert_shape(chosen, logits.shape[:-1])
    # Log of -log v, so that a vanishing π_k divides nothing by zero.
    times = jnp.log(-jnp.log(uniforms))
    first = jnp.take_along_axis(times, chosen[..., None], -1)
    later = jnp.logaddexp(times - jax.nn.log_softmax(logits), first)
    is_chosen = jax.nn.one_hot(chosen, logits.shape[-1], dtype=bool)
    return -jnp.where(is_chosen, first, later)


def coin_latents(probabilities: jax.Array, uniforms: jax.Array) -> jax.Array:
    """Latents z = logit p + logit u, positive with probability p.

    Args:
      probabilities: p, (...) clamped to [1e-6, 1 - 1e-6].
      uniforms: u, (...) noise.

    Returns:
      (...) latents.
    """
    chex.assert_equal_shape([probabilities, uniforms])
    return _logit(clamp(probabilities)) + _logit(uniforms)


def conditional_coin_latents(
    probabilities: jax.Array, outcomes: jax.Array, uniforms: jax.Array
) -> jax.Array:
    """Latents of coins, given their outcomes.

    With θ = p and v' = vθ + 1 - θ on heads, v(1 - θ) on tails: z̃ = logit θ + logit v'.
    Written below without the cancellations: heads are above 0 and tails below to the
    last digit.

    Args:
      probabilities: p, (...) clamped to [1e-6, 1 - 1e-6].
      outcomes: (...) bool.
      uniforms: v, (...) noise.

    Returns:
      (...) latents z̃.
    """
    chex.assert_equal_shape([probabilities, outcomes, uniforms])
    logits = _logit(clamp(probabilities))
    below, above = jnp.log(uniforms), jnp.log1p(-uniforms)
    heads = jnp.logaddexp(0, logits + below) - above
    tails = below - jnp.logaddexp(0, above - logits)
    return jnp.where(outcomes, heads, tails)


def soft_category(
    latents: jax.Array, *, temperature: Number = TEMPERATURE, hard: bool = False
) -> jax.Array:
    """Relaxed one-hot category of its latents, softmax(z/τ).

    Args:
      latents: (..., K).
      temperature: τ, > 0; as it vanishes, one entry becomes 1.
      hard: one-hot values with the derivatives of the relaxation (straight-through).

    Returns:
      (..., K) numbers that sum to 1.

    Raises:
      ValueError: the temperature is known and not positive.
    """
    check_temperature(temperature)
    soft = jax.nn.softmax(latents / temperature)
    if not hard:
        return soft
    chosen = jax.nn.one_hot(jnp.argmax(latents, -1), latents.shape[-1])
    return _straight_through(chosen, soft)


def soft_coins(
    latents: jax.Array, *, temperature: Number = TEMPERATURE, hard: bool = False
) -> jax.Array:
    """Relaxed coins of their latents, sigmoid(z/τ).

    Args:
      latents: (...).
      temperature: τ, > 0.
      hard: values 0 and 1 with the derivatives of the relaxation (straight-through).

    Returns:
      (...) numbers in [0, 1].

    Raises:
      ValueError: the temperature is known and not positive.
    """
    check_temperature(temperature)
    soft = jax.nn.sigmoid(latents / temperature)
    return _straight_through(latents > 0, soft) if hard else soft


def gumbel_softmax(
    key: jax.Array,
    logits: jax.Array,
    *,
    temperature: Number = TEMPERATURE,
    hard: bool = True,
) -> jax.Array:
    """Draws a category, one-hot, with the derivatives of its relaxation.

    Args:
      key: PRNG key.
      logits: (..., K).
      temperature: τ, > 0.
      hard: False for the relaxed values too.

    Returns:
      (..., K).

    Raises:
      ValueError: the temperature is known and not positive.

    Source: Jang et al. 2017.
    """
    latents = category_latents(logits, noise(key, logits.shape))
    return soft_category(latents, temperature=temperature, hard=hard)


def relaxed_bernoulli(
    key: jax.Array,
    probabilities: jax.Array,
    *,
    temperature: Number = TEMPERATURE,
    hard: bool = True,
) -> jax.Array:
    """Draws coins, 0 or 1, with the derivatives of their relaxation.

    Args:
      key: PRNG key.
      probabilities: (...) clamped to [1e-6, 1 - 1e-6].
      temperature: τ, > 0.
      hard: False for the relaxed values too.

    Returns:
      (...).

    Raises:
      ValueError: the temperature is known and not positive.

    Source: Maddison et al. 2017.
    """
    latents = coin_latents(probabilities, noise(key, probabilities.shape))
    return soft_coins(latents, temperature=temperature, hard=hard)


def check_temperature(temperature: Number) -> None:
    """Refuses a temperature that is not positive where its value is known."""
    if not isinstance(temperature, jax.core.Tracer) and not temperature > 0:
        raise ValueError(f"the temperature must be positive, got {temperature}")


def _logit(share: jax.Array) -> jax.Array:
    return jnp.log(share) - jnp.log1p(-share)


def _straight_through(hard: jax.Array, soft: jax.Array) -> jax.Array:
    """The hard values with the derivatives of the soft ones."""
    return hard.astype(soft.dtype) + (soft - jax.lax.stop_gradient(soft))
