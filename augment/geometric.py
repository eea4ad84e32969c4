"""Flips, crops and affine maps of image batches.

Images are (B, H, W, C), positions (x, y) in pixels with pixel centres at integers. A
random function takes its key first and draws for each image on its own. Warps are
bilinear without a low-pass filter: shrinking to less than half aliases.
"""

from typing import TypeAlias

import chex
import jax
import jax.numpy as jnp

from augment import resampling

Size: TypeAlias = int | tuple[int, int]
Scalar: TypeAlias = float | jax.Array


def random_flip(
    key: jax.Array, images: jax.Array, *, probability: Scalar = 0.5
) -> jax.Array:
    """Mirrors each image left to right with the given probability.

    Args:
      key: PRNG key.
      images: (B, H, W, C), any dtype.
      probability: chance that an image is mirrored, in [0, 1].

    Returns:
      (B, H, W, C) images.

    Raises:
      ValueError: `probability` is known and outside [0, 1].
    """
    chex.assert_rank(images, 4)
    if not isinstance(probability, jax.Array) and not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability:g}")
    mirror = jax.random.bernoulli(key, probability, (images.shape[0],))
    return jnp.where(mirror[:, None, None, None], images[:, :, ::-1], images)


def random_crop(key: jax.Array, images: jax.Array, *, size: Size) -> jax.Array:
    """Cuts a window out of each image, every position equally likely.

    Args:
      key: PRNG key.
      images: (B, H, W, C), any dtype.
      size: side or (height, width) of the window in pixels.

    Returns:
      (B, height, width, C) windows.

    Raises:
      ValueError: the window is empty or larger than the images.
    """
    chex.assert_rank(images, 4)
    batch, in_height, in_width, channels = images.shape
    height, width = _window(size, images)
    positions = jnp.array([in_height - height + 1, in_width - width + 1])
    offsets = jax.random.randint(key, (batch, 2), 0, positions[None])

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        start = (offset[0], offset[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(cut)(images, offsets)


def centre_crop(images: jax.Array, *, size: Size) -> jax.Array:
    """Cuts the window in the middle of each image.

    Args:
      images: (B, H, W, C), any dtype.
      size: side or (height, width) of the window in pixels. Where the margin is odd,
        the larger part of it is cut off at the bottom or the right.

    Returns:
      (B, height, width, C) windows.

    Raises:
      ValueError: the window is empty or larger than the images.
    """
    chex.assert_rank(images, 4)
    height, width = _window(size, images)
    top = (images.shape[1] - height) // 2
    left = (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    *,
    size: Size,
    scale: tuple[float, float] = (0.5, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Cuts a window of random area and shape out of each image and resizes it.

    Area, aspect and position are uniform in their ranges (the training crop of the
    ranked list loss, Wang et al. 2021). A side longer than the image is cut to it,
    which lessens the area drawn and evens out the aspect.

    Args:
      key: PRNG key.
      images: (B, H, W, C), floating.
      size: side or (height, width) of the result in pixels, >= 1.
      scale: range of the window's share of the image's area, in (0, 1].
      aspect: range of the window's width / height, > 0.

    Returns:
      (B, height, width, C) images.

    Raises:
      ValueError: a range is empty or outside its bounds, or `size` is below 1.
    """
    chex.assert_rank(images, 4)
    _check_range("scale", scale, 1.0)
    _check_range("aspect", aspect, float("inf"))
    batch, in_height, in_width, _ = images.shape
    draws = jax.random.uniform(key, (batch, 4))
    share = scale[0] + (scale[1] - scale[0]) * draws[:, 0]
    shape = aspect[0] + (aspect[1] - aspect[0]) * draws[:, 1]
    area = share * in_height * in_width
    width = jnp.minimum(jnp.sqrt(area * shape), in_width)
    height = jnp.minimum(jnp.sqrt(area / shape), in_height)
    left = draws[:, 2] * (in_width - width)
    top = draws[:, 3] * (in_height - height)
    boxes = jnp.stack([left, top, width, height], axis=-1)
    return resized_crop(images, boxes, size=size)


def resized_crop(images: jax.Array, boxes: jax.Array, *, size: Size) -> jax.Array:
    """Resizes one window of each image, bilinear, edges continued beyond the image.

    Args:
      images: (B, H, W, C), floating.
      boxes: (B, 4) windows (left, top, width, height) in pixels from the outer corner
        of the first pixel: (0, 0, W, H) is the whole image.
      size: side or (height, width) of the result in pixels, >= 1.

    Returns:
      (B, height, width, C) images, differentiable in `images` and `boxes`.

    Raises:
      ValueError: `size` is below 1.
    """
    chex.assert_rank(images, 4)
    chex.assert_shape(boxes, (images.shape[0], 4))
    height, width = _pair(size)
    left, top, box_width, box_height = jnp.split(boxes, 4, axis=-1)  # (B, 1) each
    x = left + box_width * ((jnp.arange(width) + 0.5) / width)[None] - 0.5  # (B, w)
    y = top + box_height * ((jnp.arange(height) + 0.5) / height)[None] - 0.5  # (B, h)
    x = jnp.clip(x, 0, images.shape[2] - 1)[:, None, :]
    y = jnp.clip(y, 0, images.shape[1] - 1)[:, :, None]
    x, y = jnp.broadcast_arrays(x, y)
    return resampling.bilinear(images, x, y, 0.0)


def random_affine(
    key: jax.Array,
    images: jax.Array,
    *,
    rotation: Scalar = 0.0,
    scale: Scalar = 0.0,
    shear: Scalar = 0.0,
    translation: Scalar = 0.0,
    fill: Scalar = 0.0,
) -> jax.Array:
    """Rotates, stretches, shears and shifts each image about its centre at random.

    Every parameter is uniform between minus and plus its bound; see `affine_matrices`.

    Args:
      key: PRNG key.
      images: (B, H, W, C), floating.
      rotation: bound on the angle in degrees.
      scale: bound on the logarithm of the stretch, drawn for x and y apart.
      shear: bound on the horizontal shift per pixel of height.
      translation: bound on the shift in pixels, drawn for x and y apart.
      fill: value outside the image.

    Returns:
      (B, H, W, C) images, the input itself where all bounds are zero; differentiable in
      `images` and the bounds.
    """
    chex.assert_rank(images, 4)
    draws = jax.random.uniform(key, (images.shape[0], 6), minval=-1.0, maxval=1.0)
    matrices = affine_matrices(
        rotation=rotation * draws[:, 0],
        log_scale=scale * draws[:, 1:3],
        shear=shear * draws[:, 3],
        translation=translation * draws[:, 4:6],
    )
    return affine(images, matrices, fill=fill)


def affine_matrices(
    *,
    rotation: jax.Array,
    log_scale: jax.Array,
    shear: jax.Array,
    translation: jax.Array,
) -> jax.Array:
    """Matrices for `affine` that stretch, shear, rotate, then shift the picture.

    The picture's point p moves to q = R S D p + t with D = diag(exp(log_scale)),
    S = [[1, shear], [0, 1]]; the result maps back, p = D⁻¹ S⁻¹ R⁻¹ (q - t).

    Args:
      rotation: (B,) angles in degrees, counter-clockwise as seen.
      log_scale: (B, 2) logarithms of the stretch along x and y.
      shear: (B,) shift to the right per pixel downwards.
      translation: (B, 2) shift (right, down) in pixels.

    Returns:
      (B, 2, 3) matrices.
    """
    chex.assert_equal_shape([rotation, shear])
    chex.assert_shape([log_scale, translation], (*rotation.shape, 2))
    angle = jnp.deg2rad(rotation)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # y points down, so that counter-clockwise is R = [[cos, sin], [-sin, cos]].
    rows = [[cos - shear * sin, -sin - shear * cos], [sin, cos]]
    linear = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    linear = linear * jnp.exp(-log_scale)[..., :, None]
    # Written out: a matrix product may round to bfloat16 on accelerators.
    offset = -jnp.sum(linear * translation[..., None, :], axis=-1)
    return jnp.concatenate([linear, offset[..., None]], axis=-1)


def affine(images: jax.Array, matrices: jax.Array, *, fill: Scalar = 0.0) -> jax.Array:
    """Resamples each image along an affine map of its pixel grid, bilinear.

    Output pixel (x, y), measured from the image's centre ((W - 1) / 2, (H - 1) / 2),
    takes the value at matrices · (x, y, 1), measured from the centre too. Values blend
    into `fill` over the one pixel around the image.

    Args:
      images: (B, H, W, C), floating.
      matrices: (B, 2, 3) maps from output to input positions in pixels.
      fill: value outside the image.

    Returns:
      (B, H, W, C) images, differentiable in `images`, `matrices` and `fill`.

    Raises:
      AssertionError: shapes or dtypes differ (checked while tracing).
    """
    chex.assert_rank(images, 4)
    batch, height, width, _ = images.shape
    chex.assert_shape(matrices, (batch, 2, 3))
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x = (jnp.arange(width) - centre_x)[None, None, :]
    y = (jnp.arange(height) - centre_y)[None, :, None]
    to_x, to_y = matrices[:, 0, :, None, None], matrices[:, 1, :, None, None]
    from_x = to_x[:, 0] * x + to_x[:, 1] * y + to_x[:, 2] + centre_x  # (B, H, W)
    from_y = to_y[:, 0] * x + to_y[:, 1] * y + to_y[:, 2] + centre_y
    return resampling.bilinear(images, from_x, from_y, fill)


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size must be at least 1 pixel a side, got {size}")
    return height, width


def _window(size: Size, images: jax.Array) -> tuple[int, int]:
    height, width = _pair(size)
    if height > images.shape[1] or width > images.shape[2]:
        raise ValueError(
            f"a window of {height} x {width} pixels does not fit into images of "
            f"{images.shape[1]} x {images.shape[2]}; take a smaller size"
        )
    return height, width


def _check_range(name: str, bounds: tuple[float, float], highest: float) -> None:
    low, high = bounds
    if not 0 < low <= high <= highest:
        raise ValueError(
            f"{name} must be (low, high), 0 < low <= high <= {highest}, got {bounds}"
        )
