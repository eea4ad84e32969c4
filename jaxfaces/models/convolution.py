"""Convolutions for CPUs as matrix products, where XLA's own are slow.

XLA's convolution on a CPU turns the weights around for the gradient of the inputs and
transposes images and gradients for the gradient of the weights; on maps of a few pixels
and for gradients inside control flow it falls back to loops that are 20 to 50 times
slower. The same sums are also

columns: one matrix product of all k x l shifted copies of the images, side by side,
  with the weights;
taps: one matrix product for each of the k x l positions, over the pixels where it does
  not meet padding, so small maps cost less than a full convolution;
pieces: native convolutions of 32 images each, which fit the cache and run side by side.

All are plain differentiable functions. `conv_general_dilated` combines them with the
native one by a custom derivative in forward mode, hence differentiable in every order
and direction.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

Pairs = tuple[tuple[int, int], tuple[int, int]]
PIECE, MOST_PIECES = 16, 8  # images in a piece at least; pieces of a batch
_NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Strides and padding (low, high) of height and width."""

    strides: tuple[int, int]
    padding: Pairs
    precision: Any = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Forms of the three products of a convolution: names in FORMS.

    Attributes:
      forward: of the images with the weights.
      inputs: of a change of the images, whose transpose is the images' gradient.
      weights: of a change of the weights, whose transpose is the weights' gradient.
    """

    forward: str
    inputs: str
    weights: str


def native(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """XLA's convolution of images (B, H, W, C) with weights (k, l, C, F)."""
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.padding,
        dimension_numbers=_NHWC,
        precision=geometry.precision,
    )


def columns(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The same as one matrix product of k * l shifted copies of the images."""
    rows, cols = output_size(x, w, geometry)
    x = jnp.pad(x, ((0, 0), *geometry.padding, (0, 0)))
    (s, t), (height, width) = geometry.strides, w.shape[:2]
    shifted = [
        _window(x, (i, i + (rows - 1) * s + 1, s), (j, j + (cols - 1) * t + 1, t))
        for i in range(height)
        for j in range(width)
    ]
    x = jnp.concatenate(shifted, axis=-1) if len(shifted) > 1 else shifted[0]
    return _product(x, w.reshape(-1, w.shape[-1]), geometry).astype(x.dtype)


def taps(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The same as a sum of up to k * l matrix products that leave the padding out."""
    (s, t), (rows, cols) = geometry.strides, output_size(x, w, geometry)
    zero = jnp.zeros((), _accumulator(x))
    total: Any = 0
    for i in range(w.shape[0]):
        height = _reach(i, x.shape[1], rows, s, geometry.padding[0][0])
        for j in range(w.shape[1]):
            width = _reach(j, x.shape[2], cols, t, geometry.padding[1][0])
            if height and width:
                seen = _window(x, (*height[0], s), (*width[0], t))
                y = _product(seen, w[i, j], geometry)
                edges = ((0, 0, 0), (*height[1], 0), (*width[1], 0), (0, 0, 0))
                total = total + lax.pad(y, zero, edges)
    if isinstance(total, int):
        return jnp.zeros((x.shape[0], rows, cols, w.shape[-1]), x.dtype)
    return total.astype(x.dtype)


def pieces(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    """The native one on pieces of a batch, which the cores compute side by side."""
    size = max(PIECE, -(-x.shape[0] // MOST_PIECES))
    starts = range(0, x.shape[0], size)
    parts = [native(x[i : i + size], w, geometry) for i in starts]
    return jnp.concatenate(parts) if len(parts) > 1 else native(x, w, geometry)


FORMS: dict[str, Callable[[jax.Array, jax.Array, Geometry], jax.Array]] = {
    "native": native,
    "columns": columns,
    "taps": taps,
    "pieces": pieces,
}


def output_size(x: jax.Array, w: jax.Array, geometry: Geometry) -> tuple[int, int]:
    """Height and width of the result."""
    rows, cols = (
        (x.shape[1 + a] + sum(geometry.padding[a]) - w.shape[a]) // geometry.strides[a]
        + 1
        for a in (0, 1)
    )
    return max(rows, 0), max(cols, 0)


def _reach(
    tap: int, size: int, out: int, stride: int, low: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Pixels that a tap reads, (start, stop), and (before, after): results it misses.

    None where it reads only padding.
    """
    first = max(0, -((tap - low) // stride))
    last = min(out - 1, (size - 1 + low - tap) // stride)
    if first > last:
        return None
    start = first * stride + tap - low
    stop = last * stride + tap - low + 1
    return (start, stop), (first, out - 1 - last)


def _window(
    x: jax.Array, height: tuple[int, int, int], width: tuple[int, int, int]
) -> jax.Array:
    x = lax.slice_in_dim(x, *height, axis=1)
    return lax.slice_in_dim(x, *width, axis=2)


def _accumulator(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _product(x: jax.Array, w: jax.Array, geometry: Geometry) -> jax.Array:
    # Rows first: contracting three axes for the weights' gradient makes XLA transpose.
    y = jnp.matmul(
        x.reshape(-1, x.shape[-1]),
        w,
        precision=geometry.precision,
        preferred_element_type=_accumulator(x),
    )
    return y.reshape(*x.shape[:-1], w.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def planned(
    x: jax.Array, w: jax.Array, geometry: Geometry, plan: Plan, training: bool = False
) -> jax.Array:
    """The convolution, its value and derivatives in the forms of a plan.

    Where nothing is differentiated, pieces are not worth what they cost to compile.
    """
    form = plan.forward if training or plan.forward != "pieces" else "native"
    return FORMS[form](x, w, geometry)


def _tangent(
    geometry: Geometry, plan: Plan, training: bool, primals: Any, tangents: Any
) -> Any:
    (x, w), (dx, dw) = primals, tangents
    value = planned(x, w, geometry, plan, True)
    # A first layer's images do not change: nothing is computed for them.
    changes = [
        FORMS[form](*pair, geometry)
        for form, pair, change in (
            (plan.inputs, (dx, w), dx),
            (plan.weights, (x, dw), dw),
        )
        if not isinstance(change, SymbolicZero)
    ]
    return value, sum(changes[1:], changes[0]) if changes else jnp.zeros_like(value)


planned.defjvp(_tangent, symbolic_zeros=True)


Choice = Callable[[jax.Array, jax.Array, Geometry], Plan | None]


def by_shape(x: jax.Array, w: jax.Array, geometry: Geometry) -> Plan | None:
    """The fastest forms by measurement; None is native.

    Measured in whole training steps of ResNet-18 at 32 and 80 px, batches of 32 and
    128, float32, by tests/benchmarks/resnet_step.py on two cores of an AMD EPYC (Zen 4)
    with jax 0.10.2. Other types are not measured and stay native.
    """
    rows, cols = output_size(x, w, geometry)
    pixels, batch = rows * cols, x.shape[0]
    # A batch of any size is that of an export, which is not for CPUs alone.
    if x.dtype != jnp.float32 or not pixels or not isinstance(batch, int):
        return None
    if pixels <= 25:
        return Plan("taps", "taps", "taps")
    # Pieces of a batch that lies on several devices would move it between them.
    if batch > PIECE and jax.device_count() == 1:
        return Plan("pieces", "pieces", "pieces")
    return None


def everywhere(x: jax.Array, w: jax.Array, geometry: Geometry) -> Plan | None:
    """Gradients by matrix products always: the fast choice inside control flow."""
    rows, cols = output_size(x, w, geometry)
    if rows * cols <= 100:
        return Plan("taps", "taps", "taps")
    return Plan("native", "columns", "columns")


CHOICES: dict[str, Choice] = {"auto": by_shape, "on": everywhere}


def active(cpu_conv: str) -> bool:
    """Whether a setting ("auto", "on" or "off") has an effect on this machine.

    Raises:
      ValueError: the setting is none of these.
    """
    if cpu_conv not in (*CHOICES, "off"):
        raise ValueError(f"cpu_conv must be auto, on or off, got {cpu_conv!r}")
    return cpu_conv != "off" and jax.default_backend() == "cpu"


def injected(cpu_conv: str) -> Callable[..., jax.Array] | None:
    """What `flax.linen.Conv(conv_general_dilated=...)` takes; None is XLA's own."""
    if not active(cpu_conv):
        return None
    return functools.partial(conv_general_dilated, choose=CHOICES[cpu_conv])


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    *,
    choose: Choice,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` for `flax.linen.Conv`, in the forms of a plan.

    Args:
      lhs: images (B, H, W, C).
      rhs: weights (k, l, C, F).
      window_strides: of height and width.
      padding: (low, high) of height and width.
      lhs_dilation: must be 1 for a plan.
      rhs_dilation: must be 1 for a plan.
      dimension_numbers: must be those of NHWC and HWIO for a plan.
      feature_group_count: must be 1 for a plan.
      batch_group_count: must be 1 for a plan.
      precision: of the products.
      preferred_element_type: must be None for a plan.
      choose: from images, weights and geometry to a plan; None is the native one.

    Returns:
      The convolution (B, H', W', F), native where the above does not hold.
    """
    plan = None
    if (
        all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and dimension_numbers == _NHWC
        and feature_group_count == batch_group_count == 1
        and preferred_element_type is None
        and not isinstance(padding, str)
    ):
        (low, high), (left, right) = padding
        strides = window_strides[0], window_strides[1]
        geometry = Geometry(strides, ((low, high), (left, right)), precision)
        plan = choose(lhs, rhs, geometry)
    if plan is not None:
        return planned(lhs, rhs, geometry, plan)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )
