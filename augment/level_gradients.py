"""Gradients for levels through operations that have none."""

import jax
import jax.numpy as jnp


def straight_through(
    images: jax.Array, levels: jax.Array, applied: jax.Array
) -> jax.Array:
    """Images as they are, with unit derivative of every pixel in every applied level.

    The value is `images`; for the levels m of the operations that were applied,
    ∂ images[pixel] / ∂ m = 1 at each pixel and channel. Apply it once, to the batch as
    the network takes it, after normalising and cutting out: that is where the
    derivative is one. A term of value zero carries it, so that forward mode, reverse
    mode and their compositions all work, and no last bit changes.

    Args:
      images: (B, ...) floating batch.
      levels: (G, n) levels of the operations applied to each of G equal, consecutive
        parts of the batch, not clamped: a level outside [0, 1] keeps its gradient.
        G = 1 is one draw for the batch, G = B one an image.
      applied: (G, n) bool, False where an operation was not applied: no gradient.

    Returns:
      (B, ...) the same values.

    Raises:
      ValueError: the batch does not divide into G parts, or shapes or dtypes disagree.

    Source: the official code of Li et al. 2020 (DADA).
    """
    if levels.ndim != 2 or levels.shape != applied.shape:
        raise ValueError(
            f"levels and applied must both be (G, n), got {levels.shape} and "
            f"{applied.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floating, got {images.dtype}: normalise them first"
        )
    batch, groups = images.shape[0], levels.shape[0]
    if groups == 0 or batch % groups:
        raise ValueError(f"{batch} images do not divide into {groups} groups of levels")
    moving = jnp.where(applied, levels - jax.lax.stop_gradient(levels), 0)
    zeros = jnp.repeat(moving.sum(1), batch // groups).astype(images.dtype)
    return images + jnp.expand_dims(zeros, tuple(range(1, images.ndim)))


def with_derivatives_of(images: jax.Array, smooth: jax.Array) -> jax.Array:
    """Images as they are, with the derivatives of others.

    Where `smooth` are the same images by the smooth operations, that is how much each
    pixel really changes with a level: what `straight_through` stands in for.

    Args:
      images: (B, ...) floating batch.
      smooth: (B, ...) finite, differentiable.

    Returns:
      (B, ...) the values of `images`.

    Raises:
      ValueError: shapes disagree.
    """
    if images.shape != smooth.shape:
        raise ValueError(
            f"both must have one shape, got {images.shape} and {smooth.shape}"
        )
    return jax.lax.stop_gradient(images) + (smooth - jax.lax.stop_gradient(smooth))
