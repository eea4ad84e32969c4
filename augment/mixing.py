"""Mixed images and labels, crops over a padded border, and holes.

Images are (B, H, W, C) floating, labels (B, K) floating shares of K classes. A random
function takes its key first.
"""

from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp

from augment import geometric

Scalar: TypeAlias = float | jax.Array


def padded_crop(
    key: jax.Array, images: jax.Array, *, padding: int, fill: Scalar = 0
) -> jax.Array:
    """Shifts each image by up to `padding` pixels: a crop of the padded image.

    Args:
      key: PRNG key.
      images: (B, H, W, C), any dtype.
      padding: pixels added on each side, >= 0.
      fill: their value.

    Returns:
      (B, H, W, C) images.

    Raises:
      ValueError: `padding` is negative.
    """
    chex.assert_rank(images, 4)
    if padding < 0:
        raise ValueError(f"padding must be at least 0, got {padding}")
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    wide = jnp.pad(images, border, constant_values=fill)
    return geometric.random_crop(key, wide, size=(images.shape[1], images.shape[2]))


def random_cutout(
    key: jax.Array, images: jax.Array, *, size: int, fill: Scalar = 0
) -> jax.Array:
    """Covers a square of each image, its centre uniform, cut off at the border.

    Applied after normalising, `fill` 0 is the mean colour.

    Args:
      key: PRNG key.
      images: (B, H, W, C), any dtype.
      size: side of the square in pixels, >= 0.
      fill: value of covered pixels.

    Returns:
      (B, H, W, C) images.

    Raises:
      ValueError: `size` is negative or not whole.

    Source: DeVries and Taylor 2017 (Cutout).
    """
    chex.assert_rank(images, 4)
    if size < 0 or size != int(size):
        raise ValueError(f"size must be a number of pixels from 0 upwards, got {size}")
    batch, height, width, _ = images.shape
    centres = jax.random.randint(key, (batch, 2), 0, jnp.array([[height, width]]))
    top_left = centres - size // 2
    covered = _boxes(top_left, top_left + size, height, width)
    return jnp.where(covered[..., None], jnp.asarray(fill, images.dtype), images)


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Blends each image, and its labels, with another one of the batch.

    x̃ᵢ = λᵢ xᵢ + (1 - λᵢ) xⱼ with j a random permutation and λᵢ ~ Beta(α, α), one for
    each pair.

    Args:
      key: PRNG key.
      images: (B, H, W, C) floating.
      labels: (B, K) floating, such as one-hot.
      alpha: α, > 0; small values leave most images almost alone.

    Returns:
      (B, H, W, C) images and (B, K) labels.

    Raises:
      ValueError: `alpha` is not positive, images are not floating, or labels are not
        floating rows.

    Source: Zhang et al. 2018 (mixup).
    Differs: from the official code, which draws one λ for a batch.
    """
    partner, shares = _pairs(key, images, labels, alpha)
    return blend_pairs(images, labels, partner, shares)


def blend_pairs(
    images: jax.Array, labels: jax.Array, partner: jax.Array, shares: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """MixUp with given pairs and shares, differentiable in all but the pairs.

    Args:
      images: (B, H, W, C) floating.
      labels: (B, K) floating.
      partner: (B,) row that each row is blended with.
      shares: (B,) share of the row itself, in [0, 1].

    Returns:
      (B, H, W, C) images and (B, K) labels.
    """
    chex.assert_shape([partner, shares], (images.shape[0],))
    own = shares.astype(images.dtype)[:, None, None, None]
    mixed = own * images + (1 - own) * images[partner]
    own_label = shares.astype(labels.dtype)[:, None]
    return mixed, own_label * labels + (1 - own_label) * labels[partner]


def cutmix(
    key: jax.Array, images: jax.Array, labels: jax.Array, *, alpha: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of another image of the batch; labels mix by area.

    The box has the image's shape and the share 1 - λ of its area, λ ~ Beta(α, α), its
    centre uniform; what lies outside is cut off, and λ becomes the share that remains.

    Args:
      key: PRNG key.
      images: (B, H, W, C) floating.
      labels: (B, K) floating, such as one-hot.
      alpha: α, > 0.

    Returns:
      (B, H, W, C) images and (B, K) labels.

    Raises:
      ValueError: `alpha` is not positive, images are not floating, or labels are not
        floating rows.

    Source: Yun et al. 2019 (CutMix).
    Differs: from the official code, which draws one box for a batch.
    """
    pairing, placing = jax.random.split(key)
    partner, shares = _pairs(pairing, images, labels, alpha)
    batch, height, width, _ = images.shape
    extent = jnp.array([[height, width]])
    sides = jnp.floor(jnp.sqrt(1 - shares)[:, None] * extent).astype(jnp.int32)
    top_left = jax.random.randint(placing, (batch, 2), 0, extent) - sides // 2
    pasted = _boxes(top_left, top_left + sides, height, width)
    mixed = jnp.where(pasted[..., None], images[partner], images)
    remains = (1 - pasted.mean((1, 2))).astype(labels.dtype)[:, None]
    return mixed, remains * labels + (1 - remains) * labels[partner]


def _pairs(
    key: jax.Array, images: jax.Array, labels: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """A permutation (B,) of the batch and shares (B,) ~ Beta(α, α)."""
    chex.assert_rank(images, 4)
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images must be floating, got {images.dtype}; divide by 255 first"
        )
    if labels.ndim != 2 or not jnp.issubdtype(labels.dtype, jnp.floating):
        raise ValueError(
            f"labels must be floating and of rank 2, got {labels.dtype} of shape "
            f"{labels.shape}; make class ids one-hot first"
        )
    chex.assert_shape(labels, (images.shape[0], None))
    ordering, sharing = jax.random.split(key)
    partner = jax.random.permutation(ordering, images.shape[0])
    return partner, jax.random.beta(sharing, alpha, alpha, (images.shape[0],))


def _boxes(start: jax.Array, end: jax.Array, height: int, width: int) -> jax.Array:
    """(B, H, W) bool, True inside rows and columns from start to before end."""
    rows, columns = jnp.arange(height)[None], jnp.arange(width)[None]
    down = (rows >= start[:, :1]) & (rows < end[:, :1])
    across = (columns >= start[:, 1:]) & (columns < end[:, 1:])
    return down[:, :, None] & across[:, None, :]
