"""DADA's Gumbel version: straight-through choices as the weight of an image."""

import jax
import jax.numpy as jnp

from augment import relaxations
from augment.policy_gradients import PolicyDraws, check_parameters
from augment.relaxations import Number


def gumbel_weights(
    draws: PolicyDraws,
    logits: jax.Array,
    probabilities: jax.Array,
    *,
    temperature: Number = relaxations.TEMPERATURE,
) -> jax.Array:
    """Weights of value 1 that carry the derivatives of DADA's Gumbel version.

    There an image is Σ_s c_s X_s with a straight-through one-hot c and X_s = 1 for the
    sub-policies that were not drawn, and X of the drawn one is Σ_r B_r Y_r over the
    on/off patterns r of its coins, with Y_r = 1 but for the drawn pattern. Both c and
    B sum to one, so that all of it is 1 + w (Y - 1) with w the product of the two
    weights that were drawn: see `gumbel_surrogate`.

    Args:
      draws: D draws.
      logits: (S,), those that the draws were made with.
      probabilities: (S, n), likewise.
      temperature: τ, > 0.

    Returns:
      (D,) ones, differentiable in the logits and the probabilities.

    Raises:
      ValueError: shapes disagree, or the temperature is known and not positive.

    Source: the official code of Li et al. 2020 (DADA), search_gumbel. It is biased.
    """
    check_parameters(logits, probabilities)

    def each(draw: PolicyDraws) -> jax.Array:
        row = draw.sub_policies
        category = relaxations.soft_category(
            relaxations.category_latents(logits, draw.category_noise),
            temperature=temperature,
            hard=True,
        )
        coins = relaxations.soft_coins(
            relaxations.coin_latents(probabilities[row], draw.coin_noise[row]),
            temperature=temperature,
            hard=True,
        )
        return category[row] * jnp.prod(jnp.where(draw.applied, coins, 1 - coins))

    return jax.vmap(each)(draws)


def gumbel_surrogate(images: jax.Array, weights: jax.Array) -> jax.Array:
    """Images as they are, with the derivatives of `gumbel_weights`.

    Args:
      images: (B, ...) floating batch, augmented and normalised, finite.
      weights: (D,) of the draws for equal, consecutive parts of the batch.

    Returns:
      (B, ...) the same values.

    Raises:
      ValueError: the batch does not divide into D parts.
    """
    batch, groups = len(images), len(weights)
    if groups == 0 or batch % groups:
        raise ValueError(f"{batch} images do not divide into {groups} groups of draws")
    each = jnp.repeat(weights, batch // groups).astype(images.dtype)
    each = jnp.expand_dims(each, tuple(range(1, images.ndim)))
    return each * images + (1 - each)
