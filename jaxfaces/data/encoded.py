"""Labelled images as they are stored: digits, image folders, TFDS directories."""

import dataclasses
import functools
import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxfaces.data import images
from jaxfaces.data.errors import DataError

VARIABLE = "JAXFACES_DATA"

_PREPARE = (
    "python -m jaxfaces.data.prepare --dataset={name} --source=DIR --data_dir=DIR"
)
_ARCHIVES = {
    "cub200": "CUB_200_2011.tgz from the Caltech data archive",
    "cars196": "car_ims.tgz and cars_annos.mat of Stanford Cars",
    "sop": "Stanford_Online_Products.zip from Stanford's CVGL",
    "inshop": "the In-shop Clothes Retrieval Benchmark of DeepFashion",
    "omniglot_retrieval": "images_background.zip and images_evaluation.zip from "
    "https://github.com/brendenlake/omniglot",
    "caltech101_retrieval": "101_ObjectCategories.tar.gz from the Caltech data archive",
}


class Example(NamedTuple):
    """One labelled image before decoding; `where` names it in messages."""

    image: bytes | Path
    label: int
    where: str
    class_name: str = ""
    role: str = ""


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
    tops = [root] if split == "all" else _folders(root)
    names = sorted({folder.name for each in tops for folder in _folders(each)})
    labels = {name: label for label, name in enumerate(names)}
    examples = [
        Example(path, labels[folder.name], str(path))
        for folder in _folders(top)
        for path in image_files(folder)
    ]
    if not examples:
        raise DataError(
            f"there are no images in {top}/CLASS/*; looked for the suffixes "
            + " ".join(sorted(images.SUFFIXES))
        )
    return from_list(examples, tuple(names))


def _folders(root: Path) -> list[Path]:
    found = (path for path in root.iterdir() if path.is_dir())
    return sorted(path for path in found if not path.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """The files of a folder that are images by name, in name order."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
    )


def versions(folder: Path) -> list[Path]:
    """The complete versions of a TFDS data set in `folder`, oldest first."""
    found = [
        path.parent
        for path in folder.glob("*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    ]
    return sorted(found, key=lambda path: tuple(map(int, path.name.split("."))))


def find(name: str, data_dir: str) -> Path:
    """The newest version of the TFDS data set `name`.

    Args:
      name: folder of the data set, for instance "cifar10".
      data_dir: where to look: here and in the sub-folder tfds; empty stands for the
        environment variable JAXFACES_DATA.

    Returns:
      The path of the version's directory.

    Raises:
      DataError: it is not there; the message has the command that obtains it.
    """
    root = data_dir or os.environ.get(VARIABLE, "")
    if not root:
        raise DataError(
            f"where is the data set {name}? Give --data_dir=DIR or set {VARIABLE}. "
            + how_to_obtain(name)
        )
    places = [Path(root) / name, Path(root) / "tfds" / name]
    for place in places:
        if found := versions(place):
            return found[-1]
    raise DataError(
        f"the data set {name} is not in {places[0]}/VERSION nor {places[1]}/VERSION. "
        + how_to_obtain(name)
    )


def how_to_obtain(name: str) -> str:
    """The sentence that tells a user how to get the data set `name`."""
    if name in _ARCHIVES:
        command = _PREPARE.format(name=name)
        return (
            f"To obtain it, download {_ARCHIVES[name]}, extract it, then run: {command}"
        )
    return (
        "To obtain it, run: pip install tensorflow; "
        f"tfds build {name} --file_format=array_record --data_dir=DIR"
    )


def from_tfds(directory: Path, split: str) -> Encoded:
    """A split of a TFDS directory in array_record format; needs no TensorFlow.

    Args:
      directory: `NAME/VERSION`, with the features `image` and `label` and perhaps
        `class_name`, `role` and `file`.
      split: a split or a slice of one, such as "train" or "train[:80%]".

    Returns:
      The examples in stored order.

    Raises:
      DataError: the directory cannot be read so.
    """
    import tensorflow_datasets as tfds

    title = f"{directory.parent.name}/{directory.name}"
    try:
        builder = tfds.builder_from_directory(directory)
        features = builder.info.features
        lacking = {"image", "label"} - set(features)
        if lacking:
            raise DataError(
                f"{title} has no feature {lacking.pop()!r}, only {', '.join(features)}"
            )
        skip = {"image": tfds.decode.SkipDecoding()}
        data = builder.as_data_source(split, decoders=skip)
        length = len(data)
    except NotImplementedError as error:
        raise DataError(
            f"{title} is not in array_record format. {how_to_obtain(title)}"
        ) from error
    except DataError:
        raise
    # What a damaged directory raises is up to tfds, json and array_record.
    except Exception as error:
        raise DataError(f"cannot open split {split!r} of {title}: {error}") from error
    names = getattr(features["label"], "names", None)
    fetch = functools.partial(_records, data, f"of {title} {split}")
    return Encoded(length, fetch, tuple(names) if names else None)


def _records(data: Any, title: str, rows: np.ndarray) -> list[Example]:
    try:
        records = data.__getitems__([int(row) for row in rows])
    except Exception as error:
        raise DataError(
            f"cannot read records {rows[0]} … {rows[-1]} {title}: {error}"
        ) from error
    return [
        _example(record, f"record {row} {title}") for row, record in zip(rows, records)
    ]


def _example(record: dict, where: str) -> Example:
    # A shard that was cut short gives records without content, not an error.
    if record["image"] is None or record["label"] is None:
        raise DataError(f"{where} is empty: the file was cut short or damaged")
    file, class_name, role = (
        (record.get(name) or b"").decode("utf-8", "replace")
        for name in ("file", "class_name", "role")
    )
    where = f"{where} ({file})" if file else where
    return Example(record["image"], int(record["label"]), where, class_name, role)
