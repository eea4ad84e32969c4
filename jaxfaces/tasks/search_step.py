"""What one step of a search computes: the worth of draws, then a better policy.

A draw's worth is f = V(w') - V(w), the change of the validation loss V by one training
step on a batch that the draw augmented: lower is better.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import augment
from jaxfaces.engine import optimizers
from jaxfaces.tasks.search_settings import SearchSettings
from jaxfaces.tasks.search_state import Policy, Search


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training step that draws are tried on.

    Attributes:
      train: (params, images) -> (training loss, aux).
      validation: params -> (validation loss, aux).
      params: weights w.
      buffer: of the momentum, like `params`; None where there is no momentum.
      rate: () learning rate.
      momentum: of the step.
      weight_decay: of the step, on matrices and kernels.
    """

    train: Callable[[Any, jax.Array], tuple[jax.Array, Any]]
    validation: Callable[[Any], tuple[jax.Array, Any]]
    params: Any
    buffer: Any
    rate: jax.Array
    momentum: float
    weight_decay: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of D draws.

    Attributes:
      values: (D,) f.
      gradient: of the mean of V(w') in whatever shapes the images differentiably:
        levels, and under gumbel logits and probabilities.
      before: () V(w).
      train_gradient: in the weights, on the images of the first draw.
      train_aux: what the training loss returned there.
    """

    values: jax.Array
    gradient: Any
    before: jax.Array
    train_gradient: Any
    train_aux: Any


def judge(
    settings: SearchSettings,
    trial: Trial,
    policy: Policy,
    draws: augment.PolicyDraws,
    images: jax.Array,
    temperature: float | jax.Array,
) -> Verdict:
    """Tries draws.

    Args:
      settings: which estimator is to be served.
      trial: the step to try them on.
      policy: what they were drawn from.
      draws: D draws.
      images: (D, B, H, W, C) the batch augmented by each, standardised.
      temperature: τ.

    Returns:
      Their worth and gradients.
    """
    shaping = dict(policy) if settings.estimator == "gumbel" else {}
    shaping |= {"levels": policy["levels"], "factor": jnp.ones(())}
    params, rate, direction = trial.params, trial.rate, None
    official = settings.estimator == "official"
    order: Any = "finite" if official else settings.order
    if settings.estimator == "relax_linear":
        (before, _), direction = jax.value_and_grad(trial.validation, has_aux=True)(
            params
        )
    else:
        before, _ = trial.validation(params)

    def try_one(draw: augment.PolicyDraws, images: jax.Array) -> tuple:
        """f, the gradient in the shaping, and that in the weights with its aux."""
        train = _shaped(trial, draw, images, temperature)
        if direction is not None:
            value, gradient = jax.value_and_grad(
                lambda s: augment.linear_step_value(
                    train, params, s, direction, rate=rate, has_aux=True
                )
            )(shaping)
            slope, aux = jax.grad(train, has_aux=True)(params, shaping)
            return value, gradient, (slope, aux)
        found = augment.one_step_meta_gradient(
            train,
            trial.validation,
            params,
            shaping,
            rate=rate,
            momentum=trial.momentum,
            buffer=trial.buffer,
            weight_decay=trial.weight_decay,
            decay_mask=optimizers.weights,
            order=order,
            has_aux=True,
        )
        value, gradient = found.validation_loss - before, found.gradient
        if official:  # the released code leaves the learning rate out
            gradient = jax.tree.map(lambda g: g / jnp.where(rate, rate, 1), gradient)
            # In a factor of the loss: the difference of the loss along the direction.
            value = gradient["factor"]
        return value, gradient, (found.train_gradient, found.train_aux)

    def others(_: None, one: tuple) -> tuple[None, tuple]:
        return None, try_one(*one)[:2]

    value, gradient, (slope, aux) = try_one(
        *jax.tree.map(lambda x: x[0], (draws, images))
    )
    found = jax.tree.map(lambda x: x[None], (value, gradient))
    if len(images) > 1:
        rest = jax.tree.map(lambda x: x[1:], (draws, images))
        # Unrolled on CPU: XLA runs convolution gradients many times slower in a loop.
        unroll = jax.default_backend() == "cpu"
        _, more = jax.lax.scan(others, None, rest, unroll=unroll)
        found = jax.tree.map(lambda *parts: jnp.concatenate(parts), found, more)
    values, gradients = found
    mean = jax.tree.map(lambda g: g.mean(0), gradients)
    del mean["factor"]
    return Verdict(values, mean, before, slope, aux)


def _shaped(
    trial: Trial,
    draw: augment.PolicyDraws,
    images: jax.Array,
    temperature: float | jax.Array,
) -> Callable[[Any, Mapping[str, jax.Array]], tuple[jax.Array, Any]]:
    """The training loss as a function of the weights and of what shapes the images."""
    one = jax.tree.map(lambda x: x[None], draw)

    def train(params: Any, shaping: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
        levels = shaping["levels"][one.sub_policies]
        shown = augment.straight_through(images, levels, one.applied)
        if "logits" in shaping:
            weights = augment.gumbel_weights(
                one,
                shaping["logits"],
                shaping["probabilities"],
                temperature=temperature,
            )
            shown = augment.gumbel_surrogate(shown, weights)
        loss, aux = trial.train(params, shown)
        return shaping["factor"] * loss, aux

    return train


def improve(
    settings: SearchSettings,
    search: Search,
    draws: augment.PolicyDraws,
    verdict: Verdict,
    temperature: float | jax.Array,
) -> tuple[Search, jax.Array]:
    """One step of the policy and of the control variate.

    Values are divided by the running deviation of f, which suits the control variate
    and leaves Adam's direction as it is.

    Returns:
      The search, its history apart, and the mean square of the gradient in logits and
      probabilities, in units of f.
    """
    policy, values = search.policy, verdict.values
    logits, chances = policy["logits"], policy["probabilities"]
    deviation = jnp.sqrt(jnp.where(search.square > 0, search.square, 1))
    scaled, baseline = values / deviation, search.mean / deviation
    control, control_opt = search.control, search.control_opt
    found: Any
    if settings.estimator == "gumbel":
        deviation = jnp.ones(())
        found = augment.PolicyGradient(
            verdict.gradient["logits"], verdict.gradient["probabilities"]
        )
    elif settings.estimator == "official":
        deviation = jnp.ones(())
        found = augment.official_gradient(draws, values, logits, chances)
    elif settings.estimator == "reinforce" and settings.draws > 1:
        found = augment.leave_one_out_gradient(draws, scaled, logits, chances)
    elif settings.estimator == "reinforce":
        found = augment.reinforce_gradient(
            draws, scaled, logits, chances, baseline=baseline
        )
    else:
        found = augment.relax_gradient(
            draws,
            scaled,
            logits,
            chances,
            control,
            baseline=baseline,
            temperature=temperature,
        )
        changes, control_opt = settings.control_optimizer().update(
            found.control, control_opt
        )
        control = optax.apply_updates(control, changes)
    gradient = {
        "logits": found.logits,
        "probabilities": found.probabilities,
        "levels": verdict.gradient["levels"],
    }
    changes, opt = settings.optimizer().update(gradient, search.opt)
    squares = jnp.sum(found.logits**2) + jnp.sum(found.probabilities**2)
    after = search.replace(
        policy=optax.apply_updates(policy, changes),
        opt=opt,
        control=control,
        control_opt=control_opt,
    )
    return after, deviation**2 * squares / (logits.size + chances.size)
