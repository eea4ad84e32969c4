"""A user's own images as a stream, fitted as the training images were."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfaces.data import images, streams
from jaxfaces.data.errors import DataError
from jaxfaces.engine.task import Predicted
from jaxfaces.tasks.stored_images import StoredImages

NO_PIXELS = np.zeros((32, 32, 1), np.uint8)


def stream(
    data: StoredImages, paths: Sequence[Path], batch_size: int, max_pixels: int
) -> streams.Stream:
    """Image files fitted as the training images were, a row a file, in order."""
    decode = functools.partial(
        images.load,
        size=data.image_size,
        how=data.fit,
        trim=data.trim_white,
        grey=data.grey,
        max_pixels=max_pixels,
    )
    plan = streams.ordered_plan(len(paths), batch_size)
    sweep = streams.batches_to_cover(len(paths), batch_size)
    read = functools.partial(_read, decode, paths)
    return streams.Stream(plan, read, len(paths), 0, sweep)


def _read(decode: Any, paths: Sequence[Path], rows: np.ndarray) -> Mapping[str, Any]:
    chosen = [paths[row] for row in rows]
    for path in chosen:
        if not path.is_file():  # opening a pipe would wait for a writer
            raise images.ImageError("no such file")
    return {"image": np.stack([decode(path) for path in chosen])}


def pixels(wanted: Sequence[tuple[Predicted, int]]) -> np.ndarray:
    """The pixels of files, for a picture of a few.

    Args:
      wanted: pairs of predictions and the row of a file among them.

    Returns:
      (N, H, W, C) uint8 of one shape; white where a file is gone since it was read, or
      has become another's size.
    """
    found = [_one(predicted, row) for predicted, row in wanted]
    paper = np.full_like(next((x for x in found if x is not None), NO_PIXELS), 255)
    return np.stack(
        [paper if x is None or x.shape != paper.shape else x for x in found]
    )


def _one(predicted: Predicted, row: int) -> np.ndarray | None:
    try:
        return predicted.read(np.array([row]))["image"][0]
    except DataError:
        return None
