"""Geometric augmentation of training images by flag."""

import dataclasses

import jax
import jax.numpy as jnp

import augment
from jaxfaces.engine.config import knob


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """Random flips, affine maps and crops; a task nests it to get its flags."""

    flip: bool = knob(False, "Mirror half of the training images.")
    rotation: float = knob(0.0, "Random rotation, ± degrees.", lower=0.0, upper=180.0)
    scale: float = knob(0.0, "Random stretch, ± in log scale, per axis.", lower=0.0)
    shear: float = knob(0.0, "Random shear, ± pixels per pixel.", lower=0.0)
    translation: float = knob(0.0, "Random shift, ± pixels.", lower=0.0)
    background: float = knob(
        0.0, "Grey level beyond the edge, 0 black to 1 white.", lower=0.0, upper=1.0
    )
    crop: str = knob(
        "random",
        "Window of --crop_size at random, or of random size too, then resized.",
        choices=("random", "resized"),
    )
    crop_size: int = knob(
        0, "Side of the network's input; 0 is the whole image.", lower=0, upper=8192
    )

    def train(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Augments (B, H, W, C) uint8 or float images to float32 in [0, 1]."""
        images = as_float(images)
        flip_key, affine_key, crop_key = jax.random.split(key, 3)
        if self.flip:
            images = augment.random_flip(flip_key, images)
        if self.rotation or self.scale or self.shear or self.translation:
            images = augment.random_affine(
                affine_key,
                images,
                rotation=self.rotation,
                scale=self.scale,
                shear=self.shear,
                translation=self.translation,
                fill=self.background,
            )
        if not self.crop_size:
            return images
        crop = augment.random_crop
        if self.crop == "resized":
            crop = augment.random_resized_crop
        return crop(crop_key, images, size=self.crop_size)

    def test(self, images: jax.Array) -> jax.Array:
        """The centre window of (B, H, W, C) images as float32 in [0, 1]."""
        images = as_float(images)
        if not self.crop_size:
            return images
        return augment.centre_crop(images, size=self.crop_size)


def check_crop(crop_size: int, image_size: int) -> None:
    """Refuses a crop larger than the flag that sizes images, before any is read."""
    if 0 < image_size < crop_size:
        raise ValueError(
            f"--crop_size={crop_size} is larger than --image_size={image_size}: "
            "lower the one or raise the other"
        )


def as_float(images: jax.Array) -> jax.Array:
    """Stored uint8 images to float32 in [0, 1]; float images stay as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return images.astype(jnp.float32)
