"""Labelled images as they are stored, before decoding: digits and image folders."""

import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxfaces.data import images
from jaxfaces.data.errors import DataError

# Labels travel as int32.
MOST = 2**31 - 1


class Example(NamedTuple):
    """One labelled image before decoding.

    Attributes:
      image: an encoded image, the path of one, or (H, W[, C]) uint8 pixels.
      label: its class.
      where: names it in messages.
      class_name: name of its class, "" where only the data set knows it.
      role: "query", "gallery" or "".
      id: what the data set calls it; "" where it has no names of its own.
      fault: what is wrong with it as stored; "" where nothing is. A faulty example has
        neither image nor label.
    """

    image: bytes | Path | np.ndarray
    label: int
    where: str
    class_name: str = ""
    role: str = ""
    id: str = ""
    fault: str = ""


def faulty(where: str, fault: str) -> Example:
    """An example that cannot be used; `fault` says why."""
    return Example(b"", 0, where, fault=fault)


def label_fault(label: Any, classes: int = 0) -> str:
    """What is wrong with a stored label; "" where nothing is.

    Args:
      label: what was stored, of any type.
      classes: how many there are; 0 where any label from 0 on is one.

    Returns:
      The fault in words.
    """
    kind = np.asarray(label).dtype
    if np.ndim(label) or not np.issubdtype(kind, np.integer):
        return f"the label {str(label)[:40]!r} is no whole number"
    last = classes - 1 if classes else MOST
    if not 0 <= int(label) <= last:
        return f"the label {label} is not in 0 … {last}"
    return ""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Random access to labelled images before decoding.

    Attributes:
      examples: number of images.
      fetch: maps (b,) row numbers to a list of b examples.
      names: name of class 0, 1, …, or None where only the examples know.
    """

    examples: int
    fetch: Callable[[np.ndarray], list[Example]]
    names: tuple[str, ...] | None = None


def from_list(examples: list[Example], names: tuple[str, ...] | None) -> Encoded:
    """Examples that are held in a list."""
    return Encoded(len(examples), functools.partial(_pick, examples), names)


def _pick(examples: list[Example], rows: np.ndarray) -> list[Example]:
    return [examples[row] for row in rows]


def digits(split: str) -> Encoded:
    """Scikit-learn's 1,797 bundled 8 x 8 digits, white on black, in one split "all"."""
    if split != "all":
        raise DataError(f"digits has one split, 'all', got {split!r}")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    examples = [
        Example(_png(image), int(label), f"digit {row}")
        for row, (image, label) in enumerate(zip(pixels, bunch.target))
    ]
    return from_list(examples, tuple("0123456789"))


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def from_folder(root: Path, split: str) -> Encoded:
    """An image folder with one sub-folder a class.

    Args:
      root: `root/CLASS/*` where `split` is "all", else `root/SPLIT/CLASS/*`. Hidden
        files are left out, and those whose suffix is not in `images.SUFFIXES`.
      split: "all" or a sub-folder of `root`.

    Returns:
      The examples by class name and file name. Labels number the class names of all
      splits together, so that they agree between splits.

    Raises:
      DataError: there is no such folder, or it holds no images.
    """
    top = root if split == "all" else root / split
    if not top.is_dir():
        raise DataError(f"there is no folder {top} (split {split!r} of {root})")
    tops = [root] if split == "all" else folders(root)
    names = sorted({folder.name for each in tops for folder in folders(each)})
    labels = {name: label for label, name in enumerate(names)}
    examples = [
        Example(path, labels[folder.name], str(path))
        for folder in folders(top)
        for path in image_files(folder)
    ]
    if not examples:
        raise DataError(
            f"there are no images in {top}/CLASS/*; looked for the suffixes "
            + " ".join(sorted(images.SUFFIXES))
        )
    return from_list(examples, tuple(names))


def folders(root: Path) -> list[Path]:
    """The sub-folders of a folder that are not hidden, in name order."""
    found = (path for path in root.iterdir() if path.is_dir())
    return sorted(path for path in found if not path.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """The files of a folder that are images by name, in name order."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
    )
