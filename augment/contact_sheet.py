"""Draws every operation at five levels on a generated picture.

python -m augment.contact_sheet --out=docs/pictures/operations.png
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from augment import image_ops

TABLE = (*image_ops.OPERATIONS, *image_ops.EXTRA_OPERATIONS)
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIDE, GAP, NAME = 64, 6, 92  # pixels of a picture, between pictures, of a name
KEY = 50  # keeps the random signs, cuts out of the disc, where grey shows
COLUMNS = 2  # of operations


def generated_picture(side: int = SIDE) -> np.ndarray:
    """A picture (side, side, 3) uint8 of ramps, a disc, a ring, a cross and text."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    picture = np.stack([60 + 130 * x, 70 + 110 * y, 170 - 90 * x * y], -1)
    disc = np.hypot(x - 0.3, y - 0.33) < 0.17
    picture[disc] = 225, 90, 60
    ring = np.abs(np.hypot(x - 0.7, y - 0.67) - 0.17) < 0.045
    picture[ring] = 240, 225, 90
    cross = (np.abs(x - 0.74) < 0.03) | (np.abs(y - 0.27) < 0.03)
    picture[cross & (x > 0.6) & (x < 0.88) & (y > 0.13) & (y < 0.41)] = 40, 60, 110
    image = Image.fromarray(picture.astype(np.uint8))
    ImageDraw.Draw(image).text((0.1 * side, 0.66 * side), "5A", fill=(250, 250, 250))
    return np.asarray(image)


def contact_sheet(picture: np.ndarray) -> Image.Image:
    """All operations, a row each, at the levels 0 to 1.

    Args:
      picture: (H, W, C) uint8.

    Returns:
      The sheet.
    """
    table, height = TABLE, picture.shape[0] + GAP
    block = NAME + len(LEVELS) * (picture.shape[1] + GAP)
    rows = -(-len(table) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * block + GAP, 20 + rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for column in range(COLUMNS):
        for place, level in enumerate(LEVELS):
            left = column * block + NAME + place * (picture.shape[1] + GAP)
            draw.text((left + GAP, 5), f"level {level:g}", fill="black")
    for number, results in enumerate(_at_levels(picture)):
        column, row = divmod(number, rows)
        left, top = column * block, 20 + row * height
        name = table[number].name
        draw.text((left + GAP, top + picture.shape[0] // 2 - 6), name, fill="black")
        for place, result in enumerate(results):
            tile = Image.fromarray(result if result.shape[-1] == 3 else result[..., 0])
            sheet.paste(
                tile, (left + NAME + GAP + place * (picture.shape[1] + GAP), top)
            )
    return sheet


def main(arguments: list[str] | None = None) -> int:
    """Writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    options = parser.parse_args(arguments)
    contact_sheet(generated_picture()).save(options.out, optimize=True)
    print(options.out)
    return 0


def _at_levels(picture: np.ndarray) -> np.ndarray:
    """(operations, levels, H, W, C) uint8."""
    functions = [each.function("reference") for each in TABLE]

    @jax.jit
    def run(index: jax.Array, level: jax.Array) -> jax.Array:
        key, image = jax.random.key(KEY), jnp.asarray(picture)
        return jax.lax.switch(index, functions, image, level, key)

    numbers = range(len(functions))
    return np.array([[run(n, jnp.float32(level)) for level in LEVELS] for n in numbers])


if __name__ == "__main__":
    raise SystemExit(main())
