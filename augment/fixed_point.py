"""Real numbers in fixed point on int32, where float32 is too coarse and x64 is off.

Pillow computes positions in float64. A number here is (whole, limb, limb, limb, limb),
whole + Σᵢ limbᵢ·2^(-12 i): 48 bits after the point, so that every product of two limbs
fits int32. Limbs may leave [0, 4096) until `carry` is called.
"""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

BITS, LIMBS = 12, 4
MASK = (1 << BITS) - 1
# Results that are exact in decimals come out of the last bits a little low or high;
# rounding down first adds this many units of 2^-48.
GUARD = 16

Fixed: TypeAlias = tuple[Any, ...]  # int32 arrays, or Python's numbers


def constant(value: float) -> Fixed:
    """A static number as limbs, rounded to 2^-48."""
    units = round(value * (1 << BITS * LIMBS))  # exact: a product by a power of two
    limbs = [units >> BITS * k & MASK for k in reversed(range(LIMBS))]
    return (units >> BITS * LIMBS, *limbs)


def from_float(x: jax.Array) -> Fixed:
    """A float32 number >= 0, < 2^24, without loss from 2^-24 upwards."""
    whole = jnp.floor(x)
    digits, rest = [whole], x - whole
    for _ in range(LIMBS):
        rest = rest * (1 << BITS)
        digits.append(jnp.floor(rest))
        rest = rest - digits[-1]
    return tuple(digit.astype(jnp.int32) for digit in digits)


def carry(x: Fixed) -> Fixed:
    """The same number with every limb in [0, 4096)."""
    digits, above = [], jnp.int32(0)
    for limb in reversed(x[1:]):
        limb = limb + above
        digits.append(limb & MASK)
        above = limb >> BITS
    return (x[0] + above, *reversed(digits))


def add(x: Fixed, y: Fixed) -> Fixed:
    """The sum, not carried."""
    return tuple(a + b for a, b in zip(x, y))


def times(x: Fixed, factor: jax.Array | int) -> Fixed:
    """The product with an integer below 2^18, not carried."""
    return tuple(limb * factor for limb in x)


def multiply(x: Fixed, y: Fixed) -> Fixed:
    """The product of two carried numbers, to a few units of 2^-48."""
    columns: list[Any] = [0] * (LIMBS + 2)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            if i + j < len(columns):
                columns[i + j] = columns[i + j] + a * b
    return carry(tuple(columns))[: LIMBS + 1]


def select(which: jax.Array, x: Fixed, y: Fixed) -> Fixed:
    """`x` where `which` is true, else `y`."""
    return tuple(jnp.where(which, a, b) for a, b in zip(x, y))


def floor(x: Fixed, *, scale: int = 1, halves: int = 0) -> jax.Array:
    """Rounds scale·x + halves / 2 down to int32; scale is at most 2^16."""
    guarded = (*x[:-1], x[-1] + GUARD)
    whole, first, *rest = times(guarded, scale)
    return carry((whole, first + (halves << BITS - 1), *rest))[0]


def to_float32(x: Fixed) -> jax.Array:
    """The nearest float32 of a number below 4096."""
    whole, first, second, third, _ = carry(x)
    # Both terms are exact; the one addition rounds.
    coarse = (whole * (1 << BITS) + first).astype(jnp.float32) * 2.0**-BITS
    fine = (second * (1 << BITS) + third).astype(jnp.float32) * 2.0 ** (-3 * BITS)
    return coarse + fine


def cos_sin(
    level: Fixed, start: float, end: float, flip: jax.Array, mirror: float
) -> tuple[Fixed, Fixed]:
    """Cosine and sine of an angle that is linear in a level, to about 2^-45.

    Angle addition over three parts of the level: its first 12 bits and its next 12 from
    tables, the rest linear.

    Args:
      level: carried number in [0, 1].
      start: angle in degrees at level 0.
      end: angle in degrees at level 1.
      flip: () bool: the angle becomes 2 mirror - angle.
      mirror: degrees.

    Returns:
      Two numbers.
    """
    coarse, fine = _tables(start, end, mirror)
    whole, first, second, third, fourth = level
    zero = jnp.zeros_like(first)
    turned = _unpack(jnp.asarray(coarse)[flip.astype(jnp.int32), whole * 4096 + first])
    turned = _rotate(turned, _flipped(_unpack(jnp.asarray(fine)[second]), flip))
    # Below 2^-24 of the range the cosine is 1 and the sine the angle.
    per_level = constant(float(np.deg2rad(end - start)))
    angle = multiply((zero, zero, zero, third, fourth), per_level)
    one = (zero + 1, zero, zero, zero, zero)
    return _rotate(turned, _flipped((one, angle), flip))


def _rotate(x: tuple[Fixed, Fixed], y: tuple[Fixed, Fixed]) -> tuple[Fixed, Fixed]:
    (cos_x, sin_x), (cos_y, sin_y) = x, y
    across = times(multiply(sin_x, sin_y), -1)
    cos = add(multiply(cos_x, cos_y), across)
    sin = add(multiply(sin_x, cos_y), multiply(cos_x, sin_y))
    return carry(cos), carry(sin)


def _flipped(turn: tuple[Fixed, Fixed], flip: jax.Array) -> tuple[Fixed, Fixed]:
    return turn[0], carry(times(turn[1], jnp.where(flip, -1, 1)))


def _unpack(row: jax.Array) -> tuple[Fixed, Fixed]:
    """(2, 2) int32, 24 bits each after the sign, to (cosine, sine)."""

    def limbs(high: jax.Array, low: jax.Array) -> Fixed:
        return high >> 24, high >> BITS & MASK, high & MASK, low >> BITS, low & MASK

    return limbs(row[0, 0], row[0, 1]), limbs(row[1, 0], row[1, 1])


@functools.cache
def _tables(start: float, end: float, mirror: float) -> tuple[np.ndarray, np.ndarray]:
    steps = np.arange((1 << BITS) + 1) / (1 << BITS)
    angles = start + (end - start) * steps
    coarse = np.stack([angles, 2 * mirror - angles])
    return _packed(coarse), _packed((end - start) * steps[:-1] / (1 << BITS))


def _packed(degrees: np.ndarray) -> np.ndarray:
    values = np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], -1)
    units = np.rint(values * 2.0**48).astype(np.int64)
    return np.stack([units >> 24, units & (1 << 24) - 1], -1).astype(np.int32)
