"""Sources of labelled images: decoded, fitted to a square, read by row numbers."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxfaces.data import encoded as storage
from jaxfaces.data import images
from jaxfaces.data.errors import DataError

MEMORY_LIMIT = 2 << 30
ON_BAD_EXAMPLE = ("error", "skip")

_BLOCK = 512
_THREADS = min(os.cpu_count() or 1, 16)

ToArray = Callable[[bytes | Path], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Labelled images that are read by row numbers.

    Attributes:
      pixels: maps (b,) row numbers to (b, H, W, C) uint8 images.
      labels: (N,) int32 class of every row, known without decoding.
      names: `names[label]` is the class's name; None where classes have none.
      roles: (N,) "query" or "gallery", or None where every image is both.
      skipped: number of damaged images that were left out.
    """

    pixels: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray
    names: tuple[str, ...] | None = None
    roles: np.ndarray | None = None
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of distinct labels."""
        return len(np.unique(self.labels))

    def read(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        """Reads rows.

        Args:
          rows: (b,) integers, 0 … N - 1.

        Returns:
          {"image": (b, H, W, C) uint8, "label": (b,) int32}.

        Raises:
          DataError: an image is damaged; the message names it.
        """
        rows = np.asarray(rows)
        return {"image": self.pixels(rows), "label": self.labels[rows]}


def from_arrays(
    pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...] | None = None
) -> Source:
    """A source over (N, H, W, C) uint8 images and (N,) labels in memory."""
    if len(pixels) != len(labels):
        raise ValueError(f"got {len(pixels)} images and {len(labels)} labels")
    return Source(pixels.__getitem__, np.asarray(labels, np.int32), names)


def subset(source: Source, rows: np.ndarray) -> Source:
    """The given rows of a source, in the given order; labels stay as they are."""
    rows = np.asarray(rows, np.int64)
    return dataclasses.replace(
        source,
        pixels=functools.partial(_chosen, source.pixels, rows),
        labels=source.labels[rows],
        roles=None if source.roles is None else source.roles[rows],
    )


def _chosen(pixels: Callable, chosen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return pixels(chosen[rows])


def relabel(source: Source) -> Source:
    """Renumbers the classes that occur to 0 … C - 1, in label order."""
    present, labels = np.unique(source.labels, return_inverse=True)
    names = source.names and tuple(source.names[label] for label in present)
    return dataclasses.replace(source, labels=labels.astype(np.int32), names=names)


def load(
    name: str,
    split: str,
    *,
    data_dir: str = "",
    image_size: int = 0,
    fit: str = "warp",
    trim_white: bool = False,
    grey: bool = False,
    on_bad_example: str = "error",
    memory_limit: int = MEMORY_LIMIT,
) -> Source:
    """Opens a data set by name.

    What fits into `memory_limit` is decoded once; a larger set is decoded batch by
    batch, after one pass over the records for the labels.

    Args:
      name: "digits", "folder:PATH" with one sub-folder a class, or a TFDS data set in
        array_record format, newest version of `data_dir/name` or `data_dir/tfds/name`.
      split: "train", "train[:80%]", …; "all" for digits and undivided folders.
      data_dir: empty stands for the environment variable JAXFACES_DATA.
      image_size: side in pixels of the square that images are fitted to; 0 keeps their
        own size, which must then be one for all.
      fit: "warp", "pad" or "crop", see `images.fit`.
      trim_white: cut white margins first, see `images.trim_white`.
      grey: one channel and not three.
      on_bad_example: "error" raises at a damaged image, "skip" leaves it out and counts
        it; a set beyond `memory_limit` is then decoded once to find them.
      memory_limit: bytes of decoded images to hold in memory at most.

    Returns:
      The source, with labels as they are stored.

    Raises:
      DataError: the data set is missing (the message has the command that obtains it)
        or damaged, or an image is.
    """
    for flag, value, allowed in (
        ("fit", fit, images.FITS),
        ("on_bad_example", on_bad_example, ON_BAD_EXAMPLE),
    ):
        if value not in allowed:
            raise ValueError(f"--{flag} must be one of {allowed}, got {value!r}")
    if name == "digits":
        stored = storage.digits(split)
    elif name.startswith("folder:"):
        stored = storage.from_folder(Path(name.removeprefix("folder:")), split)
    else:
        stored = storage.from_tfds(storage.find(name, data_dir), split)
    return decoded(
        stored,
        functools.partial(
            images.load, size=image_size, how=fit, trim=trim_white, grey=grey
        ),
        skip=on_bad_example == "skip",
        memory_limit=memory_limit,
    )


def decoded(
    stored: storage.Encoded, to_array: ToArray, *, skip: bool, memory_limit: int
) -> Source:
    """A source that decodes stored images, once or batch by batch.

    Args:
      stored: the images before decoding.
      to_array: maps an encoded image to (H, W, C) uint8, the same for all.
      skip: leave damaged images out; else the first one raises.
      memory_limit: bytes of decoded images to hold in memory at most.

    Returns:
      The source.

    Raises:
      DataError: an image is damaged, or none is good.
    """
    shape = _shape(stored, to_array, skip)
    in_memory = stored.examples * int(np.prod(shape)) <= memory_limit
    column = np.empty((stored.examples if in_memory else 0, *shape), np.uint8)
    rows: list[int] = []
    kept: list[storage.Example] = []
    for start in range(0, stored.examples, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, stored.examples))
        examples = stored.fetch(block)
        if in_memory or skip:
            good = _good(examples, _decode(examples, to_array), skip)
            block = block[list(good)]
            examples = [examples[position] for position in good]
            if in_memory:
                stop = len(rows) + len(good)
                column[len(rows) : stop] = _stack(examples, list(good.values()), shape)
        rows.extend(block)
        # The labels stay, the encoded images go.
        kept.extend(example._replace(image=b"") for example in examples)
    return Source(
        pixels=column[: len(rows)].__getitem__
        if in_memory
        else functools.partial(_on_demand, stored, to_array, shape, np.array(rows)),
        labels=np.array([example.label for example in kept], np.int32),
        names=stored.names or _names(kept),
        roles=_roles(kept),
        skipped=stored.examples - len(rows),
    )


def _shape(stored: storage.Encoded, to_array: ToArray, skip: bool) -> tuple[int, ...]:
    """Shape of the first image that can be decoded."""
    if not stored.examples:
        raise DataError("the split holds no images")
    for row in range(stored.examples):
        examples = stored.fetch(np.array([row]))
        results = _decode(examples, to_array)
        for pixels in _good(examples, results, skip).values():
            return pixels.shape
    raise DataError(
        f"none of the {stored.examples} images can be decoded, the last being "
        f"{examples[0].where}: {results[0]}"
    )


def _on_demand(
    stored: storage.Encoded,
    to_array: ToArray,
    shape: tuple[int, ...],
    chosen: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    examples = stored.fetch(chosen[rows])
    good = _good(examples, _decode(examples, to_array), skip=False)
    return _stack(examples, list(good.values()), shape)


def _decode(
    examples: list[storage.Example], to_array: ToArray
) -> list[np.ndarray | images.ImageError]:
    """Decodes examples on several threads; an image that fails gives its error."""

    def attempt(part: np.ndarray) -> list[np.ndarray | images.ImageError]:
        return [_attempt(examples[i].image, to_array) for i in part]

    # A share of the batch to each thread: one task an image costs more than decoding a
    # small one. The pool lives for one batch, so that a source can be pickled.
    parts = np.array_split(np.arange(len(examples)), _THREADS)
    with ThreadPoolExecutor(_THREADS) as pool:
        return [result for part in pool.map(attempt, parts) for result in part]


def _attempt(image: bytes | Path, to_array: ToArray) -> np.ndarray | images.ImageError:
    try:
        return to_array(image)
    except images.ImageError as error:
        return error


def _good(
    examples: list[storage.Example],
    results: list[np.ndarray | images.ImageError],
    skip: bool,
) -> dict[int, np.ndarray]:
    """The decoded images by position; raises at one that failed, unless `skip`."""
    good = {}
    for position, (example, result) in enumerate(zip(examples, results)):
        if isinstance(result, np.ndarray):
            good[position] = result
        elif not skip:
            raise DataError(
                f"{example.where}: {result}; "
                "--on_bad_example=skip leaves damaged images out"
            ) from result
    return good


def _stack(
    examples: list[storage.Example], arrays: list[np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    for example, array in zip(examples, arrays):
        if array.shape != shape:
            raise DataError(
                f"{example.where} is {array.shape}, others are {shape}; "
                "choose --image_size to fit all to one size"
            )
    return np.array(arrays, np.uint8).reshape(-1, *shape)


def _names(kept: list[storage.Example]) -> tuple[str, ...] | None:
    """Class names by label, "" for labels that do not occur; None without any name."""
    table = {example.label: example.class_name for example in kept}
    if not any(table.values()):
        return None
    return tuple(table.get(label, "") for label in range(max(table) + 1))


def _roles(kept: list[storage.Example]) -> np.ndarray | None:
    roles = np.array([example.role for example in kept])
    return roles if (roles != "").any() else None
