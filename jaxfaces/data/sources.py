"""Sources of labelled images: decoded, fitted to a square, read by row numbers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxfaces.data import array_records, decoding, encoded, images, npz

MEMORY_LIMIT = 2 << 30
ON_BAD_EXAMPLE = ("error", "skip")


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Labelled images that are read by row numbers.

    Attributes:
      pixels: maps (b,) row numbers to (b, H, W, C) uint8 images.
      labels: (N,) int32 class of every row, known without decoding.
      names: `names[label]` is the name of a class that occurs; None where classes have
        none.
      roles: (N,) "query" or "gallery", or None where every image is both.
      ids: (N,) what the data set calls each image, or None where it does not.
      left_out: (N,) number of bad examples that were left out, each counted at a kept
        row of its class, so that subsets count their own; None where there are none.
      in_memory: the images are held decoded.
    """

    pixels: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray
    names: decoding.Names | None = None
    roles: np.ndarray | None = None
    ids: np.ndarray | None = None
    left_out: np.ndarray | None = None
    in_memory: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """Number of distinct labels."""
        return len(np.unique(self.labels))

    @property
    def skipped(self) -> int:
        """Number of bad examples that were left out."""
        return 0 if self.left_out is None else int(self.left_out.sum())

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
    labels = np.asarray(labels, np.int32)
    return Source(pixels.__getitem__, labels, names, in_memory=True)


def subset(source: Source, rows: np.ndarray) -> Source:
    """The given rows of a source, in the given order; labels stay as they are."""
    rows = np.asarray(rows, np.int64)
    return dataclasses.replace(
        source,
        pixels=functools.partial(_chosen, source.pixels, rows),
        labels=source.labels[rows],
        roles=None if source.roles is None else source.roles[rows],
        ids=None if source.ids is None else source.ids[rows],
        left_out=None if source.left_out is None else source.left_out[rows],
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
      name: "digits", "folder:PATH" with one sub-folder a class, "npz:FILE" with arrays
        (see `npz.from_npz`), or a TFDS data set in array_record format, newest version
        of `data_dir/name` or `data_dir/tfds/name`.
      split: "train", "train[:80%]", …; "all" for digits and what is not divided.
      data_dir: empty stands for the environment variable JAXFACES_DATA.
      image_size: side in pixels of the square that images are fitted to; 0 keeps their
        own size, which must then be one for all.
      fit: "warp", "pad" or "crop", see `images.fit`.
      trim_white: cut white margins first, see `images.trim_white`.
      grey: one channel and not three.
      on_bad_example: "error" raises at a bad example (a damaged image, a record cut
        short, a label out of range), "skip" leaves it out and counts it; a set beyond
        `memory_limit` is then decoded once to find them.
      memory_limit: bytes of decoded images to hold in memory at most.

    Returns:
      The source, with labels as they are stored.

    Raises:
      DataError: the data set is missing (the message has the command that obtains it)
        or damaged, or an example is; the message names it.
    """
    for flag, value, allowed in (
        ("fit", fit, images.FITS),
        ("on_bad_example", on_bad_example, ON_BAD_EXAMPLE),
    ):
        if value not in allowed:
            raise ValueError(f"--{flag} must be one of {allowed}, got {value!r}")
    if name == "digits":
        stored = encoded.digits(split)
    elif name.startswith("folder:"):
        stored = encoded.from_folder(Path(name.removeprefix("folder:")), split)
    elif name.startswith("npz:"):
        stored = npz.from_npz(Path(name.removeprefix("npz:")), split, memory_limit)
    else:
        stored = array_records.from_tfds(array_records.find(name, data_dir), split)
    found = decoding.decode(
        stored,
        functools.partial(
            images.load, size=image_size, how=fit, trim=trim_white, grey=grey
        ),
        skip=on_bad_example == "skip",
        memory_limit=memory_limit,
    )
    return Source(*found)
