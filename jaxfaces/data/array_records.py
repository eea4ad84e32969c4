"""Labelled images of prepared data sets: TFDS directories in array_record format."""

import bisect
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxfaces.data.encoded import Encoded, Example, faulty, label_fault
from jaxfaces.data.errors import DataError

VARIABLE = "JAXFACES_DATA"

# Where features.json names classes: old files, and both spellings of newer ones.
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
_TFDS = "tensorflow_datasets."

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


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records: `take` of them, after `skip`, belong to the split.

    Attributes:
      name: the file's name.
      skip: records to leave out.
      take: records to read.
      fault: what is wrong with the whole file; "" where it can be read.
    """

    name: str
    skip: int
    take: int
    fault: str = ""


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a split, read by row numbers.

    Attributes:
      data: random access to records as TFDS gives it.
      shards: the files they are in, in order.
      title: name of data set and split.
      classes: number of classes, 0 where it is unknown.
    """

    data: Any
    shards: tuple[Shard, ...]
    title: str
    classes: int

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(shard.take for shard in self.shards))

    def fetch(self, rows: np.ndarray) -> list[Example]:
        """Reads rows; what cannot be read or used is an example with a `fault`."""
        numbers = [int(row) for row in rows]
        try:
            found = self.data.__getitems__(numbers)
        # One by one tells which of them it is.
        except Exception:
            return [self._one(row) for row in numbers]
        return [self._example(row, record) for row, record in zip(numbers, found)]

    def _one(self, row: int) -> Example:
        shard, _ = self._shard(row)
        if shard.fault:
            return faulty(self._where(row), shard.fault)
        try:
            record = self.data[row]
        # Damage raises what the readers, written in C++, like.
        except Exception as error:
            return faulty(self._where(row), f"cannot be read ({error})")
        return self._example(row, record)

    def _shard(self, row: int) -> tuple[Shard, int]:
        """The shard that holds a row, and the number of the record within."""
        i = bisect.bisect_right(self._ends, row)
        shard = self.shards[i]
        return shard, row - self._ends[i] + shard.take + shard.skip

    def _where(self, row: int, file: str = "") -> str:
        shard, record = self._shard(row)
        where = f"record {row} of {self.title} ({shard.name}, record {record})"
        return f"{where}, {file}" if file else where

    def _example(self, row: int, record: dict) -> Example:
        where = self._where(row, _text(record, "file"))
        image, label = record["image"], record["label"]
        # A shard that was cut short gives records without content, not an error.
        if image is None or label is None:
            return faulty(where, "the record is empty: cut short or damaged")
        if not isinstance(image, bytes | np.ndarray):
            return faulty(where, f"the image is a {type(image).__name__}")
        fault = label_fault(label, self.classes)
        if fault:
            return faulty(where, fault)
        name, role = _text(record, "class_name"), _text(record, "role")
        id_ = _text(record, "id") or _text(record, "file_name")
        return Example(image, int(label), where, name, role, id_)


def _text(record: dict, name: str) -> str:
    value = record.get(name)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


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
        _check_features(directory / "features.json")
        builder = tfds.builder_from_directory(directory)
        features = builder.info.features
        lacking = {"image", "label"} - set(features)
        if lacking:
            raise DataError(
                f"{title} has no feature {lacking.pop()!r}, only {', '.join(features)}"
            )
        skip = {"image": tfds.decode.SkipDecoding()}
        data = builder.as_data_source(split, decoders=skip)
        shards = _shards(builder.info.splits, split)
    except NotImplementedError as error:
        raise DataError(
            f"{title} is not in array_record format. {how_to_obtain(title)}"
        ) from error
    except DataError:
        raise
    # What a damaged directory raises is up to tfds, json and array_record.
    except Exception as error:
        raise DataError(f"cannot open split {split!r} of {directory}: {error}") from (
            error
        )
    names = getattr(features["label"], "names", None)
    classes = getattr(features["label"], "num_classes", None) or 0
    records = Records(data, tuple(shards), f"{title} {split}", classes)
    return Encoded(len(data), records.fetch, tuple(names) if names else None)


def _check_features(path: Path) -> None:
    """Raises where a feature is no class of TFDS: TFDS would import any module."""
    if not path.exists():
        return  # TFDS has its own words for that
    places = [json.loads(path.read_text(encoding="utf-8"))]
    while places:
        place = places.pop()
        if isinstance(place, dict):
            for name in map(place.get, _CLASS_KEYS):
                if isinstance(name, str) and "." in name:
                    if not name.startswith(_TFDS):
                        raise DataError(f"{path} asks for {name}, no feature of TFDS")
            places.extend(place.values())
        elif isinstance(place, list):
            places.extend(place)
        elif isinstance(place, str) and place.lstrip().startswith("{"):
            with contextlib.suppress(ValueError):  # TFDS cannot read it then either
                places.append(json.loads(place))


def _shards(splits: Any, split: str) -> Iterator[Shard]:
    """The shards of a split, each opened once to see what it holds."""
    for info in splits.values():
        if min(info.shard_lengths, default=0) < 0:
            raise DataError(f"the shard lengths of split {info.name} are damaged")
    for part in splits[split].file_instructions:
        path = Path(part.filename)
        fault, held = _look(path)
        if not fault and held != part.examples_in_shard:
            raise DataError(
                f"{path} holds {held} records, dataset_info.json says "
                f"{part.examples_in_shard}"
            )
        yield Shard(path.name, part.skip, part.take, fault)


def _look(path: Path) -> tuple[str, int]:
    """What is wrong with a shard, and how many records it holds."""
    from array_record.python import array_record_module

    if not path.is_file():
        return "the shard is missing", 0
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        good, held = reader.ok(), reader.num_records()
        reader.close()
    except Exception as error:  # the reader is C++ and raises what it likes
        return f"the shard cannot be read ({error})", 0
    return "" if good else "the shard was cut short or is damaged", held
