"""RELAX for a policy: unbiased gradients with a learnt control variate.

Written for a category s and, given s, coins b = (b_1 … b_n) of row s. With latents z of
what was drawn, conditional latents z̃ and any function c, RELAX is

    g = (f - c(z̃)) ∇ log P + ∇ c(z) - ∇ c(z̃),

unbiased since E[c(z̃) ∇ log P] + E[∇ c(z̃)] is ∇ E[c(z̃)] = ∇ E[c(z)] = E[∇ c(z)]. The
last step needs a c whose value moves continuously with z, and noise behind z that the
parameters do not change. Let ξ = softmax(z_s / τ) and ζ_k = sigmoid(z_k / τ) relax the
category and the coins of row k. Handing c the relaxed coins ζ_s of the drawn row breaks
this for the logits: s = argmax z_s, so that c jumps where the largest latent changes,
and ∇ c(z) misses the jump. Hence two estimators, one within the other.

* Probabilities: given s, the coins of row s are all that f depends on. RELAX with
  c(ζ_s, one-hot s) is unbiased for each s. (With ξ, held fixed, it would be too, but
  knows less of s: its variance came out a third larger.)
* Logits: the noise of all coins is independent of the category's. Given it, f depends
  on s alone, and c(Σ_k ξ_k ζ_k, ξ) is a smooth function of z_s. As ξ becomes one-hot,
  the mixed coins become those of the drawn row, so that both use one network.

Source: Grathwohl et al. 2018 (RELAX); Li et al. 2020 (DADA).
Differs: from the official code of DADA, whose control variate has no effect (see
`official_gradient`); it takes f at the draw once and differentiates the true variance.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from augment import relaxations
from augment.control_variate import Params, apply_control_variate
from augment.policy_gradients import (
    PolicyDraws,
    PolicyGradient,
    check_parameters,
    check_values,
)
from augment.relaxations import Number

Control: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]
Terms: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]  # log P, c(z), c(z̃)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RelaxGradient(PolicyGradient):
    """A gradient of RELAX, and that of its control variate.

    Attributes:
      second_moment: () mean of g² over draws and entries: the variance of one draw's
        gradient, up to a constant.
      control: gradient of `second_moment` in φ.
    """

    second_moment: jax.Array
    control: Params


def relax_gradient(
    draws: PolicyDraws,
    values: jax.Array,
    logits: jax.Array,
    probabilities: jax.Array,
    control: Params,
    *,
    baseline: Number = 0.0,
    temperature: Number = relaxations.TEMPERATURE,
) -> RelaxGradient:
    """The RELAX estimator of ∂ E[f] / ∂ (logits, probabilities), averaged over draws.

    Args:
      draws: D draws.
      values: (D,) f.
      logits: (S,), those that the draws were made with.
      probabilities: (S, n), likewise.
      control: φ, from `init_control_variate`; it must not depend on these draws, so
        take the step along its gradient afterwards.
      baseline: () or (D,) what f is compared with, such as a running mean or
        `step_baseline`; none may depend on the draw that it is for.
      temperature: τ, > 0, of the values that the control variate sees.

    Returns:
      The gradient, the loss of the control variate and its gradient.

    Raises:
      ValueError: shapes disagree, or the temperature is known and not positive.
    """
    check_parameters(logits, probabilities)
    check_values(draws, values)
    relaxations.check_temperature(temperature)

    def moment(control: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        c = functools.partial(apply_control_variate, control)

        def each(draw: PolicyDraws, value: jax.Array) -> tuple[jax.Array, jax.Array]:
            """Gradients of one draw in the logits and in the drawn row."""
            choice = functools.partial(_choice, c, temperature, draw, probabilities)
            tosses = functools.partial(_tosses, c, temperature, draw)
            row = probabilities[draw.sub_policies]
            return _estimate(value, choice, logits), _estimate(value, tosses, row)

        slopes = jax.vmap(each)(draws, values - baseline)
        squares = [jnp.sum(jnp.square(slope)) for slope in slopes]
        entries = len(values) * (logits.size + probabilities.size)
        return (squares[0] + squares[1]) / entries, slopes

    (second_moment, slopes), of_control = jax.value_and_grad(moment, has_aux=True)(
        control
    )
    rows = slopes[1] / len(values)
    return RelaxGradient(
        logits=slopes[0].mean(0),
        probabilities=jnp.zeros_like(probabilities).at[draws.sub_policies].add(rows),
        second_moment=second_moment,
        control=of_control,
    )


def _choice(
    c: Control,
    temperature: Number,
    draw: PolicyDraws,
    probabilities: jax.Array,
    logits: jax.Array,
) -> Terms:
    """Of the sub-policy, the noise of all coins given."""
    latents = relaxations.coin_latents(probabilities, draw.coin_noise)
    coins = relaxations.soft_coins(latents, temperature=temperature)

    def mixed(latents: jax.Array) -> jax.Array:
        category = relaxations.soft_category(latents, temperature=temperature)
        return c(category @ coins, category)

    row = draw.sub_policies
    z = relaxations.category_latents(logits, draw.category_noise)
    again = relaxations.conditional_category_latents(logits, row, draw.category_again)
    return jax.nn.log_softmax(logits)[row], mixed(z), mixed(again)


def _tosses(
    c: Control, temperature: Number, draw: PolicyDraws, chances: jax.Array
) -> Terms:
    """Of the coins of the drawn sub-policy, the sub-policy given."""
    rows = len(draw.category_noise)
    chosen = jax.nn.one_hot(draw.sub_policies, rows, dtype=chances.dtype)

    def relaxed(latents: jax.Array) -> jax.Array:
        return c(relaxations.soft_coins(latents, temperature=temperature), chosen)

    z = relaxations.coin_latents(chances, draw.coin_noise[draw.sub_policies])
    again = relaxations.conditional_coin_latents(
        chances, draw.applied, draw.coins_again
    )
    p = relaxations.clamp(chances)
    log_probability = jnp.sum(jnp.log(jnp.where(draw.applied, p, 1 - p)))
    return log_probability, relaxed(z), relaxed(again)


def _estimate(
    value: jax.Array, terms: Callable[[jax.Array], Terms], parameters: jax.Array
) -> jax.Array:
    """(f - c(z̃)) ∇ log P + ∇ c(z) - ∇ c(z̃), of terms log P, c(z), c(z̃).

    The factor is computed outside of what is differentiated, where it is a constant to
    the parameters but not to φ.
    """
    left = value - terms(parameters)[2]

    def surrogate(parameters: jax.Array) -> jax.Array:
        log_probability, plain, again = terms(parameters)
        return left * log_probability + plain - again

    return jax.grad(surrogate)(parameters)
