"""Miniatures of collections of tracklets: their folders and lists, with made-up frames.

They stand in for collections that are given out on request, for tests and for trying.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxfaces.data.made_up import made_up

SIZE = (16, 32)  # width and height of a frame
LENGTHS = (3, 12)  # fewest and most frames of a tracklet
JUNK, DISTRACTOR = -1, 0

_Walk = tuple[int, int, int, int]  # class of its pictures, person, camera, number
_Frame = tuple[Path, int, int]  # file, row of the pictures, camera


def write(dataset: str, folder: Path, *, people: int = 8, seed: int = 0) -> Path:
    """Writes a miniature that `tracklets.load` reads as it reads the collection.

    Args:
      dataset: one of `DATASETS`.
      folder: where to write, made if missing.
      people: that train, 3 to 400; as many others test.
      seed: of the pictures and the lengths of the tracklets.

    Returns:
      `folder`.

    Raises:
      ValueError: there is no such miniature, or a number is out of its range.
    """
    if dataset not in _WRITERS:
        raise ValueError(f"dataset must be one of {DATASETS}, got {dataset!r}")
    if not 3 <= people <= 400:
        raise ValueError(f"people must be 3 to 400, got {people}")
    rng = np.random.default_rng(seed)
    # Two classes more, for junk and distractors.
    pictures = made_up(2 * people + 2, 4 * LENGTHS[1], SIZE[1], seed=seed)
    for path, row, camera in _WRITERS[dataset](folder, people, rng):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = _seen(pictures.pixels(np.array([row]))[0], camera)
        Image.fromarray(pixels).resize(SIZE).save(path, "JPEG", quality=90)
    return folder


def _seen(pixels: np.ndarray, camera: int) -> np.ndarray:
    """A picture in the light of a camera, a little red, green or blue."""
    light = np.where(np.arange(3) == camera % 3, 1.0, 0.92)
    return (pixels * light).astype(np.uint8)


def _rows(walk: _Walk, rng: np.random.Generator) -> range:
    """Rows of `made_up` that are the frames of a tracklet, no two sharing one."""
    most = LENGTHS[1]
    start = (4 * walk[0] + walk[3]) * most
    return range(start, start + int(rng.integers(*LENGTHS, endpoint=True)))


def _mars(folder: Path, people: int, rng: np.random.Generator) -> Iterator[_Frame]:
    import scipy.io

    names: list[str] = []
    table: list[tuple[int, int, int, int]] = []
    asks: list[int] = []
    for walk in _mars_walks(people):
        label, person, camera, number = walk
        rows = _rows(walk, rng)
        split = "train" if 1 <= person <= people else "test"
        stem = "00-1" if person == JUNK else f"{person:04d}"
        files = [
            f"{stem}C{camera}T{number + 1:04d}F{frame:03d}.jpg"
            for frame in range(1, len(rows) + 1)
        ]
        if split == "test":
            table.append((len(names) + 1, len(names) + len(files), person, camera))
            names += files
            if person > 0 and number in (0, 2):
                asks.append(len(table))
        for file, row in zip(files, rows):
            yield folder / f"bbox_{split}" / stem / file, row, camera
    info = folder / "info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "test_name.txt").write_text("".join(f"{name}\n" for name in names))
    matrix = np.array(table, np.float64)  # as the official lists are stored
    scipy.io.savemat(info / "tracks_test_info.mat", {"track_test_info": matrix})
    scipy.io.savemat(info / "query_IDX.mat", {"query_IDX": np.array([asks], float)})


def _mars_walks(people: int) -> Iterator[_Walk]:
    """Three tracklets in two cameras of every person but the first, who has one."""
    yield 0, 1, 1, 0
    for person in (JUNK, DISTRACTOR):
        yield from ((2 * people + 1 + person, person, 1 + i, i) for i in range(2))
    for person in range(2, 2 * people + 1):
        yield from ((person - 1, person, 1 + i // 2, i) for i in range(3))


def _lpw(folder: Path, people: int, rng: np.random.Generator) -> Iterator[_Frame]:
    half = people // 2
    scenes = {1: range(people), 2: range(half), 3: range(half, people)}
    for scene, members in scenes.items():
        for label in members:
            for view in range(3):
                walk = (label if scene == 1 else people + label, label, view, view)
                # Numbers begin again in every scene.
                place = folder / "pep_256x128" / f"scen{scene}" / f"view{view + 1}"
                place /= str(1 + label - members[0])
                for frame, row in enumerate(_rows(walk, rng), 1):
                    yield place / f"{frame:05d}.jpg", row, view


_Writer = Callable[[Path, int, np.random.Generator], Iterator[_Frame]]
_WRITERS: dict[str, _Writer] = {"mars": _mars, "lpw": _lpw}
DATASETS = tuple(_WRITERS)
