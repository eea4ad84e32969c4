"""The operations of automatic augmentation, pixel for pixel as Pillow computes them.

Each takes an image (H, W, C) uint8, C = 1 or 3, a `Magnitude` v and a key, and returns
the image changed. Positions and tables are integer arithmetic, blends float32 in the
order of Pillow 13 on x86-64, so that jit and vmap change no pixel. What lies outside
the image is black. Where a shift v·W is half a pixel to the last digit, as at level
21/32 of 32 pixels, Pillow's float64 may fall either way; here it goes up. Names and
semantics: Cubuk et al. 2019 (AutoAugment), as in Li et al. 2020 (DADA).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from augment import fixed_point
from augment.magnitude import Magnitude

FILL = (125, 123, 114)  # colour of a cut-out in red, green, blue; its grey is 123
ONE = 1 << 16  # Pillow's positions have 16 bits after the point


def identity(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """The image itself."""
    return image


def shear_x(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Row y reads from x + v·y: a slant about the upper left corner."""
    slope, offset = _slope(v)
    y, x = _grid(image)
    return _take(image, y, (offset + slope * y + ONE * x) >> 16)


def shear_y(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Column x reads from y + v·x."""
    slope, offset = _slope(v)
    y, x = _grid(image)
    return _take(image, (offset + slope * x + ONE * y) >> 16, x)


def translate_x(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from x + v·W."""
    y, x = _grid(image)
    return _take(image, y, x + _rounded(v, image.shape[1]))


def translate_y(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from y + v·H."""
    y, x = _grid(image)
    return _take(image, y + _rounded(v, image.shape[0]), x)


def translate_x_abs(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from x + v, v in pixels."""
    y, x = _grid(image)
    return _take(image, y, x + _rounded(v, 1))


def translate_y_abs(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Reads from y + v, v in pixels."""
    y, x = _grid(image)
    return _take(image, y + _rounded(v, 1), x)


def rotate(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Turns by v degrees counter-clockwise about the image's centre."""
    height, width, _ = image.shape
    cos, sin = v.cos_sin
    minus = fixed_point.times(sin, -1)
    a, b = (fixed_point.floor(each, scale=ONE, halves=1) for each in (cos, minus))
    # c = -b in Pillow, rounded on its own.
    c = fixed_point.floor(sin, scale=ONE, halves=1)
    start_x = _start(width, height, cos, minus)
    start_y = _start(height, width, cos, sin)
    a, b, c, start_x, start_y = _once(v, (a, b, c, start_x, start_y))
    y, x = _grid(image)
    rows = (start_y + a * y + c * x) >> 16
    return _take(image, rows, (start_x + b * y + a * x) >> 16)


def auto_contrast(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Stretches each channel to 0 … 255; v plays no part."""
    low, high = image.min((0, 1)).astype(int), image.max((0, 1)).astype(int)  # (C,)
    width = jnp.maximum(high - low, 1)[:, None]
    values = jnp.arange(256)[None]
    table = (values - low[:, None]) * 255 // width
    # Pillow multiplies by 255 / width in float64 and truncates: 1 less now and then.
    code = (low * 256 + high) * 256
    table_of_codes, longest = _auto_contrast_exceptions()
    exceptions = jnp.asarray(table_of_codes)
    start = jnp.searchsorted(exceptions, code)
    nearby = exceptions[start[:, None] + jnp.arange(longest)[None]]  # (C, longest)
    hits = nearby[:, None, :] == (code[:, None] + values)[:, :, None]
    table = jnp.clip(table - hits.any(-1), 0, 255)
    return _look_up(image, _once(v, jnp.where((high > low)[:, None], table, values)))


def invert(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """255 - i; v plays no part."""
    return 255 - image


def equalize(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Flattens each channel's histogram; v plays no part."""
    return _look_up(image, _once(v, equalize_table(image)))


def solarize(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Inverts the values from v upwards."""
    threshold = -fixed_point.floor(fixed_point.times(v.fixed, -1))
    return jnp.where(image.astype(jnp.int32) < threshold, image, 255 - image)


def posterize(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Keeps the floor(v) highest bits; none of them is black."""
    bits = jnp.clip(fixed_point.floor(v.fixed), 0, 8)
    mask = 255 - ((1 << (8 - bits)) - 1)
    return image & mask.astype(jnp.uint8)


def contrast(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with the image's mean grey: v = 0 is flat, 1 the image."""
    grey, count = grey_of(image), image.shape[0] * image.shape[1]
    mean = (2 * grey.sum() + count) // (2 * count)
    return _blend(jnp.broadcast_to(mean, image.shape), image, v)


def color(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with the grey image: v = 0 is grey, 1 the image."""
    return _blend(jnp.broadcast_to(grey_of(image), image.shape), image, v)


def brightness(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with black: v = 0 is black, 1 the image."""
    return _blend(jnp.zeros(image.shape, jnp.int32), image, v)


def sharpness(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Blends with a smoothed image: v = 0 is smooth, 1 the image."""
    inner = (2 * neighbour_sum(image.astype(jnp.int32)) + 13) // 26
    smooth = image.astype(jnp.int32).at[1:-1, 1:-1].set(inner)
    return _blend(smooth, image, v)


def cutout(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Covers a square of side v·W, its centre anywhere; nothing at v <= 0."""
    centre = random_centre(key, image.shape[0], image.shape[1])
    return cutout_at(image, v, centre, side=image.shape[1])


def cutout_abs(image: jax.Array, v: Magnitude, key: jax.Array) -> jax.Array:
    """Covers a square of side v pixels, its centre anywhere; nothing at v <= 0."""
    centre = random_centre(key, image.shape[0], image.shape[1])
    return cutout_at(image, v, centre, side=1)


def random_centre(key: jax.Array, height: int, width: int) -> jax.Array:
    """A position (x, y) uniform in [1, W) x [1, H), as the official code draws it."""
    extent = jnp.array([width, height], jnp.float32)
    return 1 + jax.random.uniform(key, (2,)) * (extent - 1)


def cutout_at(
    image: jax.Array, v: Magnitude, centre: jax.Array, *, side: int
) -> jax.Array:
    """Covers the square of side v·side about a centre.

    Args:
      image: (H, W, C) uint8.
      v: side of the square in units of `side`.
      centre: (2,) float32 position (x, y) in pixels.
      side: pixels a unit of v.

    Returns:
      (H, W, C) uint8; where the square is not cut by the border it covers floor(v·side)
      + 1 pixels a side, since Pillow's rectangles include their last pixel.
    """
    value = v.fixed
    size = fixed_point.floor(value, scale=side)

    def covered(at: jax.Array, length: int) -> jax.Array:
        # floor(at - size / 2) = floor((2 at - size) / 2)
        twice = fixed_point.times(fixed_point.from_float(at), 2)
        below = fixed_point.add(twice, fixed_point.times(value, -side))
        first = jnp.maximum(fixed_point.floor(fixed_point.carry(below)) >> 1, 0)
        places = jnp.arange(length)
        return (places >= first) & (places <= first + size)

    height, width, channels = image.shape
    inside = covered(centre[1], height)[:, None] & covered(centre[0], width)[None]
    inside &= fixed_point.floor(value, scale=ONE) > 0
    return jnp.where(inside[..., None], fill_colour(channels), image)


def fill_colour(channels: int) -> jax.Array:
    """The colour of a cut-out, (1, 1, C) uint8."""
    colour = FILL if channels == 3 else (FILL[1],)
    return jnp.array(colour, jnp.uint8)[None, None]


def grey_of(image: jax.Array) -> jax.Array:
    """(H, W, 1) int32 brightness, ITU-R 601-2 in 16-bit fixed point."""
    wide = image.astype(jnp.int32)
    if image.shape[-1] == 1:
        return wide
    red, green, blue = wide[..., :1], wide[..., 1:2], wide[..., 2:]
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


def neighbour_sum(image: jax.Array) -> jax.Array:
    """Sum over 3 x 3 neighbours, the middle five times, without the border."""
    height, width, _ = image.shape
    rows = image[: height - 2] + image[1 : height - 1] + image[2:]
    sums = rows[:, : width - 2] + rows[:, 1 : width - 1] + rows[:, 2:]
    return sums + 4 * image[1:-1, 1:-1]


def equalize_table(image: jax.Array) -> jax.Array:
    """(C, 256) int32 new values that flatten each channel's histogram."""
    height, width, channels = image.shape
    pixels = image.reshape(height * width, channels).astype(jnp.int32)
    places = pixels + 256 * jnp.arange(channels)[None]
    counts = jnp.zeros(256 * channels, jnp.int32).at[places.reshape(-1)].add(1)
    counts = counts.reshape(channels, 256)
    last = jnp.take_along_axis(counts, pixels.max(0)[:, None], 1)
    step = (height * width - last) // 255  # 0 where one value is all there is
    below = jnp.cumsum(counts, 1) - counts
    table = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.clip(table, 0, 255), jnp.arange(256)[None])


def _once(v: Magnitude, values: Any) -> Any:
    """The values themselves, computed before the pixels are.

    XLA on CPU would compute them again for each pixel of a single image (a rotation
    takes 50 times as long). What a branch takes has to be there; a barrier is not kept.
    """
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return jax.lax.cond(v.level >= 0, lambda given: given, zeros, values)


def _look_up(image: jax.Array, table: jax.Array) -> jax.Array:
    """New values (C, 256) for each channel's old ones."""
    channels = jnp.arange(image.shape[-1])[None, None]
    flat = table.astype(jnp.uint8).reshape(-1)
    return flat[256 * channels + image.astype(jnp.int32)]


def _blend(x: jax.Array, image: jax.Array, v: Magnitude) -> jax.Array:
    """The sum x + v (image - x) in float32, the product rounded first, truncated."""
    factor = v.nearest
    # Two halves of the factor, whose products are exact: fused or not, their sum is the
    # rounded product.
    bits = jax.lax.bitcast_convert_type(factor, jnp.int32)
    high = jax.lax.bitcast_convert_type(bits & ~0xFFF, jnp.float32)
    change = (image.astype(jnp.int32) - x).astype(jnp.float32)
    product = high * change + (factor - high) * change
    total = x.astype(jnp.float32) + product
    return jnp.clip(total, 0, 255).astype(jnp.uint8)


def _slope(v: Magnitude) -> tuple[jax.Array, jax.Array]:
    value = v.fixed
    offset = fixed_point.floor(value, scale=ONE // 2, halves=ONE + 1)
    return fixed_point.floor(value, scale=ONE, halves=1), offset


def _rounded(v: Magnitude, scale: int) -> jax.Array:
    return fixed_point.floor(v.fixed, scale=scale, halves=1)


def _start(
    along: int, across: int, cos: fixed_point.Fixed, sin: fixed_point.Fixed
) -> jax.Array:
    """Where pixel 0 reads, (n - cos (n - 1) - sin (m - 1)) / 2, with 16 bits."""
    turned = fixed_point.add(
        fixed_point.times(cos, 1 - along), fixed_point.times(sin, 1 - across)
    )
    whole, *rest = fixed_point.carry(turned)
    return fixed_point.floor((whole + along, *rest), scale=ONE // 2, halves=1)


def _grid(image: jax.Array) -> tuple[jax.Array, jax.Array]:
    height, width, _ = image.shape
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    return jnp.broadcast_to(y, (height, width)), jnp.broadcast_to(x, (height, width))


def _take(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    height, width, channels = image.shape
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    pixels = image.reshape(height * width, channels)
    taken = pixels.at[rows * width + columns].get(mode="clip")
    return jnp.where(inside[..., None], taken, 0)


@functools.cache
def _auto_contrast_exceptions() -> tuple[np.ndarray, int]:
    """Triples (low, high, i) where Pillow's value is one below the exact one.

    Returns:
      Sorted int32 codes 65536 low + 256 high + i, and the largest number of them that
      share low and high.
    """
    codes = []
    for low in range(256):
        high = np.arange(low + 1, 256)[:, None]
        value = np.arange(low, 256)[None]
        scale = 255.0 / (high - low)
        theirs = (value * scale + -low * scale).astype(np.int64)
        odd = (theirs < (value - low) * 255 // (high - low)) & (value <= high)
        codes.append(((low * 256 + high) * 256 + value)[odd])
    every = np.concatenate(codes)
    longest = int(np.bincount(every >> 8).max())
    padding = np.full(longest, np.iinfo(np.int32).max)
    return np.concatenate([every, padding]).astype(np.int32), longest
