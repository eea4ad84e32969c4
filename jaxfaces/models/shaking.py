"""Scalings at random that differ between the value and the derivative."""

import jax
import jax.numpy as jnp
from jax import lax


def scaled(x: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    """The value forward * x, with the derivative of backward * x.

    An identity of stop_gradient, so both modes and every order of differentiation
    agree: the tangent is backward * dx, the cotangent backward * dy, and a second
    derivative is that of the network whose values are shaken by `forward` and whose
    derivatives by `backward`.

    Args:
      x: (B, ...).
      forward: broadcastable to x; no gradient flows into it.
      backward: the same.
    """
    forward, backward = (
        lax.stop_gradient(each).astype(x.dtype) for each in (forward, backward)
    )
    slope = backward * x
    # The second term is exactly 0, so the value is not rounded twice.
    return lax.stop_gradient(forward * x) + (slope - lax.stop_gradient(slope))


def an_image(key: jax.Array, x: jax.Array, low: float, high: float) -> jax.Array:
    """A uniform coefficient in [low, high) for each image of x (B, H, W, C)."""
    shape = (x.shape[0], 1, 1, 1)
    return jax.random.uniform(key, shape, jnp.float32, low, high)


def shake(key: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """The mix a * one + (1 - a) * other of Shake-Shake (Gastaldi 2017).

    a is uniform in [0, 1), drawn for each image; the derivative has another coefficient
    b, drawn independently.

    Args:
      key: of both draws.
      one: (B, H, W, C), a branch.
      other: the other one.
    """
    forward, backward = (an_image(k, one, 0, 1) for k in jax.random.split(key))
    return other + scaled(one - other, forward, backward)


def shake_drop(key: jax.Array, x: jax.Array, drop: float) -> jax.Array:
    """ShakeDrop: x, or with probability `drop` a * x (Yamada et al. 2018).

    Whether it is dropped is drawn once a batch, then a uniform in [-1, 1) and the
    derivative's b in [0, 1) for each image, as in fast-autoaugment and DADA. The
    expectation is (1 - drop) * x.

    Args:
      key: of the three draws.
      x: (B, H, W, C), a branch.
      drop: probability in [0, 1].
    """
    gate, forward, backward = jax.random.split(key, 3)
    dropped = jax.random.bernoulli(gate, drop)
    a, b = an_image(forward, x, -1, 1), an_image(backward, x, 0, 1)
    return scaled(x, jnp.where(dropped, a, 1), jnp.where(dropped, b, 1))
