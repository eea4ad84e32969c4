"""The validation images of a search: drawn apart, turned, or always the same."""

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
