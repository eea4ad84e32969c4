"""What one step of a search computes: the worth of draws, then a better policy.

A draw's worth is f = V(w') - V(w), the change of the validation loss V by one training
step on a batch that the draw augmented: lower is better.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

import augment
from jaxfaces.engine import optimizers
from jaxfaces.tasks.search_settings import SearchSettings
from jaxfaces.tasks.search_state import Policy, Search

# A training loss of the weights and of what shapes the images.
Shaped: TypeAlias = Callable[[Any, Mapping[str, jax.Array]], tuple[jax.Array, Any]]
# The batch (B, H, W, C) by the draw of a number, differentiable in its levels (1, n).
Smooth: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]


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
      gradient: of the mean of V(w') in whatever shapes the images differentiably,
        levels and under gumbel logits and probabilities, divided by the learning rate:
        Adam would all but stop as the rate falls along its schedule.
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
    smooth: Smooth | None = None,
) -> Verdict:
    """Tries draws.

    Args:
      settings: which estimator is to be served.
      trial: the step to try them on.
      policy: what they were drawn from.
      draws: D draws.
      images: (D, B, H, W, C) the batch augmented by each, standardised.
      temperature: τ.
      smooth: how the images of a draw depend on its levels; by default the derivative
        is 1 at every pixel (`augment.straight_through`).

    Returns:
      Their worth and gradients.
    """
    shaping = dict(policy) if settings.estimator == "gumbel" else {}
    shaping |= {"levels": policy["levels"], "factor": jnp.ones(())}
    validation = trial.validation
    if settings.estimator == "relax_linear":
        (before, _), direction = jax.value_and_grad(validation, has_aux=True)(
            trial.params
        )
        tried = functools.partial(_to_first_order, trial, shaping, direction)
    else:
        before, _ = validation(trial.params)
        tried = functools.partial(_by_a_step, settings, trial, shaping, before)

    rate = jnp.where(trial.rate, trial.rate, 1)

    def try_one(
        draw: augment.PolicyDraws, images: jax.Array, number: jax.Array
    ) -> tuple:
        change = smooth and functools.partial(smooth, number)
        train = _shaped(trial, draw, images, temperature, change)
        value, gradient, rest = tried(train)
        gradient = jax.tree.map(lambda g: g / rate, gradient)
        if settings.estimator == "official":
            # In a factor of the loss: the difference of the loss along the direction.
            value = gradient["factor"]
        return value, gradient, rest

    values, gradients, (slope, aux) = _each(try_one, draws, images)
    mean = jax.tree.map(lambda g: g.mean(0), gradients)
    del mean["factor"]
    return Verdict(values, mean, before, slope, aux)


def _to_first_order(trial: Trial, shaping: Any, direction: Any, train: Shaped) -> tuple:
    """The worth to first order, its gradient in the shaping, that in the weights, aux.

    Args:
      trial: the step.
      shaping: at which.
      direction: the gradient of the validation loss at the weights.
      train: the training loss of a draw.
    """
    value, gradient = jax.value_and_grad(
        lambda s: augment.linear_step_value(
            train, trial.params, s, direction, rate=trial.rate, has_aux=True
        )
    )(shaping)
    return value, gradient, jax.grad(train, has_aux=True)(trial.params, shaping)


def _by_a_step(
    settings: SearchSettings,
    trial: Trial,
    shaping: Any,
    before: jax.Array,
    train: Shaped,
) -> tuple:
    """The same as `_to_first_order` for the worth itself, V(w) being `before`."""
    order: Any = "finite" if settings.estimator == "official" else settings.order
    found = augment.one_step_meta_gradient(
        train,
        trial.validation,
        trial.params,
        shaping,
        rate=trial.rate,
        momentum=trial.momentum,
        buffer=trial.buffer,
        weight_decay=trial.weight_decay,
        decay_mask=optimizers.weights,
        order=order,
        has_aux=True,
    )
    value = found.validation_loss - before
    return value, found.gradient, (found.train_gradient, found.train_aux)


def _each(
    try_one: Callable[..., tuple], draws: augment.PolicyDraws, images: jax.Array
) -> tuple[jax.Array, Any, tuple]:
    """Worth (D,) and gradients (D, ...) of all draws, the rest of the first alone."""
    parts = draws, images, jnp.arange(len(images))
    *first, rest = try_one(*jax.tree.map(lambda x: x[0], parts))
    others = jax.tree.map(lambda x: x[1:], parts)

    def worth(one: tuple) -> list:
        return list(try_one(*one)[:2])

    if len(images) == 1 or jax.default_backend() == "cpu":
        # No loop: XLA runs convolution gradients many times slower inside of one.
        several = [
            worth(jax.tree.map(lambda x, n=n: x[n], others))
            for n in range(len(images) - 1)
        ]
        found = jax.tree.map(lambda *each: jnp.stack(each), first, *several)
    else:
        found = jax.tree.map(
            lambda one, more: jnp.concatenate([one[None], more]),
            first,
            jax.lax.map(worth, others),
        )
    return *found, rest


def _shaped(
    trial: Trial,
    draw: augment.PolicyDraws,
    images: jax.Array,
    temperature: float | jax.Array,
    change: Callable[[jax.Array], jax.Array] | None,
) -> Shaped:
    """The training loss as a function of the weights and of what shapes the images."""
    one = jax.tree.map(lambda x: x[None], draw)

    def train(params: Any, shaping: Mapping[str, jax.Array]) -> tuple[jax.Array, Any]:
        levels = shaping["levels"][one.sub_policies]
        if change is None:
            shown = augment.straight_through(images, levels, one.applied)
        else:
            shown = augment.with_derivatives_of(images, change(levels))
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

    Values are divided by the deviation of f from its baseline, which suits the control
    variate and leaves Adam's direction as it is.

    Returns:
      The search, its history apart, and the mean square of the gradient in logits and
      probabilities, in units of f.
    """
    baseline, square = augment.step_baseline(
        verdict.values,
        mean=search.mean,
        shared=jnp.maximum(search.square - search.own, 0),
        own=search.own,
    )
    # Neither the relaxation nor the released code is scaled.
    plain = settings.estimator in ("gumbel", "official")
    square = jnp.ones(()) if plain else jnp.where(square > 0, square, 1)
    found = _in_choices(
        settings, search, draws, verdict, baseline, temperature, jnp.sqrt(square)
    )
    control, control_opt = search.control, search.control_opt
    if isinstance(found, augment.RelaxGradient):
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
    after = search.replace(
        policy=optax.apply_updates(search.policy, changes),
        opt=opt,
        control=control,
        control_opt=control_opt,
    )
    squares = jnp.sum(found.logits**2) + jnp.sum(found.probabilities**2)
    return after, square * squares / (found.logits.size + found.probabilities.size)


def _in_choices(
    settings: SearchSettings,
    search: Search,
    draws: augment.PolicyDraws,
    verdict: Verdict,
    baseline: jax.Array,
    temperature: float | jax.Array,
    deviation: jax.Array,
) -> augment.PolicyGradient:
    """The estimator's gradient in logits and probabilities, of f / `deviation`."""
    logits, chances = search.policy["logits"], search.policy["probabilities"]
    values, baseline = verdict.values / deviation, baseline / deviation
    if settings.estimator == "gumbel":
        found = verdict.gradient
        return augment.PolicyGradient(found["logits"], found["probabilities"])
    if settings.estimator == "official":
        return augment.official_gradient(draws, values, logits, chances)
    if settings.estimator != "reinforce":
        return augment.relax_gradient(
            draws,
            values,
            logits,
            chances,
            search.control,
            baseline=baseline,
            temperature=temperature,
        )
    return augment.reinforce_gradient(draws, values, logits, chances, baseline=baseline)
