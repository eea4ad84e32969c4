"""The operations of automatic augmentation with true derivatives.

Each takes an image (H, W, C) floating in [0, 1], C = 1 or 3, a `Magnitude` v and a key.
Warps are bilinear, blends are not rounded, and a cut-out covers the fraction of a pixel
that its square covers: all of them are differentiable in image and level. Solarize and
posterize change by jumps as v grows: their derivative in v is zero, that of posterize
in the image too. Auto-contrast, invert and equalize do not depend on v.
"""

import jax
import jax.numpy as jnp

from augment import geometric, reference_ops
from augment.magnitude import Magnitude


def shear_x(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Row y reads from x + v·y: a slant about the upper left corner."""
    # Pixel centres lie half a pixel inside, the matrix starts at the image's centre.
    return _warp(image, ((1.0, v.real), (0.0, 1.0)), (v.real * image.shape[0] / 2, 0.0))


def shear_y(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Column x reads from y + v·x."""
    return _warp(image, ((1.0, 0.0), (v.real, 1.0)), (0.0, v.real * image.shape[1] / 2))


def translate_x(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from x + v·W."""
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (v.real * image.shape[1], 0.0))


def translate_y(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from y + v·H."""
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (0.0, v.real * image.shape[0]))


def translate_x_abs(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from x + v, v in pixels."""
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (v.real, 0.0))


def translate_y_abs(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from y + v, v in pixels."""
    return _warp(image, ((1.0, 0.0), (0.0, 1.0)), (0.0, v.real))


def rotate(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Turns by v degrees counter-clockwise about the image's centre."""
    angle = jnp.deg2rad(v.real)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _warp(image, ((cos, -sin), (sin, cos)), (0.0, 0.0))


def auto_contrast(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Stretches each channel to [0, 1]; a flat channel stays."""
    low = image.min((0, 1), keepdims=True)
    width = image.max((0, 1), keepdims=True) - low
    flat = width <= 0
    return jnp.where(flat, image, (image - low) / jnp.where(flat, 1, width))


def invert(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """1 - i."""
    return 1 - image


def equalize(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Flattens each channel's histogram of 256 bins, linear between their values.

    The histogram is a constant to differentiation.
    """
    scaled = jnp.clip(image * 255, 0, 255)
    nearest = jax.lax.stop_gradient(jnp.round(scaled)).astype(jnp.uint8)
    table = reference_ops.equalize_table(nearest).astype(image.dtype).reshape(-1)
    below = jnp.minimum(jax.lax.stop_gradient(jnp.floor(scaled)), 254)
    places = below.astype(jnp.int32) + 256 * jnp.arange(image.shape[-1])[None, None]
    lower, upper = table[places], table[places + 1]
    return (lower + (scaled - below) * (upper - lower)) / 255


def solarize(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Inverts the values from v / 255 upwards."""
    return jnp.where(image * 255 < v.real, image, 1 - image)


def posterize(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Keeps the floor(v) highest of 8 bits."""
    step = jnp.exp2(8 - jnp.floor(jnp.clip(v.real, 0, 8)))
    return jnp.floor(jnp.round(image * 255) / step) * step / 255


def contrast(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with the image's mean grey: v = 0 is flat, 1 the image."""
    return _blend(grey_of(image).mean((0, 1), keepdims=True), image, v)


def color(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with the grey image: v = 0 is grey, 1 the image."""
    return _blend(grey_of(image), image, v)


def brightness(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with black: v = 0 is black, 1 the image."""
    return _blend(jnp.zeros((1, 1, 1), image.dtype), image, v)


def sharpness(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with a smoothed image: v = 0 is smooth, 1 the image."""
    inner = reference_ops.neighbour_sum(image) / 13
    return _blend(image.at[1:-1, 1:-1].set(inner), image, v)


def cutout(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Covers a square of side v·W, its centre anywhere; nothing at v <= 0."""
    centre = reference_ops.random_centre(key, image.shape[0], image.shape[1])
    return cutout_at(image, v.real * image.shape[1], centre)


def cutout_abs(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Covers a square of side v pixels, its centre anywhere; nothing at v <= 0."""
    centre = reference_ops.random_centre(key, image.shape[0], image.shape[1])
    return cutout_at(image, v.real, centre)


def cutout_at(image: jax.Array, size: jax.Array, centre: jax.Array) -> jax.Array:
    """Covers a square about a centre.

    Args:
      image: (H, W, C) floating in [0, 1].
      size: () side of the square in pixels.
      centre: (2,) position (x, y) in pixels from the image's corner.

    Returns:
      (H, W, C) image: a pixel blends with the fill by the share of it that is covered.
    """

    def covered(at: jax.Array, length: int) -> jax.Array:
        first = jnp.maximum(at - size / 2, 0)
        pixels = jnp.arange(length)
        last = jnp.minimum(pixels + 1, first + size)
        return jnp.clip(last - jnp.maximum(pixels, first), 0, 1)

    height, width, channels = image.shape
    share = covered(centre[1], height)[:, None] * covered(centre[0], width)[None]
    fill = reference_ops.fill_colour(channels).astype(image.dtype) / 255
    return image + share[..., None].astype(image.dtype) * (fill - image)


def grey_of(image: jax.Array) -> jax.Array:
    """(H, W, 1) brightness, ITU-R 601-2."""
    if image.shape[-1] == 1:
        return image
    weights = jnp.array([19595, 38470, 7471], image.dtype) / 65536
    return jnp.sum(image * weights[None, None], -1, keepdims=True)


def _blend(x: jax.Array, image: jax.Array, v: Magnitude) -> jax.Array:
    return jnp.clip(x + v.real.astype(image.dtype) * (image - x), 0, 1)


def _warp(image: jax.Array, rows: tuple, offset: tuple) -> jax.Array:
    """Reads from rows · (x, y) + offset, positions from the image's centre."""
    lines = [jnp.stack([*map(jnp.asarray, (*row, b))]) for row, b in zip(rows, offset)]
    matrix = jnp.stack(lines).astype(jnp.float32)
    return geometric.affine(image[None], matrix[None])[0]
