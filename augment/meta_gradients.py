"""How a loss after one training step depends on whatever shaped that step.

A step of training takes weights w to

    w'(s) = w - η (μ m + ∇_w L(w, s) + λ w)

with momentum buffer m and a shaping s: levels of operations, shares of mixed pairs,
weights of examples. `one_step_meta_gradient` is the gradient of a validation loss
V(w'(s)) in s; `one_step_value` is the change of V that the step brings; and
`linear_step_value` is the latter to first order, by one forward-mode pass. Losses are
functions, s is any pytree of floating arrays.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

Number: TypeAlias = float | jax.Array
Loss: TypeAlias = Callable[..., Any]
Order: TypeAlias = Literal["forward", "reverse", "finite"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MetaStep:
    """A meta-gradient, and what was computed on the way to it.

    Attributes:
      gradient: of the validation loss after the step, like the shaping.
      params: the weights w' after the step.
      train_loss: () training loss at w.
      train_gradient: its gradient at w, without momentum and decay.
      train_aux: what the training loss returned beside its value at w, or None.
      validation_loss: () validation loss at w'.
      validation_gradient: its gradient at w'.
      validation_aux: what the validation loss returned beside its value, or None.
    """

    gradient: Any
    params: Any
    train_loss: jax.Array
    train_gradient: Any
    train_aux: Any
    validation_loss: jax.Array
    validation_gradient: Any
    validation_aux: Any


def one_step_meta_gradient(
    train_loss: Loss,
    validation_loss: Loss,
    params: Any,
    shaping: Any,
    *,
    rate: Number,
    momentum: Number = 0.0,
    buffer: Any = None,
    weight_decay: Number = 0.0,
    decay_mask: Any = None,
    order: Order = "forward",
    distance: Number = 0.01,
    has_aux: bool = False,
    checkpoint: bool = False,
) -> MetaStep:
    """The gradient of the validation loss after one step in what shaped the step.

    With v = ∇V(w') held fixed it is -η ∂/∂s ⟨v, ∇_w L(w, s)⟩, since nothing else in w'
    depends on s. `order` says how:

    * `"forward"`: the gradient of a directional derivative, exact;
    * `"reverse"`: through the gradient step itself, the same number, slower; the only
      exact one for a training loss without forward mode (`jax.custom_vjp`);
    * `"finite"`: (∇_s L(w - R v, s) - ∇_s L(w + R v, s)) η / 2R, R = distance / ‖v‖,
      which holds two digits at best in float32, and at times not the sign.

    Args:
      train_loss: (params, shaping) -> () loss L, twice differentiable.
      validation_loss: params -> () loss V.
      params: weights w, a pytree of floating arrays.
      shaping: s, a pytree of floating arrays.
      rate: η, learning rate of the step.
      momentum: μ.
      buffer: m, like `params`, before this step; zeros before the first.
      weight_decay: λ.
      decay_mask: what decays, as in optax: a pytree of bools like `params`, or a
        function from `params` to one; everything by default.
      order: `"forward"`, `"reverse"` or `"finite"`.
      distance: how far `"finite"` moves the weights to either side; > 0.
      has_aux: both losses return (value, aux), such as the running statistics of batch
        normalisation. Aux is returned from the first pass through each loss; that of
        further passes, which differ from it in nothing (`"finite"`: a little), is not.
      checkpoint: keep the inputs of the training loss alone for later passes through
        it, and compute its activations again (`jax.checkpoint`). That saves memory with
        `"reverse"`, whose second pass waits for the validation loss; with `"finite"`
        next to none and with `"forward"` none, since no pass of theirs waits for
        another. A loss may checkpoint parts of its own with any order.

    Returns:
      The meta-gradient and what else was computed.

    Raises:
      ValueError: the order is unknown, or there is momentum without a buffer.

    Source: Liu et al. 2019 (DARTS), eq. 7, and Li et al. 2020 (DADA), whose finite
    difference it leaves without the factor η.
    """
    if order not in ("forward", "reverse", "finite"):
        raise ValueError(
            f"order must be 'forward', 'reverse' or 'finite', got {order!r}"
        )
    train = _with_aux(train_loss, has_aux)
    validation = _with_aux(validation_loss, has_aux)
    if checkpoint:
        train = jax.checkpoint(train)

    def step(shaping: Any, change: Any) -> tuple[jax.Array, MetaStep]:
        """V at w' + change, and all of a `MetaStep` but the two gradients of V."""
        at_w = jax.value_and_grad(train, has_aux=True)(params, shaping)
        (loss, aux), slope = at_w
        moved = _moved(params, slope, rate, momentum, buffer, weight_decay, decay_mask)
        value, value_aux = validation(jax.tree.map(jnp.add, moved, change))
        rest = MetaStep(None, moved, loss, slope, aux, value, None, value_aux)
        return value, rest

    zeros = jax.tree.map(jnp.zeros_like, params)
    differentiated = (0, 1) if order == "reverse" else 1
    slopes, result = jax.grad(step, differentiated, has_aux=True)(shaping, zeros)
    if order == "reverse":
        gradient, direction = slopes
    elif order == "forward":
        direction = slopes
        gradient = jax.grad(
            lambda s: linear_step_value(
                train, params, s, direction, rate=rate, has_aux=True
            )
        )(shaping)
    else:
        direction = slopes
        gradient = _finite_difference(train, params, shaping, direction, rate, distance)
    return dataclasses.replace(result, gradient=gradient, validation_gradient=direction)


def one_step_value(
    train_loss: Loss,
    validation_loss: Loss,
    params: Any,
    shaping: Any,
    *,
    rate: Number,
    momentum: Number = 0.0,
    buffer: Any = None,
    weight_decay: Number = 0.0,
    decay_mask: Any = None,
    has_aux: bool = False,
    reference: Number | None = None,
) -> jax.Array:
    """How much one training step raises the validation loss, V(w'(s)) - V(w).

    It is what an estimator for discrete choices asks of each draw: lower is better.
    Mapped over shapings, V(w) is computed once.

    Args:
      train_loss: (params, shaping) -> () loss L.
      validation_loss: params -> () loss V.
      params: weights w.
      shaping: s; unlike above it may hold integers and booleans too.
      rate: η.
      momentum: μ.
      buffer: m, like `params`.
      weight_decay: λ.
      decay_mask: what decays, a pytree of bools or a function of `params`.
      has_aux: both losses return (value, aux); aux is discarded.
      reference: V(w) where it is known, or whatever else to subtract.

    Returns:
      () difference.

    Raises:
      ValueError: there is momentum without a buffer.
    """
    train = _with_aux(train_loss, has_aux)
    validation = _with_aux(validation_loss, has_aux)
    slope = jax.grad(train, has_aux=True)(params, shaping)[0]
    moved = _moved(params, slope, rate, momentum, buffer, weight_decay, decay_mask)
    before = validation(params)[0] if reference is None else reference
    return validation(moved)[0] - before


def linear_step_value(
    train_loss: Loss,
    params: Any,
    shaping: Any,
    direction: Any,
    *,
    rate: Number,
    has_aux: bool = False,
) -> jax.Array:
    """What a shaping adds to the validation loss to first order, -η ⟨v, ∇_w L(w, s)⟩.

    One forward-mode pass, against two gradients for `one_step_value`; momentum and
    decay, which no shaping changes, are left out. It is differentiable in s.

    Args:
      train_loss: (params, shaping) -> () loss L.
      params: weights w.
      shaping: s.
      direction: v, like `params`: the gradient of the validation loss at w, or at w'
        of a typical step, the same for all shapings that are compared.
      rate: η.
      has_aux: the training loss returns (value, aux); aux is discarded.

    Returns:
      () change.
    """
    train = _with_aux(train_loss, has_aux)
    _, slope, _ = jax.jvp(
        lambda w: train(w, shaping), (params,), (direction,), has_aux=True
    )
    return -rate * slope


def _with_aux(loss: Loss, has_aux: bool) -> Loss:
    """The loss such that it returns (value, aux)."""
    return loss if has_aux else lambda *args: (loss(*args), None)


def _moved(
    params: Any,
    slope: Any,
    rate: Number,
    momentum: Number,
    buffer: Any,
    weight_decay: Number,
    decay_mask: Any,
) -> Any:
    """The weights after a step, in their own dtypes."""
    if buffer is None:
        if isinstance(momentum, jax.Array) or momentum != 0:
            raise ValueError(
                "momentum needs its buffer, a pytree like the weights; before the "
                "first step it is zero: buffer=jax.tree.map(jnp.zeros_like, params)"
            )
        buffer = jax.tree.map(jnp.zeros_like, params)
    mask = decay_mask(params) if callable(decay_mask) else decay_mask
    if mask is None:
        mask = jax.tree.map(lambda _: True, params)

    def move(
        w: jax.Array, slope: jax.Array, velocity: jax.Array, decays: bool | jax.Array
    ) -> jax.Array:
        change = momentum * velocity + slope
        change = change + weight_decay * jnp.where(decays, w, 0)
        return (w - rate * change).astype(w.dtype)

    return jax.tree.map(move, params, slope, buffer, mask)


def _finite_difference(
    train: Loss,
    params: Any,
    shaping: Any,
    direction: Any,
    rate: Number,
    distance: Number,
) -> Any:
    """-η ∂/∂s of the directional derivative, from gradients at two weights."""
    square = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(direction))
    norm = jnp.sqrt(jnp.where(square > 0, square, 1))  # no direction: no difference
    radius = distance / norm

    def slope(side: int) -> Any:
        there = jax.tree.map(
            lambda w, v: (w + side * radius * v).astype(w.dtype), params, direction
        )
        return jax.grad(train, 1, has_aux=True)(there, shaping)[0]

    return jax.tree.map(
        lambda plus, minus: (-rate * (plus - minus) / (2 * radius)).astype(plus.dtype),
        slope(1),
        slope(-1),
    )
