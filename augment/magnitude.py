"""How strongly an operation acts: a level in [0, 1] on its range."""

import dataclasses

import jax
import jax.numpy as jnp

from augment import fixed_point

# Values from here on overflow the int32 of positions with 16 bits after the point.
LIMIT = 1 << 15


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """The value v = low + level (high - low), or 2 mirror - v where `flip` is true.

    Attributes:
      level: () float32 in [0, 1].
      low: v at level 0.
      high: v at level 1.
      flip: () bool.
      mirror: the value that flipping leaves alone: 0 turns v into -v.
    """

    level: jax.Array
    low: float
    high: float
    flip: jax.Array
    mirror: float = 0.0

    @property
    def real(self) -> jax.Array:
        """The value in float32, differentiable in the level."""
        value = self.low + self.level * (self.high - self.low)
        return jnp.where(self.flip, 2 * self.mirror - value, value)

    @property
    def nearest(self) -> jax.Array:
        """The float32 next to the exact value; no derivative."""
        return fixed_point.to_float32(self.fixed)

    @property
    def fixed(self) -> fixed_point.Fixed:
        """The value to 2^-44, carried; values are to lie below `LIMIT`."""
        steps = fixed_point.constant(self.high - self.low)
        value = fixed_point.multiply(self._digits, steps)
        value = fixed_point.add(value, fixed_point.constant(self.low))
        away = fixed_point.times(value, -1)
        away = fixed_point.add(away, fixed_point.constant(2 * self.mirror))
        return fixed_point.carry(fixed_point.select(self.flip, away, value))

    @property
    def cos_sin(self) -> tuple[fixed_point.Fixed, fixed_point.Fixed]:
        """Cosine and sine of the value in degrees."""
        return fixed_point.cos_sin(
            self._digits, self.low, self.high, self.flip, self.mirror
        )

    @property
    def _digits(self) -> fixed_point.Fixed:
        return fixed_point.from_float(self.level)
