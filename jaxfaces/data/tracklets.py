"""Tracklets for video re-identification: a person's frames in one camera's view."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxfaces.data import decoding, images, sources
from jaxfaces.data.encoded import Encoded, Example
from jaxfaces.data.errors import DataError
from jaxfaces.data.sources import Source
from jaxfaces.data.tracklet_layouts import LAYOUTS, Tracklet


@dataclasses.dataclass(frozen=True, eq=False)
class Tracklets:
    """The frames of tracklets, read by row numbers.

    Attributes:
      frames: one row a frame, tracklet after tracklet; its label is the number of the
        tracklet. A tracklet whose frames are all damaged and left out has none.
      names: (T,) of the tracklets.
      people: (T,) int32 identity of each.
      cameras: (T,) int32 camera of each.
      query: (T,) whether it asks.
      gallery: (T,) whether it is looked for.
    """

    frames: Source
    names: Sequence[str]
    people: np.ndarray
    cameras: np.ndarray
    query: np.ndarray
    gallery: np.ndarray

    def read(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Reads frames.

        Args:
          rows: (b,) integers, 0 … frames - 1.

        Returns:
          {"image": (b, H, W, C) uint8, "label", "camera", "tracklet": (b,) int32,
          "query", "gallery": (b,) bool}; the label is the person.

        Raises:
          DataError: a frame is damaged; the message names it.
        """
        columns = self.frames.read(rows)
        number = columns["label"]
        return {
            "image": columns["image"],
            "label": self.people[number],
            "camera": self.cameras[number],
            "tracklet": number,
            "query": self.query[number],
            "gallery": self.gallery[number],
        }


def load(
    dataset: str,
    split: str,
    folder: Path,
    *,
    image_size: int = 0,
    fit: str = "warp",
    on_bad_example: str = "error",
    memory_limit: int = sources.MEMORY_LIMIT,
) -> Tracklets:
    """Opens the tracklets of an extracted collection; its images are read in place.

    Args:
      dataset: one of `LAYOUTS`, which say what the folder must hold.
      split: "train" or "test".
      folder: of the collection.
      image_size: side in pixels of the square that frames are fitted to; 0 keeps their
        own size, which must then be one for all.
      fit: "warp", "pad" or "crop", see `images.fit`.
      on_bad_example: "error" raises at a damaged frame, "skip" leaves it out and counts
        it; frames beyond `memory_limit` are then decoded once to find them.
      memory_limit: bytes of decoded frames to hold in memory at most.

    Returns:
      The tracklets by name.

    Raises:
      DataError: the folder is missing or laid out otherwise, or a frame is damaged; the
        message names it.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}; extract {dataset} there, or give --data_dir="
            f"DIR where DIR/{dataset} is that folder (what it must hold: "
            f"jaxfaces.data.tracklet_layouts.{dataset})"
        )
    found = sorted(LAYOUTS[dataset](folder, split), key=lambda each: each.name)
    if not found:
        raise DataError(f"{folder} holds no tracklets to {split}")
    decoded = decoding.decode(
        _stored(folder, found),
        functools.partial(images.load, size=image_size, how=fit),
        skip=on_bad_example == "skip",
        memory_limit=memory_limit,
    )
    return Tracklets(
        Source(*decoded),
        tuple(each.name for each in found),
        np.array([each.person for each in found], np.int32),
        np.array([each.camera for each in found], np.int32),
        np.array([each.query for each in found]),
        np.array([each.gallery for each in found]),
    )


def _stored(root: Path, found: list[Tracklet]) -> Encoded:
    ends = np.cumsum([len(each.files) for each in found])
    places = [(each.folder, each.files) for each in found]
    return Encoded(int(ends[-1]), functools.partial(_fetch, root, places, ends))


def _fetch(
    root: Path,
    places: list[tuple[str, tuple[str, ...]]],
    ends: np.ndarray,
    rows: np.ndarray,
) -> list[Example]:
    examples = []
    for number, row in zip(np.searchsorted(ends, rows, side="right"), rows):
        folder, files = places[number]
        path = root / folder / files[row - ends[number]]
        examples.append(Example(path, int(number), str(path)))
    return examples


def chosen(whole: Tracklets, which: np.ndarray) -> Tracklets:
    """The frames of some tracklets.

    Args:
      whole: tracklets.
      which: (T,) booleans; numbers stay as they are.
    """
    rows = np.flatnonzero(which[whole.frames.labels])
    return dataclasses.replace(whole, frames=sources.subset(whole.frames, rows))
