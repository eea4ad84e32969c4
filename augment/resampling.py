"""Resampling of images at any positions."""

import jax
import jax.numpy as jnp


def bilinear(
    images: jax.Array, x: jax.Array, y: jax.Array, fill: float | jax.Array
) -> jax.Array:
    """Samples each image at positions of its own; `fill` surrounds the image.

    Args:
      images: (B, H, W, C), floating.
      x: (B, h, w) columns in pixels, pixel centres at integers.
      y: (B, h, w) rows in pixels.
      fill: value outside the image.

    Returns:
      (B, h, w, C) images, differentiable in all arguments.

    Raises:
      ValueError: `images` are not floating.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be floating, got {images.dtype}; divide by 255")
    # A frame of `fill` one pixel wide stands for all that is outside: no neighbour
    # needs a mask. The gather is batched, not flat, so that a sharded batch stays where
    # it is.
    batch, height, width, channels = images.shape
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    frame = ((0, 0), (1, 1), (1, 1), (0, 0))
    framed = jnp.pad(wide, frame, constant_values=jnp.asarray(fill, wide.dtype))
    pixels = framed.reshape(batch, (height + 2) * (width + 2), channels)
    x = jnp.clip(x, -1, width) + 1
    y = jnp.clip(y, -1, height) + 1
    left = jnp.clip(jnp.floor(x), 0, width)
    top = jnp.clip(jnp.floor(y), 0, height)
    u = (x - left)[..., None].astype(wide.dtype)
    v = (y - top)[..., None].astype(wide.dtype)
    first = top.astype(jnp.int32) * (width + 2) + left.astype(jnp.int32)

    def take(index: jax.Array) -> jax.Array:  # (B, h, w) -> (B, h, w, C)
        return jax.vmap(lambda rows, i: rows.at[i].get(mode="clip"))(pixels, index)

    upper = (1 - u) * take(first) + u * take(first + 1)
    lower = (1 - u) * take(first + width + 2) + u * take(first + width + 3)
    return ((1 - v) * upper + v * lower).astype(images.dtype)
