"""Augmentation of images to classify by flag: crop, flip, colour, policy, cutout."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import augment
from jaxfaces.engine.config import knob
from jaxfaces.models import layers
from jaxfaces.tasks.image_augmentation import as_float

NAMES = ("none", "cutout", "autoaugment", "dada", "randaugment", "trivialaugment")
# The published policy for each data set: those found on CIFAR-10 are the usual choice
# for small images, those found on ImageNet for all others.
FOUND = {
    "autoaugment": {"svhn_cropped": "svhn", "imagenet2012": "imagenet"},
    "dada": {
        "svhn_cropped": "svhn",
        "imagenet2012": "imagenet",
        "cifar100": "cifar100",
    },
}


@dataclasses.dataclass(frozen=True)
class ClassificationAugmentation:
    """What happens to a training image, in this order; a task nests it for its flags.

    Crop and flip, colour jitter, the policy, lighting, cutout. A policy sees uint8.
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
    policy: str = knob(
        "none",
        "none; cutout alone; autoaugment, dada, randaugment, trivialaugment with "
        "cutout; of a data set such as dada:cifar100; trivialaugment:standard of "
        "narrower ranges; or a policy FILE.json.",
    )
    randaugment_count: int = knob(2, "Operations an image, N.", lower=1, upper=4)
    randaugment_magnitude: int = knob(9, "Their strength, M.", lower=0, upper=30)
    cutout: float = knob(
        0.5,
        "Side of the square that every policy but none covers, as a share of the "
        "width; 0 is none.",
        lower=0.0,
        upper=1.0,
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if self.padding and self.crop_size:
            raise ValueError("--padding and --crop_size exclude each other; give one")
        name, _, of = self.policy.partition(":")
        if self.policy.endswith(".json") or name in NAMES:
            return
        raise ValueError(
            f"--policy={self.policy} is none of {', '.join(NAMES)}, nor a .json file"
        )

    def make_policy(self, dataset: str) -> Any:
        """The policy for a data set; None for "none" and "cutout".

        Raises:
          ValueError: there is none of that name, or its file is damaged or missing.
        """
        name, _, of = self.policy.partition(":")
        try:
            if self.policy.endswith(".json"):
                return augment.load_policy(Path(self.policy))
            if name == "randaugment":
                return augment.rand_augment(
                    count=self.randaugment_count, magnitude=self.randaugment_magnitude
                )
            if name == "trivialaugment":
                if of not in ("", "standard", "wide"):
                    raise ValueError(f"{of!r} is neither standard nor wide")
                return augment.trivial_augment(wide=of != "standard")
            if name in FOUND:
                make = augment.auto_augment if name == "autoaugment" else augment.dada
                return make(of or FOUND[name].get(dataset, "cifar10"))
        except (ValueError, OSError) as error:
            raise ValueError(f"--policy={self.policy}: {error}") from error
        return None

    def check(self, shape: tuple[int, ...], policy: bool) -> None:
        """Raises ValueError for images (H, W, C) that it cannot take."""
        height, width, channels = shape
        if self.crop_size > min(height, width):
            raise ValueError(
                f"--crop_size={self.crop_size} is larger than the images, which are "
                f"{width} x {height}"
            )
        if channels != 3 and (self.jitter or self.lighting):
            raise ValueError("--jitter and --lighting take images in colour")
        if channels not in (1, 3) and policy:
            raise ValueError(f"--policy takes 1 or 3 channels, images have {channels}")

    def train(
        self, key: jax.Array, images: jax.Array, policy: Any, colours: str
    ) -> jax.Array:
        """Augments a batch.

        Args:
          key: PRNG key.
          images: (B, H, W, C) uint8.
          policy: what `make_policy` gave.
          colours: of the network, whose mean colour fills what cutout covers.

        Returns:
          (B, H', W', C) float32 in [0, 1], lighting apart, which is not clipped.
        """
        crop, flip, jitter, policies, lighting, cutout = jax.random.split(key, 6)
        images = self._crop(crop, images)
        if self.flip:
            images = augment.random_flip(flip, images)
        if self.jitter:
            strengths = dict.fromkeys(
                ("brightness", "contrast", "saturation"), self.jitter
            )
            images = _stored(
                augment.colour_jitter(jitter, as_float(images), **strengths)
            )
        if policy is not None:
            images = augment.apply(policy, policies, images)
        images = as_float(images)
        if self.lighting:
            images = augment.lighting(lighting, images, sigma=self.lighting)
        if self.policy == "none" or not self.cutout:
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

    def smoke(self) -> "ClassificationAugmentation":
        """The same on images of 32 pixels."""
        return dataclasses.replace(self, crop_size=32 if self.crop_size else 0)


def _stored(images: jax.Array) -> jax.Array:
    """Float images in [0, 1] as uint8 again."""
    return jnp.rint(255 * jnp.clip(images, 0, 1)).astype(jnp.uint8)
