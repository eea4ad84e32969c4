"""Plain arrays of an `.npz` file: labelled images, and any others by name."""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from jaxfaces.data.encoded import Encoded, Example, faulty, label_fault
from jaxfaces.data.errors import DataError

_ARRAYS = ("image", "label", "class_names", "split")
_CHANNELS = (1, 3, 4)
_ADVICE = "; write its images to a folder and use --dataset=folder:PATH"


def from_npz(path: Path, split: str, memory_limit: int) -> Encoded:
    """The images of an `.npz` file; nothing in it is unpickled.

    Args:
      path: a file with the arrays `image` (N, H, W) or (N, H, W, C) uint8, C one of 1
        (grey), 3 (RGB), 4 (RGB and opacity), and `label` (N,) of integers; perhaps
        `class_names` (C,) of text, and `split` (N,) of text, the split of each row.
      split: "all", or what `split` holds.
      memory_limit: most bytes that the arrays may take.

    Returns:
      The examples in stored order.

    Raises:
      DataError: the file is missing, damaged or holds other arrays, or no such split.
    """
    arrays = read(path, _ARRAYS, memory_limit, _ADVICE)
    for name in ("image", "label"):
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}, only {_listed(arrays)}")
    image, label = arrays["image"], arrays["label"]
    rows = len(image) if image.ndim else 0
    plain = image.ndim == 3 or (image.ndim == 4 and image.shape[3] in _CHANNELS)
    if not plain or image.dtype != np.uint8 or 0 in image.shape[1:]:
        raise _wrong(path, "image", image, "(N, H, W[, 1 | 3 | 4]) uint8")
    if label.shape != (rows,) or not np.issubdtype(label.dtype, np.integer):
        raise _wrong(path, "label", label, f"({rows},) of integers")
    names = arrays.get("class_names")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise _wrong(path, "class_names", names, "(C,) of text")
    chosen = np.arange(rows)
    if split != "all":
        chosen = np.flatnonzero(_splits(path, arrays, rows) == split)
        if not len(chosen):
            found = _listed(np.unique(arrays["split"]))
            raise DataError(f"{path} has no split {split!r}, only {found}")
    if not rows:
        raise DataError(f"{path} holds no images")
    table = None if names is None else tuple(str(name) for name in names)
    fetch = _Rows(path, image, label, chosen, len(table or ()))
    return Encoded(len(chosen), fetch, table or None)


def is_divided(path: Path, memory_limit: int) -> bool:
    """Whether a file says which split each row belongs to; False if it is not there."""
    if not path.is_file():
        return False
    return "split" in _headers(path, _ARRAYS, memory_limit, _ADVICE)


def _splits(path: Path, arrays: dict[str, np.ndarray], rows: int) -> np.ndarray:
    split = arrays.get("split")
    if split is None:
        raise DataError(f"{path} has no array 'split', so its one split is 'all'")
    if split.shape != (rows,) or split.dtype.kind != "U":
        raise _wrong(path, "split", split, f"({rows},) of text")
    return split


def _wrong(path: Path, name: str, array: np.ndarray, wanted: str) -> DataError:
    return DataError(
        f"{path}: the array {name!r} is {array.shape} {array.dtype}, must be {wanted}"
    )


def _listed(names: object) -> str:
    return ", ".join(sorted(map(str, names))) or "none"  # type: ignore[call-overload]


def read(
    path: Path, wanted: Sequence[str], memory_limit: int, advice: str = ""
) -> dict[str, np.ndarray]:
    """The arrays of an untrusted `.npz` file; nothing in it is unpickled.

    Args:
      path: the file.
      wanted: names of arrays; what else it holds is left alone.
      memory_limit: most bytes that they may take together, by their headers.
      advice: what to do where they are larger.

    Returns:
      Those of `wanted` that are there.

    Raises:
      DataError: the file is missing or damaged, or the arrays are no plain ones.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    arrays = {}
    name = ""
    names = _headers(path, wanted, memory_limit, advice)
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in names:
                # Not file[name]: a member without the suffix would come first.
                arrays[name] = file[f"{name}.npy"]
    # Damage raises what zip, zlib and numpy like.
    except Exception as error:
        raise DataError(f"{path}: the array {name!r} is damaged ({error})") from error
    return arrays


def _headers(
    path: Path, wanted: Sequence[str], memory_limit: int, advice: str
) -> list[str]:
    """The arrays that count, once their headers say that they are plain and small."""
    name, size, names = "", 0, []
    try:
        with zipfile.ZipFile(path) as file:
            for entry in file.namelist():
                name = entry.removesuffix(".npy")
                if name not in wanted or entry == name:
                    continue
                with file.open(entry) as member:
                    size += _bytes(member, path, name)
                names.append(name)
    except DataError:
        raise
    except Exception as error:
        what = f"the array {name!r} is damaged" if name else "no .npz file"
        raise DataError(f"{path}: {what} ({error})") from error
    if size > memory_limit:
        raise DataError(
            f"{path} holds {size:,} bytes of arrays, at most {memory_limit:,} are "
            f"read{advice}"
        )
    return names


def _bytes(member: IO[bytes], path: Path, name: str) -> int:
    """The bytes that an array takes in memory, by its header."""
    version = np.lib.format.read_magic(member)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise DataError(f"{path}: the array {name!r} has the .npy version {version}")
    shape, _, dtype = read[version](member)
    if dtype.hasobject:
        raise DataError(
            f"{path}: the array {name!r} holds Python objects, which are never read; "
            "save numbers or text"
        )
    size = dtype.itemsize
    for side in shape:
        size *= max(side, 1)  # as whole numbers of any size: numpy's would wrap around
    return size


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """Fetches examples of arrays by row numbers."""

    path: Path
    image: np.ndarray
    label: np.ndarray
    chosen: np.ndarray
    classes: int

    def __call__(self, rows: np.ndarray) -> list[Example]:
        return [self._example(int(row)) for row in self.chosen[rows]]

    def _example(self, row: int) -> Example:
        where = f"row {row} of {self.path}"
        fault = label_fault(self.label[row], self.classes)
        if fault:
            return faulty(where, fault)
        return Example(self.image[row], int(self.label[row]), where)
