"""Pooling as a chain of maxima or sums, whose gradient is fast on a CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def max_pool(
    x: jax.Array,
    *,
    size: int,
    stride: int,
    padding: int = 0,
    ceil: bool = False,
    native: bool = False,
) -> jax.Array:
    """Maxima of square windows, the same as `flax.linen.max_pool`.

    XLA's gradient of a maximum over windows sorts indices, at ten times the cost of the
    gradient of a few comparisons. Of equal values the first in reading order takes the
    gradient, as there.

    Args:
      x: images (B, H, W, C), floating.
      size: side of a window.
      stride: steps from window to window.
      padding: lines of -inf around the images.
      ceil: see `output_side`.
      native: leave it to XLA.

    Returns:
      (B, H', W', C), H' and W' by `output_side`.
    """
    if native:
        edges = [
            (padding, max(0, _after(side, size, stride, padding, ceil)))
            for side in x.shape[1:3]
        ]
        return nn.max_pool(x, (size, size), (stride, stride), padding=edges)
    # Columns first: of equal rows the first then holds the first in reading order.
    for axis in (2, 1):
        best, *others = _taps(x, axis, -jnp.inf, size, stride, padding, ceil)
        for other in others:
            best = _first_max(best, other)
        x = best
    return x


def average_pool(
    x: jax.Array, *, size: int, stride: int, padding: int = 0, ceil: bool = False
) -> jax.Array:
    """Means of square windows, as Caffe and torch (`count_include_pad`) take them.

    The padding counts as zeros; what lies beyond it, where the windows of `ceil` or of
    an image smaller than a window reach, does not count.

    Args:
      x: images (B, H, W, C), floating.
      size: side of a window.
      stride: steps from window to window.
      padding: lines of zeros around the images.
      ceil: see `output_side`.

    Returns:
      (B, H', W', C) in the type of `x`, summed in float32 at least.
    """
    kind, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis in (2, 1):
        side = x.shape[axis]
        starts = np.arange(output_side(side, size, stride, padding, ceil)) * stride
        counts = np.minimum(starts + size, side + 2 * padding) - starts
        total = sum(_taps(x, axis, 0, size, stride, padding, ceil))
        shape = [-1 if each == axis else 1 for each in range(x.ndim)]
        x = total / jnp.asarray(counts.reshape(shape), x.dtype)
    return x.astype(kind)


def output_side(side: int, size: int, stride: int, padding: int, ceil: bool) -> int:
    """Number of windows along an axis, 1 at least.

    Those that fit, (side + 2 padding - size) // stride + 1; with `ceil` one more where
    lines are left over, if it begins before the padding after the image.
    """
    room = side + 2 * padding - size
    windows = max(0, -(-room // stride) if ceil else room // stride) + 1
    return windows - (ceil and windows > 1 and (windows - 1) * stride >= side + padding)


def _after(side: int, size: int, stride: int, padding: int, ceil: bool) -> int:
    """Lines that the last window needs beyond the image; negative: leaves over."""
    last = (output_side(side, size, stride, padding, ceil) - 1) * stride
    return last + size - padding - side


def _taps(
    x: jax.Array,
    axis: int,
    fill: float,
    size: int,
    stride: int,
    padding: int,
    ceil: bool,
) -> list[jax.Array]:
    """The first, second, ... line of every window along an axis."""
    side = x.shape[axis]
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (padding, _after(side, size, stride, padding, ceil), 0)
    x = lax.pad(x, jnp.array(fill, x.dtype), edges)
    end = (output_side(side, size, stride, padding, ceil) - 1) * stride + 1
    return [
        lax.slice_in_dim(x, tap, tap + end, stride, axis=axis) for tap in range(size)
    ]


@jax.custom_jvp
def _first_max(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.maximum(x, y)


@_first_max.defjvp
def _first_max_tangent(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x, y), (dx, dy) = primals, tangents
    return _first_max(x, y), jnp.where(y > x, dy, dx)
