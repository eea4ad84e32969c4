"""What happens to a training image before and after a policy, by flag."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp

import augment
from jaxfaces.engine.config import knob
from jaxfaces.models import layers
from jaxfaces.tasks.image_augmentation import as_float, check_crop


@dataclasses.dataclass(frozen=True)
class ImageFraming:
    """Crop, flip and colour jitter, then a policy, then lighting and cutout.

    A task nests it, or what adds the policy to it, to get its flags.
    """

    padding: int = knob(
        0, "Shift by up to so many pixels: a crop of the padded image.", lower=0
    )
    crop_size: int = knob(
        0, "Side of the network's input; 0 is the whole image.", lower=0, upper=8192
    )
    crop: str = knob(
        "random",
        "Window of --crop_size at random, or of random size too, then resized.",
        choices=("random", "resized"),
    )
    crop_area: float = knob(
        0.08, "Least share of the image that crop=resized keeps.", lower=0.01, upper=1.0
    )
    flip: bool = knob(False, "Mirror half of the training images.")
    jitter: float = knob(
        0.0, "Brightness, contrast and saturation, ± share.", lower=0.0, upper=1.0
    )
    lighting: float = knob(
        0.0, "Random colour along ImageNet's principal axes, σ.", lower=0.0
    )
    cutout: float = knob(
        0.5,
        "Side of the square that is covered last, as a share of the width; 0 is none.",
        lower=0.0,
        upper=1.0,
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if self.padding and self.crop_size:
            raise ValueError("--padding and --crop_size exclude each other; give one")
        if self.crop == "resized" and not self.crop_size:
            raise ValueError("--crop=resized needs --crop_size")

    def check_stored(self, image_size: int) -> None:
        """Refuses a crop larger than the flag that sizes images, before any is read."""
        check_crop(self.crop_size, image_size)

    def check(self, shape: tuple[int, ...], policy: bool) -> None:
        """Raises ValueError for images (H, W, C) that it, or a policy, cannot take."""
        height, width, channels = shape
        smaller = min(height, width)
        if self.crop_size > smaller:
            raise ValueError(
                f"--crop_size={self.crop_size} is larger than the images, which are "
                f"{width} x {height}: give at most {smaller}, or read larger images by "
                "--image_size"
            )
        if self.padding >= smaller:
            raise ValueError(
                f"--padding={self.padding} shifts whole images away, which are "
                f"{width} x {height}: give less than {smaller}"
            )
        if channels != 3 and (self.jitter or self.lighting):
            raise ValueError("--jitter and --lighting take images in colour")
        side = self.crop_size or smaller
        if policy and side < 3:
            flag = "crop_size" if self.crop_size else "image_size"
            raise ValueError(
                f"a policy takes images of 3 pixels or more a side, these have {side}: "
                f"give --{flag}=3 or more"
            )
        if channels not in (1, 3) and policy:
            raise ValueError(
                f"a policy takes images of 1 or 3 channels, these have {channels}; "
                "--grey=true makes it one"
            )

    def before(
        self, crop: jax.Array, flip: jax.Array, jitter: jax.Array, images: jax.Array
    ) -> jax.Array:
        """Crops, flips and jitters (B, H, W, C) uint8 images, a key for each."""
        images = self._crop(crop, images)
        if self.flip:
            images = augment.random_flip(flip, images)
        if not self.jitter:
            return images
        strengths = dict.fromkeys(("brightness", "contrast", "saturation"), self.jitter)
        return _stored(augment.colour_jitter(jitter, as_float(images), **strengths))

    def after(
        self,
        lighting: jax.Array,
        cutout: jax.Array,
        images: jax.Array,
        colours: str,
        *,
        covers: bool = True,
    ) -> jax.Array:
        """Lights and covers images.

        Args:
          lighting: PRNG key.
          cutout: PRNG key.
          images: (B, H, W, C) uint8.
          colours: of the network, whose mean colour fills what cutout covers; it
            becomes 0 where images are standardised.
          covers: False leaves cutout out.

        Returns:
          (B, H, W, C) float32 in [0, 1], lighting apart, which is not clipped.
        """
        images = as_float(images)
        if self.lighting:
            images = augment.lighting(lighting, images, sigma=self.lighting)
        if not (covers and self.cutout):
            return images
        size = round(self.cutout * images.shape[2])
        mean, _ = layers.statistics(colours, images.shape[-1])
        fill = jnp.asarray(mean, images.dtype)[None, None, None]
        return augment.random_cutout(cutout, images, size=size, fill=fill)

    def _crop(self, key: jax.Array, images: jax.Array) -> jax.Array:
        if self.padding:
            return augment.padded_crop(key, images, padding=self.padding)
        if not self.crop_size:
            return images
        if self.crop == "random":
            return augment.random_crop(key, images, size=self.crop_size)
        return _stored(
            augment.random_resized_crop(
                key, as_float(images), size=self.crop_size, scale=(self.crop_area, 1.0)
            )
        )

    def test(self, images: jax.Array) -> jax.Array:
        """The centre window of (B, H, W, C) uint8 images as float32 in [0, 1]."""
        if self.crop_size:
            images = augment.centre_crop(images, size=self.crop_size)
        return as_float(images)

    def smoke(self) -> Self:
        """The same on images of 32 pixels."""
        return dataclasses.replace(self, crop_size=32 if self.crop_size else 0)


def _stored(images: jax.Array) -> jax.Array:
    """Float images in [0, 1] as uint8 again."""
    return jnp.rint(255 * jnp.clip(images, 0, 1)).astype(jnp.uint8)
