"""Training steps from losses: the state most tasks need, and its update."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxfaces.engine import optimizers, sharding
from jaxfaces.engine.task import Batch, Step

# (params, rest, batch, key) -> (scalar loss, (rest, metrics as (sum, count) pairs))
Loss = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, tuple[Any, Mapping]]]


class State(struct.PyTreeNode):
    """What a task with one network and one optimiser trains.

    Attributes:
      step: int32 scalar, number of updates.
      params: what gradients train.
      rest: what the network updates itself, such as batch statistics.
      opt: state of the optimiser.
      average: averaged {"params", "rest"}, or None.
    """

    step: jax.Array
    params: Any
    rest: Any
    opt: optax.OptState
    average: Any = None

    @property
    def variables(self) -> dict[str, Any]:
        """{"params", "rest"} for prediction: the averages where there are any."""
        if self.average is not None:
            return self.average
        return {"params": self.params, "rest": self.rest}


Trained = TypeVar("Trained", bound=State)


def make_state(
    params: Any, rest: Any, tx: optax.GradientTransformation, *, average: float = 0.0
) -> State:
    """The first state; with `average` > 0 it holds averaged parameters too."""
    start = {"params": params, "rest": rest} if average else None
    return State(jnp.zeros((), jnp.int32), params, rest, tx.init(params), start)


def with_variables(state: State, variables: Any) -> State:
    """A first state that starts from given variables, its average from them too.

    Args:
      state: a first state.
      variables: what a task's `inference` gives: {"params", "rest"}, or `params` alone.

    Raises:
      ValueError: the variables are neither.
    """
    whole = {"params": state.params, "rest": state.rest}
    given: Any = jax.tree.structure(variables)
    if given == jax.tree.structure(state.params):
        variables = {"params": variables, "rest": state.rest}
    elif given != jax.tree.structure(whole):
        raise ValueError("variables are neither {'params', 'rest'} nor the parameters")
    average = None if state.average is None else variables
    return state.replace(**variables, average=average)


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    *,
    average: float = 0.0,
    microbatch: int = 0,
    stream: str = "train",
) -> Step:
    """Builds `step(state, batch, key) -> (state, metrics)` for a `State`.

    Args:
      loss: `(params, rest, batch, key) -> (value, (rest, metrics))`.
      tx: optimiser.
      average: decay of averaged parameters; 0 is none.
      microbatch: rows of `stream` to hold in memory at once, for a loss that is a mean
        over its valid rows; 0 takes the batch whole. Must divide the batch size.
      stream: which stream `microbatch` speaks of; others are cut into as many parts.

    Returns:
      The step; the engine compiles it. It adds the metrics `grad_norm`, `param_norm`.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)
    if microbatch:
        gradient = accumulated(gradient, microbatch, stream)

    def step(state: State, batch: Batch, key: jax.Array) -> tuple[State, Mapping]:
        whole = sharding.gathered(state.params)
        (_, (rest, metrics)), grads = gradient(whole, state.rest, batch, key)
        after = updated(state, tx, grads, rest, average=average)
        # The norm of the parameters too: finite gradients may make an infinite update.
        norms = {"grad_norm": grads, "param_norm": after.params}
        norms = {name: (optax.tree.norm(each), 1) for name, each in norms.items()}
        return after, {**norms, **metrics}

    return step


def updated(
    state: Trained,
    tx: optax.GradientTransformation,
    gradient: Any,
    rest: Any,
    *,
    average: float = 0.0,
) -> Trained:
    """The state after one update along a gradient.

    Args:
      state: before it.
      tx: optimiser.
      gradient: like the parameters.
      rest: what the network has made of its own variables.
      average: decay of averaged parameters; 0 is none.
    """
    updates, opt = tx.update(gradient, state.opt, state.params)
    params, means = optax.apply_updates(state.params, updates), state.average
    if average:
        new = {"params": params, "rest": rest}
        means = optimizers.averaged(means, new, average, state.step)
    return state.replace(
        step=state.step + 1, params=params, rest=rest, opt=opt, average=means
    )


def accumulated(gradient: Callable, microbatch: int, stream: str = "train") -> Callable:
    """Gradient accumulation: the gradient of a mean over rows, a few rows at a time.

    Args:
      gradient: `(params, rest, batch, key) -> ((value, (rest, metrics)), grads)` where
        value is a mean over the valid rows of `batch[stream]`.
      microbatch: rows of `stream` in each part.
      stream: the stream whose rows are counted.

    Returns:
      A function of the same signature: parts are weighed by their valid rows, `rest`
      passes from part to part, metrics add.
    """

    def whole(params: Any, rest: Any, batch: Batch, key: jax.Array) -> Any:
        sizes = {name: rows["valid"].shape[0] for name, rows in batch.items()}
        parts = sizes[stream] // microbatch
        uneven = [n for n, rows in sizes.items() if not parts or rows % parts]
        if sizes[stream] % microbatch or uneven:
            raise ValueError(
                f"--microbatch={microbatch} must divide the batch of {sizes[stream]} "
                f"rows, and its parts every other batch, got {sizes}"
            )
        # Row r goes to part r mod parts, so that each part is spread over all devices.
        chunks = jax.tree.map(
            lambda x: jnp.moveaxis(
                x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0
            ),
            batch,
        )
        valid = chunks[stream]["valid"]
        share = jnp.sum(valid, axis=1) / jnp.maximum(jnp.sum(valid), 1)

        def part(rest: Any, inputs: Any) -> Any:
            chunk, weight, key = inputs
            (value, (rest, metrics)), grads = gradient(params, rest, chunk, key)
            scaled = jax.tree.map(lambda g: g * weight.astype(g.dtype), grads)
            metrics = jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), metrics)
            return rest, (value * weight, metrics, scaled)

        # Unrolled on CPU: XLA runs convolution gradients many times slower in a loop.
        unroll = jax.default_backend() == "cpu"
        inputs = (chunks, share, jax.random.split(key, parts))
        rest, outputs = jax.lax.scan(part, rest, inputs, unroll=unroll)
        value, metrics, grads = jax.tree.map(lambda x: jnp.sum(x, axis=0), outputs)
        return (value, (rest, metrics)), grads

    return whole
