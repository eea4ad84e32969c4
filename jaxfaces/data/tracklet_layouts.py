"""Layouts of the collections of tracklets that users download and extract.

Every function reads one layout and returns a `Tracklet` each, unsorted.
"""

import collections
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxfaces.data import encoded, listings
from jaxfaces.data.errors import DataError

# Person, camera, tracklet, frame: 0001C1T0001F001.jpg, and 00-1… for junk.
_MARS_NAME = re.compile(r"(\d{4}|00-1)C(\d)T(\d{4})F(\d{3,})\.\w+")
_MARS_INFO = "info of the MARS-evaluation repository"
_LPW_QUERY = 2  # the view of scene 1 whose tracklets ask


class Tracklet(NamedTuple):
    """A person's frames in one camera's view.

    Attributes:
      name: names it in messages and tables.
      person: number of the identity, as the collection has it.
      camera: number of the camera.
      folder: the frames' folder, relative to that of the collection.
      files: their names.
      query: whether it asks, when the split is measured.
      gallery: whether it is looked for.
    """

    name: str
    person: int
    camera: int
    folder: str
    files: tuple[str, ...]
    query: bool = True
    gallery: bool = True


def mars(source: Path, split: str) -> list[Tracklet]:
    """MARS, and whatever is laid out as it is.

    Needs `bbox_train/0001/0001C1T0001F001.jpg` … to train: person, camera, tracklet and
    frame in the file's name. To test it needs `bbox_test/` likewise (junk in `00-1`,
    distractors in `0000`) and the official lists: `info/test_name.txt`, a file name a
    line; `info/tracks_test_info.mat` with the matrix `track_test_info`, a tracklet a
    row: first and last line of the names, counted from 1, person (-1 for junk, 0 for
    distractors), camera; `info/query_IDX.mat` with the matrix `query_IDX`, the numbers,
    from 1, of the tracklets that ask. They stay in the gallery too, as the official
    evaluation has it; the camera rule keeps them from finding themselves.

    Source: Zheng et al., MARS: A Video Benchmark for Large-Scale Person
    Re-identification, ECCV 2016.
    """
    if split == "train":
        return _mars_train(source)
    info = source / "info"
    missing = [
        name
        for name in ("test_name.txt", "tracks_test_info.mat", "query_IDX.mat")
        if not (info / name).is_file()
    ]
    if missing:
        raise DataError(
            f"there is no file {info / missing[0]}, which says what is asked; put the "
            f"{_MARS_INFO} there"
        )
    names = [name for (name,) in listings.table(info / "test_name.txt", 1)]
    rows = listings.matrix(info / "tracks_test_info.mat", "track_test_info")
    if rows.shape[1] != 4:
        raise DataError(
            f"{info / 'tracks_test_info.mat'}: track_test_info must have 4 columns, "
            f"first, last, person, camera; it has {rows.shape[1]}"
        )
    asks = listings.matrix(info / "query_IDX.mat", "query_IDX").reshape(-1)
    if asks.min() < 1 or asks.max() > len(rows):
        raise DataError(
            f"{info / 'query_IDX.mat'}: query_IDX must hold 1 … {len(rows)}, got "
            f"{asks.min()} … {asks.max()}"
        )
    asking = set(asks.tolist())
    return [
        _mars_test(info, names, row, number in asking)
        for number, row in enumerate(rows.tolist(), 1)
    ]


def _mars_train(source: Path) -> list[Tracklet]:
    top = source / "bbox_train"
    if not top.is_dir():
        raise DataError(f"there is no folder {top}; extract bbox_train.zip there")
    walks: dict[tuple[int, int, str], list[str]] = collections.defaultdict(list)
    for folder in encoded.folders(top):
        for path in encoded.image_files(folder):
            person, camera, name = _mars_name(folder, path.name)
            if name[:4] != folder.name:
                raise DataError(f"{path} is not of the person {folder.name}")
            walks[person, camera, name].append(path.name)
    return [
        Tracklet(name, person, camera, f"bbox_train/{name[:4]}", tuple(files))
        for (person, camera, name), files in walks.items()
    ]


def _mars_test(info: Path, names: list[str], row: list[int], query: bool) -> Tracklet:
    first, last, person, camera = row
    if not 1 <= first <= last <= len(names):
        raise DataError(
            f"{info / 'tracks_test_info.mat'} has a tracklet of the lines {first} … "
            f"{last}, test_name.txt has {len(names)}"
        )
    files = tuple(names[first - 1 : last])
    for line, file in enumerate(files, first):
        if _mars_name(info / "test_name.txt", file)[:2] != (person, camera):
            raise DataError(
                f"{info / 'tracks_test_info.mat'} gives line {line} of test_name.txt, "
                f"{file}, to person {person} and camera {camera}"
            )
    name = _mars_name(info, files[0])[2]
    return Tracklet(name, person, camera, f"bbox_test/{name[:4]}", files, query)


def _mars_name(place: Path, file: str) -> tuple[int, int, str]:
    """Person, camera and the name of the tracklet, of a frame's file."""
    match = _MARS_NAME.fullmatch(file)
    if match is None:
        raise DataError(
            f"{place} has {file!r}, not named as MARS names frames, "
            "0001C1T0001F001.jpg: person, C camera, T tracklet, F frame"
        )
    person = -1 if match[1] == "00-1" else int(match[1])
    return person, int(match[2]), file[: match.start(4) - 1]


def lpw(source: Path, split: str) -> list[Tracklet]:
    """Labeled Pedestrian in the Wild, and whatever is laid out as it is.

    Needs `scen1/view1/PERSON/*.jpg` …, in the folder itself or in `pep_256x128`. All
    images of a person in a view are one tracklet. Scene 1 tests: its second view asks,
    the others are looked for; all other scenes train. People of two scenes are two.

    Source: Song et al., Region-based Quality Estimation Network for Large-scale Person
    Re-identification, AAAI 2018.
    """
    inner = "pep_256x128" if (source / "pep_256x128").is_dir() else ""
    top = source / inner
    scenes = _numbered(top, "scen")
    if not scenes:
        raise DataError(
            f"there are no folders scen1, scen2 … in {top}; extract pep_256x128.zip "
            f"in {source}"
        )
    people: dict[tuple[int, str], int] = {}
    found = []
    for scene, place in scenes.items():
        for view, inside in _numbered(place, "view").items():
            for folder in encoded.folders(inside):
                # Numbered over all scenes, so that a person has one number, from 1 on:
                # 0 is for distractors.
                person = people.setdefault((scene, folder.name), len(people) + 1)
                files = tuple(path.name for path in encoded.image_files(folder))
                if files and (scene == 1) == (split == "test"):
                    where = f"{place.name}/{inside.name}/{folder.name}"
                    asks = scene != 1 or view == _LPW_QUERY
                    gallery = scene != 1 or not asks
                    inside_of = f"{inner}/{where}" if inner else where
                    walk = (where, person, 100 * scene + view, inside_of, files)
                    found.append(Tracklet(*walk, asks, gallery))
    return found


def _numbered(place: Path, word: str) -> dict[int, Path]:
    """Sub-folders named by a word and a number, by number."""
    found = {}
    for folder in encoded.folders(place) if place.is_dir() else []:
        match = re.fullmatch(rf"{word}(\d{{1,4}})", folder.name)
        if match:
            found[int(match[1])] = folder
    return dict(sorted(found.items()))


LAYOUTS: dict[str, Callable[[Path, str], list[Tracklet]]] = {"mars": mars, "lpw": lpw}
