"""The operations that automatic augmentation is made of, as one table.

    rotate = augment.operation("Rotate")
    turned = rotate(image, 0.8, key)

Two modes. `"reference"` takes uint8 images and equals Pillow pixel for pixel;
`"smooth"` takes floating images in [0, 1] and has true derivatives in the image and,
where there is one, in the level. Images are (H, W, C) with one or three channels, at
least 3 pixels a side; a batch is `jax.vmap` over images, levels and keys, or a policy.
"""

import dataclasses
from collections.abc import Callable
from numbers import Real
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from augment import reference_ops as exact
from augment import smooth_ops as smooth
from augment.magnitude import LIMIT, Magnitude

Mode: TypeAlias = Literal["reference", "smooth"]
Function: TypeAlias = Callable[[jax.Array, Magnitude, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A named change of an image and the range of its strength.

    A level l in [0, 1] stands for v = low + l (high - low). With `mirror` the value is
    2 mirror - v half of the time, a fair coin an image: 0 turns v into -v.

    Attributes:
      name: what policies call it.
      low: value at level 0.
      high: value at level 1.
      mirror: value about which the sign is random, or None for no coin.
      reference: (uint8 image, `Magnitude`, key) -> image of the same shape and dtype;
        `Magnitude.nearest` is the value in float32.
      smooth: the same on floating images, `Magnitude.real` being the differentiable
        value; None for an operation that has the other mode only.

    Raises:
      ValueError: a value that it can take is not finite or not below 2^15 in size,
        beyond which the arithmetic of `Magnitude` overflows.
    """

    name: str
    low: float
    high: float
    mirror: float | None
    reference: Function
    smooth: Function | None = None

    def __post_init__(self) -> None:
        """Checks the range."""
        mirror = 0 if self.mirror is None else self.mirror
        numbers = all(isinstance(x, Real) for x in (self.low, self.high, mirror))
        # Written so that NaN is refused too.
        if not numbers or not all(
            abs(x) < LIMIT and abs(2 * mirror - x) < LIMIT
            for x in (self.low, self.high)
        ):
            raise ValueError(
                f"the range of {self.name} must be finite numbers below {LIMIT} in "
                f"size, mirrored too, got low={self.low!r}, high={self.high!r}, "
                f"mirror={self.mirror!r}; take a smaller range and scale the value in "
                "the operation's function"
            )

    def __call__(
        self,
        image: jax.Array,
        level: float | jax.Array,
        key: jax.Array,
        *,
        mode: Mode = "reference",
    ) -> jax.Array:
        """Changes one image.

        Args:
          image: (H, W, C), C = 1 or 3; uint8, or floating in [0, 1] in smooth mode.
          level: () strength in [0, 1].
          key: PRNG key of the sign and of the position of a cut-out.
          mode: `"reference"` or `"smooth"`.

        Returns:
          (H, W, C) image of the same dtype.

        Raises:
          ValueError: type, rank, channels, dtype, mode or level are not as above; the
            value of a traced level is not looked at, but held within [0, 1].
        """
        function = self.function(mode)
        check_images(image, mode, rank=3)
        if np.shape(level):
            raise ValueError(
                f"level must be one number, got shape {np.shape(level)}; change a "
                "batch by jax.vmap over images, levels and keys, or by a policy"
            )
        check_levels(level)
        held = jnp.clip(jnp.asarray(level, jnp.float32), 0, 1)
        return function(jnp.asarray(image), held, key)

    def function(self, mode: Mode) -> Callable[..., jax.Array]:
        """The unchecked function (image, level, key) -> image of a mode."""
        change = self.change(mode)

        def run(image: jax.Array, level: jax.Array, key: jax.Array) -> jax.Array:
            return change(image, level, *coin(key))

        return run

    def change(self, mode: Mode) -> Callable[..., jax.Array]:
        """The unchecked function (image, level, flip, key) -> image of a mode.

        `flip` is the outcome of the coin; an operation without a mirror ignores it.
        """
        if mode not in ("reference", "smooth"):
            raise ValueError(f"mode must be 'reference' or 'smooth', got {mode!r}")
        function = self.reference if mode == "reference" else self.smooth
        if function is None:
            raise ValueError(
                f"operation {self.name!r} has no smooth mode; take mode='reference' or "
                f"give it a `smooth` function"
            )

        def run(
            image: jax.Array, level: jax.Array, flip: jax.Array, key: jax.Array
        ) -> jax.Array:
            flipped = jnp.bool_(False) if self.mirror is None else flip
            v = Magnitude(level, self.low, self.high, flipped, self.mirror or 0.0)
            changed = function(image, v, key)
            if (changed.shape, changed.dtype) != (image.shape, image.dtype):
                raise ValueError(
                    f"operation {self.name!r} must return what it gets, "
                    f"{image.dtype}{list(image.shape)}; it made "
                    f"{changed.dtype}{list(changed.shape)}"
                )
            return changed

        return run


def coin(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From an operation's key the () bool sign and the key that its function gets."""
    sign, inner = jax.random.split(key)
    return jax.random.bernoulli(sign), inner


# The search space of DADA (Li et al. 2020), its order and its ranges. An operation of
# one's own joins it as (*OPERATIONS, Operation(...)).
# fmt: off
OPERATIONS = (
    Operation("ShearX", -0.3, 0.3, 0, exact.shear_x, smooth.shear_x),
    Operation("ShearY", -0.3, 0.3, 0, exact.shear_y, smooth.shear_y),
    Operation("TranslateX", -0.45, 0.45, 0, exact.translate_x, smooth.translate_x),
    Operation("TranslateY", -0.45, 0.45, 0, exact.translate_y, smooth.translate_y),
    Operation("Rotate", -30, 30, 0, exact.rotate, smooth.rotate),
    Operation("AutoContrast", 0, 1, None, exact.auto_contrast, smooth.auto_contrast),
    Operation("Invert", 0, 1, None, exact.invert, smooth.invert),
    Operation("Equalize", 0, 1, None, exact.equalize, smooth.equalize),
    Operation("Solarize", 0, 256, None, exact.solarize, smooth.solarize),
    Operation("Posterize", 4, 8, None, exact.posterize, smooth.posterize),
    Operation("Contrast", 0.1, 1.9, None, exact.contrast, smooth.contrast),
    Operation("Color", 0.1, 1.9, None, exact.color, smooth.color),
    Operation("Brightness", 0.1, 1.9, None, exact.brightness, smooth.brightness),
    Operation("Sharpness", 0.1, 1.9, None, exact.sharpness, smooth.sharpness),
    Operation("Cutout", 0.0, 0.2, None, exact.cutout, smooth.cutout),
)
# Outside the search space: strengths in pixels, fewer bits, nothing at all.
EXTRA_OPERATIONS = (
    Operation("Identity", 0, 1, None, exact.identity, exact.identity),
    Operation("CutoutAbs", 0, 20, None, exact.cutout_abs, smooth.cutout_abs),
    Operation("Posterize2", 0, 4, None, exact.posterize, smooth.posterize),
    Operation("TranslateXAbs", 0, 10, 0, exact.translate_x_abs, smooth.translate_x_abs),
    Operation("TranslateYAbs", 0, 10, 0, exact.translate_y_abs, smooth.translate_y_abs),
)
# fmt: on


def operation(name: str) -> Operation:
    """An operation by its name.

    Raises:
      ValueError: there is none of that name; the message lists those there are.
    """
    table = {each.name: each for each in (*OPERATIONS, *EXTRA_OPERATIONS)}
    if name not in table:
        raise ValueError(f"unknown operation {name!r}; there are {', '.join(table)}")
    return table[name]


def check_images(images: jax.Array | np.ndarray, mode: Mode, *, rank: int) -> None:
    """Refuses images that the operations do not take, before anything is traced."""
    if not isinstance(images, jax.Array | np.ndarray):
        raise ValueError(
            f"images must be an array of NumPy or JAX, got {type(images).__name__}; "
            "take np.asarray(images, np.uint8), or np.float32 in smooth mode"
        )
    shape, dtype = images.shape, images.dtype
    layout = "(H, W, C)" if rank == 3 else "(B, H, W, C)"
    if len(shape) != rank or shape[-1] not in (1, 3) or min(shape[-3:-1]) < 3:
        raise ValueError(
            f"images must be {layout} with 1 or 3 channels, 3 pixels or more a side, "
            f"got shape {shape}"
        )
    if mode == "reference" and dtype != jnp.uint8:
        raise ValueError(
            f"reference mode takes uint8 images, got {dtype}; scale to 0 … 255 and "
            "cast, or take mode='smooth' for floating images in [0, 1]"
        )
    if mode == "smooth":
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"smooth mode takes floating images in [0, 1], got {dtype}; divide "
                "by 255"
            )
        _check_unit_range("images of smooth mode", images)


def check_levels(levels: float | jax.Array | np.ndarray) -> None:
    """Refuses levels outside [0, 1] where their values are known."""
    _check_unit_range("levels", levels)


def _check_unit_range(what: str, values: float | jax.Array | np.ndarray) -> None:
    if isinstance(values, jax.core.Tracer):
        return
    known = np.asarray(values)
    if known.size and not (known.min() >= 0 and known.max() <= 1):
        raise ValueError(
            f"{what} must lie in [0, 1], got {known.min():g} to {known.max():g}"
        )
