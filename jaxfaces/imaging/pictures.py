"""Pictures made with Pillow: contact sheets of retrieved images, and PNG files."""

import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GREEN = (0, 158, 115)  # Okabe & Ito (2008): the colour-blind tell it from red
RED = (213, 50, 30)
INK, LINE = (60, 60, 60), (200, 200, 200)
CELL_PIXELS = (48, 192)  # least and greatest side of a picture on a contact sheet
CAPTION_PIXELS = 96  # least side where a caption has to fit below


def contact_sheet(
    query_images: Any,
    result_images: Any,
    hits: Any = None,
    *,
    captions: Sequence[Sequence[str]] | None = None,
    pad: int = 6,
    scale: int | None = None,
) -> Image.Image:
    """Retrieval at a glance: a row a query, then its neighbours, nearest first.

    A neighbour of the query's class has a solid green frame, any other a dashed red
    one; where classes are not known there are no frames.

    Args:
      query_images: (Q, H, W) or (Q, H, W, C) grey, RGB or RGBA; uint8 or floats in
        [0, 1], clipped.
      result_images: (Q, K, H, W) or (Q, K, H, W, C) neighbours.
      hits: (Q, K) booleans, True where the neighbour is of the query's class; None
        where that is not known.
      captions: Q rows of K + 1 texts to stand below query and neighbours, the middle of
        long ones left out.
      pad: space between neighbours in pixels, >= 0.
      scale: whole factor of enlargement by nearest neighbour; None makes cells of 48 to
        192 pixels.

    Returns:
      An RGB image.

    Raises:
      ValueError: the shapes do not go together, or `scale` is below 1.
    """
    queries, results = np.asarray(query_images), np.asarray(result_images)
    shape = results.shape[:2] if hits is None else np.shape(hits)
    marks = np.full(shape, None) if hits is None else np.asarray(hits)
    if results.shape[:2] != shape or queries.shape[:1] != shape[:1]:
        raise ValueError(
            f"contact_sheet takes (Q, ...) queries, (Q, K, ...) results, (Q, K) hits; "
            f"got {queries.shape}, {results.shape}, {shape}"
        )
    rows, columns = shape
    least = CAPTION_PIXELS if captions else CELL_PIXELS[0]
    width, height = _cell_size(queries.shape[2], queries.shape[1], scale, least)
    frame = max(3, min(width, height) // 16)
    below = 14 if captions else 0
    step_x, step_y = width + 2 * frame + pad, height + 2 * frame + pad + below
    font, small = ImageFont.load_default(13), ImageFont.load_default(10)
    margin, gap, head = 10, max(12, width // 4), 48
    across = 2 * margin + step_x * (columns + 1) - pad + gap
    sheet = Image.new(
        "RGB",
        (max(across, 330), head + step_y * rows - pad + margin),
        "white",
    )
    draw = ImageDraw.Draw(sheet)
    _legend(draw, margin, 8, font, classes=hits is not None)
    cell = _Cell(draw, sheet, (width, height), frame, small)
    for column in range(columns + 1):
        left = margin + column * step_x + (gap if column else 0)
        label = str(column) if column else "query"
        middle = left + frame + width // 2
        draw.text((middle, head - 4), label, INK, font, anchor="ms")
        for row in range(rows):
            cell.draw_at(
                (left, head + row * step_y),
                results[row, column - 1] if column else queries[row],
                marks[row, column - 1] if column else None,
                captions[row][column] if captions else "",
                framed=column > 0,
            )
    return sheet


def picture_grid(
    images: Any,
    captions: Sequence[str],
    *,
    columns: int = 8,
    marks: Sequence[bool | None] | None = None,
    pad: int = 6,
) -> Image.Image:
    """Captioned pictures side by side, row by row.

    Args:
      images: (N, H, W) or (N, H, W, C) grey, RGB or RGBA; uint8 or floats in [0, 1],
        clipped.
      captions: N texts, the middle of long ones left out.
      columns: pictures in a row.
      marks: N of True for a solid green frame, False for a dashed red one, None for
        none; without it there are no frames.
      pad: space between pictures in pixels, >= 0.

    Returns:
      An RGB image.

    Raises:
      ValueError: there are no images, or not as many captions as images.
    """
    images = np.asarray(images)
    marks = [None] * len(images) if marks is None else list(marks)
    if not len(images) or not len(images) == len(captions) == len(marks):
        raise ValueError(
            f"picture_grid takes as many captions and marks as images, at least one; "
            f"got {len(images)} images, {len(captions)} captions, {len(marks)} marks"
        )
    width, height = _cell_size(images.shape[2], images.shape[1], None, CAPTION_PIXELS)
    frame, margin = max(3, min(width, height) // 16), 10
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step_x, step_y = width + 2 * frame + pad, height + 2 * frame + pad + 14
    size = (2 * margin + step_x * columns - pad, 2 * margin + step_y * rows - pad)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    cell = _Cell(draw, sheet, (width, height), frame, ImageFont.load_default(10))
    for number, (image, caption, mark) in enumerate(zip(images, captions, marks)):
        row, column = divmod(number, columns)
        place = (margin + column * step_x, margin + row * step_y)
        cell.draw_at(place, image, mark, caption)
    return sheet


def to_png(picture: Any, path: str | Path) -> None:
    """Writes a picture so that a reader sees the old file or the new, never a part.

    Args:
      picture: a matplotlib figure, a PIL image, or an array (H, W) or (H, W, C) of
        grey, RGB or RGBA, uint8 or floats in [0, 1].
      path: the file to write; missing folders are made.
    """
    buffer = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format="png", dpi=144)
    else:
        image = picture if isinstance(picture, Image.Image) else _to_image(picture)
        image.save(buffer, format="png")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Such names are swept where a process was killed.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Cell(NamedTuple):
    """How a picture with its frame and its caption is put on a sheet."""

    draw: ImageDraw.ImageDraw
    sheet: Image.Image
    size: tuple[int, int]
    frame: int
    font: Any

    def draw_at(
        self,
        place: tuple[int, int],
        image: Any,
        mark: bool | None,
        caption: str,
        *,
        framed: bool = True,
    ) -> None:
        (left, top), (width, height), frame = place, self.size, self.frame
        picture = _resize(_to_image(image).convert("RGB"), width, height)
        self.sheet.paste(picture, (left + frame, top + frame))
        right, bottom = left + width + 2 * frame - 1, top + height + 2 * frame - 1
        if framed:
            _frame(self.draw, (left, top, right, bottom), frame, mark)
        text = _fitting(caption, width, self.font)
        middle = left + frame + width // 2
        self.draw.text((middle, bottom + 1), text, INK, self.font, anchor="mt")


def _to_image(array: Any) -> Image.Image:
    array = np.asarray(array)
    if array.ndim not in (2, 3) or (
        array.ndim == 3 and array.shape[2] not in (1, 3, 4)
    ):
        raise ValueError(
            f"an image must be (H, W) or (H, W, C) with 1, 3 or 4 channels, "
            f"got shape {array.shape}"
        )
    if array.dtype != np.uint8:
        unit = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        array = np.rint(255 * np.clip(unit, 0, 1)).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(array)


def _cell_size(
    width: int, height: int, scale: int | None, smallest: int
) -> tuple[int, int]:
    largest = CELL_PIXELS[1]
    longest = max(width, height)
    if scale is not None:
        if scale < 1:
            raise ValueError(f"scale must be at least 1, got {scale}")
        return width * scale, height * scale
    if longest > largest:
        factor = largest / longest
        return max(1, round(width * factor)), max(1, round(height * factor))
    factor = math.ceil(smallest / longest)
    return width * factor, height * factor


def _resize(picture: Image.Image, width: int, height: int) -> Image.Image:
    enlarges = width >= picture.width
    resample = Image.Resampling.NEAREST if enlarges else Image.Resampling.LANCZOS
    return picture.resize((width, height), resample)


def _fitting(text: str, width: int, font: Any) -> str:
    """A text on one line, its middle left out until it is no wider than `width`."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    short, most = text, min(len(text), width)
    while most > 1 and (len(short) > most or font.getlength(short) > width):
        most -= 1
        short = f"{text[: (most - 1) // 2]}…{text[len(text) - most // 2 :]}"
    return short


def _legend(
    draw: ImageDraw.ImageDraw, left: int, top: int, font: Any, *, classes: bool
) -> None:
    kinds = ((True, "same class"), (False, "another class")) if classes else ()
    for hit, text in kinds:
        _frame(draw, (left, top, left + 17, top + 15), 3, hit)
        draw.text((left + 24, top + 13), text, INK, font, anchor="ls")
        left += 24 + round(font.getlength(text)) + 20
    draw.text((left, top + 13), "nearest first", INK, font, anchor="ls")


def _frame(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    width: int,
    hit: bool | None,
) -> None:
    """A solid green or a dashed red frame, `width` pixels inwards from `box`.

    A thin grey line around the picture where `hit` is None.
    """
    left, top, right, bottom = box
    if hit is None:
        inner = width - 1
        box = (left + inner, top + inner, right - inner, bottom - inner)
        draw.rectangle(box, outline=LINE)
        return
    if hit:
        draw.rectangle(box, outline=GREEN, width=width)
        return
    for start, end in _dashes(left, right, 2 * width):
        draw.rectangle((start, top, end, top + width - 1), fill=RED)
        draw.rectangle((start, bottom - width + 1, end, bottom), fill=RED)
    for start, end in _dashes(top, bottom, 2 * width):
        draw.rectangle((left, start, left + width - 1, end), fill=RED)
        draw.rectangle((right - width + 1, start, right, end), fill=RED)


def _dashes(first: int, last: int, length: int) -> Iterator[tuple[int, int]]:
    """Splits first … last into dashes and gaps alike, a dash at either end."""
    pieces = max(3, round((last - first + 1) / length) | 1)
    edges = np.rint(np.linspace(first, last + 1, pieces + 1)).astype(int)
    for i in range(0, pieces, 2):
        yield int(edges[i]), int(edges[i + 1]) - 1
