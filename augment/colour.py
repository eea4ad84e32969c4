"""Random changes of colour for photographs: jitter and lighting."""

import chex
import jax
import jax.numpy as jnp

# Of the covariance of ImageNet's RGB values, as the released training codes have them:
# eigenvalues, and eigenvectors as columns.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's grey


def colour_jitter(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
) -> jax.Array:
    """Scales brightness, contrast and saturation of each image, in random order.

    Each is x ← clip(d + f (x - d), 0, 1) with f ~ U(1 - s, 1 + s): d is black for
    brightness, the image's mean grey for contrast, a pixel's own grey for saturation.

    Args:
      key: PRNG key.
      images: (B, H, W, 3) floating in [0, 1].
      brightness: s of brightness, in [0, 1].
      contrast: s of contrast, in [0, 1].
      saturation: s of saturation, in [0, 1].

    Returns:
      (B, H, W, 3) images.

    Raises:
      ValueError: a strength is outside [0, 1], or images are not floating RGB.
    """
    _check(images)
    strengths = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
    }
    for name, strength in strengths.items():
        if not 0 <= strength <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {strength}")
    drawing, ordering = jax.random.split(key)
    batch = images.shape[0]
    spread = jnp.asarray(list(strengths.values()), images.dtype)[None]
    factors = 1 + spread * jax.random.uniform(
        drawing, (batch, 3), images.dtype, minval=-1, maxval=1
    )
    rank = jax.random.uniform(ordering, (batch, 3))
    order = jnp.argsort(rank, axis=1)  # (B, 3), which change comes when
    for step in range(3):
        which = order[:, step]
        grey = jnp.sum(images * _row(LUMA, images.dtype), axis=-1, keepdims=True)
        mean = jnp.broadcast_to(grey.mean((1, 2), keepdims=True), grey.shape)
        towards = jnp.stack([jnp.zeros_like(grey), mean, grey])
        base = jnp.take_along_axis(
            towards, which[None, :, None, None, None], axis=0
        ).squeeze(0)
        factor = jnp.take_along_axis(factors, which[:, None], axis=1)[..., None, None]
        images = jnp.clip(base + factor * (images - base), 0, 1)
    return images


def lighting(key: jax.Array, images: jax.Array, *, sigma: float = 0.1) -> jax.Array:
    """Adds to each image a random colour along the principal axes of natural images.

    x + Σᵢ αᵢ λᵢ pᵢ, αᵢ ~ N(0, σ²), with λᵢ, pᵢ the eigenvalues and eigenvectors of the
    covariance of ImageNet's RGB values. The result is not clipped.

    Args:
      key: PRNG key.
      images: (B, H, W, 3) floating in [0, 1].
      sigma: σ, >= 0.

    Returns:
      (B, H, W, 3) images.

    Raises:
      ValueError: `sigma` is negative, or images are not floating RGB.

    Source: Krizhevsky et al. 2012 (AlexNet), section 4.1.
    """
    _check(images)
    if not sigma >= 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    alpha = sigma * jax.random.normal(key, (images.shape[0], 3), images.dtype)
    scaled = alpha * jnp.asarray(EIGENVALUES, images.dtype)[None]
    # Written out: a matrix product may round to bfloat16 on accelerators.
    axes = jnp.asarray(EIGENVECTORS, images.dtype)[None]
    shift = jnp.sum(scaled[:, None, :] * axes, axis=-1)
    return images + shift[:, None, None, :]


def _check(images: jax.Array) -> None:
    chex.assert_rank(images, 4)
    if images.shape[-1] != 3 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floating (B, H, W, 3), got {images.dtype} of shape "
            f"{images.shape}"
        )


def _row(numbers: tuple[float, ...], dtype: jnp.dtype) -> jax.Array:
    return jnp.asarray(numbers, dtype)[None, None, None]
