"""Max-pooling as a chain of maxima, whose gradient is fast on a CPU."""

import jax
import jax.numpy as jnp
from jax import lax


def max_pool(x: jax.Array, *, size: int, stride: int, padding: int) -> jax.Array:
    """Maxima of square windows, the same as `flax.linen.max_pool`.

    XLA's gradient of a maximum over windows sorts indices, at ten times the cost of the
    gradient of a few comparisons. Of equal values the first in reading order takes the
    gradient, as there.

    Args:
      x: images (B, H, W, C), floating.
      size: side of a window.
      stride: steps from window to window.
      padding: lines of -inf around the images.

    Returns:
      (B, H', W', C) with H' = (H + 2 padding - size) // stride + 1.
    """
    # Columns first: of equal rows the first then holds the first in reading order.
    for axis in (2, 1):
        x = _pool_axis(x, axis, size, stride, padding)
    return x


def _pool_axis(
    x: jax.Array, axis: int, size: int, stride: int, padding: int
) -> jax.Array:
    out = (x.shape[axis] + 2 * padding - size) // stride + 1
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (padding, padding, 0)
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
    end = (out - 1) * stride + 1
    best = lax.slice_in_dim(x, 0, end, stride, axis)
    for tap in range(1, size):
        best = _first_max(best, lax.slice_in_dim(x, tap, tap + end, stride, axis))
    return best


@jax.custom_jvp
def _first_max(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.maximum(x, y)


@_first_max.defjvp
def _first_max_tangent(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, y), (dx, dy) = primals, tangents
    return _first_max(x, y), jnp.where(y > x, dy, dx)
