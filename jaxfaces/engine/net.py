"""A network as a pair of pure functions, so that losses and searches never see flax."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax.errors import InvalidRngError


@dataclasses.dataclass(frozen=True)
class Net:
    """A network: `init` makes its parameters, `apply` evaluates it.

    Attributes:
      init: `(key, x) -> (params, rest)`; `rest` holds what is not trained by gradients,
        such as batch statistics.
      apply: `(params, rest, x, *, train, key=None) -> (outputs, rest)`; `rest` comes
        back updated when `train`, unchanged otherwise. `key` is for what the network
        draws in training; one that draws nothing needs none.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]


def from_linen(module: nn.Module) -> Net:
    """The pure functions of a linen module whose call takes `x` and `train`.

    A module that draws in training asks for `make_rng("dropout")`, the one collection
    that flax's own layers ask for. Training it without a key is a ValueError.
    """

    def init(key: jax.Array, x: Any) -> tuple[Any, Any]:
        variables = dict(module.init(key, x, train=False))
        return variables.pop("params"), variables

    def apply(
        params: Any, rest: Any, x: Any, *, train: bool, key: jax.Array | None = None
    ) -> tuple[Any, Any]:
        rngs = None if key is None else {"dropout": key}
        variables = {"params": params, **rest}
        if not train:
            return module.apply(variables, x, train=False, rngs=rngs), rest
        try:
            return module.apply(variables, x, train=True, rngs=rngs, mutable=list(rest))
        except InvalidRngError as error:
            if key is not None:
                raise
            raise ValueError(
                f"{type(module).__name__} draws at random in training: apply(..., "
                "train=True) needs a key"
            ) from error

    return Net(init, apply)
