"""The images of a search: those that judge drawn apart, and what can be planted."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from jaxfaces.data.sources import Source
from jaxfaces.data.streams import Plan, Stream


def other(seed: int) -> int:
    """A seed whose order has nothing to do with that of `seed`."""
    return seed + (1 << 32)


def always_first(stream: Stream) -> Stream:
    """The first batch over and over, as the released code of DADA has it."""
    return dataclasses.replace(stream, plan=functools.partial(_first, stream.plan))


def turned(source: Source, degrees: float) -> Source:
    """The images turned counter-clockwise about their centre, black beyond."""
    if not degrees:
        return source
    return dataclasses.replace(
        source, pixels=functools.partial(_turned, source.pixels, degrees)
    )


def inverted(source: Source, classes: int) -> Source:
    """Every other image, those with an odd row number, inverted: 255 - x.

    Their classes are C … 2 C - 1, the others' stay 0 … C - 1; see `of_both`.
    """
    odd = np.arange(len(source)) % 2
    return dataclasses.replace(
        source,
        pixels=functools.partial(_inverted, source.pixels),
        labels=(source.labels + classes * odd).astype(source.labels.dtype),
    )


def of_both(stream: Stream) -> Stream:
    """A stream of C classes as one of these and of their inverted images' classes."""
    names = (*stream.names, *(f"{name}, inverted" for name in stream.names))
    return dataclasses.replace(stream, classes=2 * stream.classes, names=names)


def _first(plan: Plan, n: int) -> np.ndarray:
    return plan(0)


def _turned(pixels: Callable, degrees: float, rows: np.ndarray) -> np.ndarray:
    images = pixels(rows)
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    found = [
        np.asarray(Image.fromarray(each).rotate(degrees, Image.Resampling.BILINEAR))
        for each in squeezed
    ]
    return np.stack(found).reshape(images.shape)


def _inverted(pixels: Callable, rows: np.ndarray) -> np.ndarray:
    images, odd = pixels(rows), np.asarray(rows) % 2
    return np.where(odd[:, None, None, None] == 1, 255 - images, images)
