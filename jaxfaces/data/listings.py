"""Readers of the files that list the images of a collection and their classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxfaces.data import encoded
from jaxfaces.data.errors import DataError

_MOST_ENTRIES = 10_000_000


def class_folders(source: Path, tops: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Class name and file, relative to `source`, of every image in class folders."""
    roots = [source / top for top in tops if (source / top).is_dir()] or [source]
    return [
        (path.parent.name, str(path.relative_to(source)))
        for root in roots
        for place in sorted(root.glob("*/"))
        if not place.name.startswith(".")
        for path in encoded.image_files(place)
    ]


def table(path: Path, columns: int, header: int = 0) -> list[tuple[str, ...]]:
    """Reads a table whose columns are separated by white space."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        row = tuple(line.split())
        if number <= header or not row:
            continue
        if len(row) != columns:
            raise DataError(
                f"{path}, line {number}: expected {columns} columns, got {len(row)}"
            )
        rows.append(row)
    return rows


def matlab(path: Path) -> dict[str, Any]:
    """Reads a MATLAB file's structures as lists of dictionaries."""
    import scipy.io

    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        found = scipy.io.loadmat(path, simplify_cells=True)
    # A damaged file raises whatever the parser trips over.
    except Exception as error:
        raise DataError(f"{path} is not a MATLAB file ({error})") from error
    for name in ("annotations", "class_names"):
        if name in found and isinstance(found[name], dict | str):
            found[name] = [found[name]]
    return found


def matrix(path: Path, name: str) -> np.ndarray:
    """Reads one matrix of whole numbers of a MATLAB file, whatever else it holds.

    SciPy's reader builds arrays and runs nothing that a file brings; the size that the
    header states is looked at before anything is read.

    Args:
      path: the file.
      name: name of the matrix.

    Returns:
      (rows, columns) int64.

    Raises:
      DataError: the file is missing or damaged, or holds no such matrix.
    """
    import scipy.io

    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        headers = {each: shape for each, shape, _ in scipy.io.whosmat(path)}
        shape = headers.get(name, ())
        if len(shape) != 2 or not 0 < int(np.prod(shape)) <= _MOST_ENTRIES:
            raise DataError(
                f"{path}: {name!r} must be a matrix of 1 to {_MOST_ENTRIES} numbers; "
                f"the file holds {headers}"
            )
        found = scipy.io.loadmat(path, appendmat=False, variable_names=[name])[name]
    except DataError:
        raise
    # A damaged file raises whatever the parser trips over.
    except Exception as error:
        raise DataError(f"{path} is not a MATLAB file ({error})") from error
    numeric = isinstance(found, np.ndarray) and found.dtype.kind in "iuf"
    # Nor may a number be too large for the cast, which only warns.
    if not numeric or not np.all(np.abs(found.astype(float)) < 2**53):
        raise DataError(f"{path}: {name!r} must hold numbers")
    whole = found.astype(np.int64)
    if np.any(whole != found):
        raise DataError(f"{path}: {name!r} must hold whole numbers")
    return whole
