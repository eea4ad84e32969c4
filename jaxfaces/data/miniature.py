"""Miniatures of image collections: their folders and lists, with made-up images.

They stand in for an archive that is not at hand, for tests and for trying a task.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jaxfaces.data import builders, layouts
from jaxfaces.data.made_up import made_up

SIDES = (40, 60)  # least and greatest side of an image in pixels
BORDER = 32  # white around products, of which `images.trim_white` leaves 15
MOST_CLASSES = 196  # as many as Cars196 has

_Writer = Callable[[Path, list[int], int], list[str]]


def write(
    dataset: str,
    folder: Path,
    *,
    classes: int = 16,
    images_per_class: int = 6,
    seed: int = 0,
) -> Path:
    """Writes a miniature that `layouts` reads as it reads the extracted collection.

    Half the classes train, the others test. Of CUB-200-2011 and Cars196 they are the
    last training and the first test classes.

    Args:
      dataset: one of `DATASETS`.
      folder: where to write, made if missing.
      classes: number of classes, 2 to 196.
      images_per_class: images of each, at least 2.
      seed: of the images and their sizes.

    Returns:
      `folder`.

    Raises:
      ValueError: there is no such miniature, or a number is out of its range.
    """
    if dataset not in _WRITERS:
        raise ValueError(f"dataset must be one of {DATASETS}, got {dataset!r}")
    if not 2 <= classes <= MOST_CLASSES:
        raise ValueError(f"classes must be 2 to {MOST_CLASSES}, got {classes}")
    if images_per_class < 2:
        raise ValueError(f"images_per_class must be 2 or more, got {images_per_class}")
    labels = [label for label in range(classes) for _ in range(images_per_class)]
    files = _WRITERS[dataset](folder, labels, classes // 2)
    border = BORDER if dataset == "sop" else 0
    pictures = made_up(classes, images_per_class, SIDES[1], seed=seed)
    sizes = np.random.default_rng(seed).integers(*SIDES, (len(files), 2), endpoint=True)
    for file, pixels, size in zip(files, pictures.pixels(np.arange(len(files))), sizes):
        picture = Image.fromarray(pixels).resize((int(size[0]), int(size[1])))
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        picture = ImageOps.expand(picture, border, "white")
        picture.save(folder / file, "JPEG", quality=90)
    return folder


def prepare(dataset: str, data_dir: Path, **options: Any) -> None:
    """Makes a miniature the data set `data_dir/dataset`, which `sources.load` opens.

    Args:
      dataset: one of `DATASETS`.
      data_dir: parent of the data set's folder, made if missing.
      **options: passed to `write`.

    Raises:
      DataError: `data_dir` has a data set of this name.
      ValueError: as `write` does.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = write(dataset, Path(temporary), **options)
        # It takes a moment: the progress bars of TFDS would only clutter.
        with contextlib.redirect_stderr(io.StringIO()):
            builders.write(
                layouts.read(dataset, folder),
                folder,
                name=dataset,
                data_dir=data_dir,
                description=f"Made-up images in the layout of {dataset}.",
            )


# Each writes the lists of a collection and returns the file of every image, given the
# images' classes, 0 … C - 1, and the number of classes that train.


def _cub200(folder: Path, labels: list[int], train: int) -> list[str]:
    numbers = [101 - train + label for label in labels]
    files = [f"{n:03d}.Bird_{n}/Bird_{n}_{i:04d}.jpg" for i, n in enumerate(numbers, 1)]
    _write_table(folder / "images.txt", enumerate(files, 1))
    _write_table(folder / "image_class_labels.txt", enumerate(numbers, 1))
    return [f"images/{file}" for file in files]


def _cars196(folder: Path, labels: list[int], train: int) -> list[str]:
    import scipy.io

    files = [f"car_ims/{i:06d}.jpg" for i in range(1, len(labels) + 1)]
    rows = [
        (file, 99 - train + n, i % 2) for i, (file, n) in enumerate(zip(files, labels))
    ]
    columns = [("relative_im_path", object), ("class", object), ("test", object)]
    names = [f"Car {number}" for number in range(1, MOST_CLASSES + 1)]
    table = {
        "annotations": np.array([rows], columns),
        "class_names": np.array(names, object),
    }
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / "cars_annos.mat", table)
    return files


def _sop(folder: Path, labels: list[int], train: int) -> list[str]:
    kinds = ("bicycle", "coffee_maker")
    rows = [
        (i, label + 1, label % 2 + 1, f"{kinds[label % 2]}_final/{label + 1}_{i}.JPG")
        for i, label in enumerate(labels, 1)
    ]
    header = ("image_id", "class_id", "super_class_id", "path")
    cut = labels.index(train)
    _write_table(folder / "Ebay_train.txt", [header, *rows[:cut]])
    _write_table(folder / "Ebay_test.txt", [header, *rows[cut:]])
    return [row[-1] for row in rows]


def _inshop(folder: Path, labels: list[int], train: int) -> list[str]:
    rows = []
    for i, label in enumerate(labels):
        # As in the collection, items of both splits alternate.
        number = 2 * label + 1 if label < train else 2 * (label - train) + 2
        item = f"id_{number:08d}"
        role = "train" if label < train else ("query", "gallery")[i % 2]
        rows.append((f"img/WOMEN/Dresses/{item}/{i:02d}_1_front.jpg", item, role))
    header = ("image_name", "item_id", "evaluation_status")
    path = folder / "Eval" / "list_eval_partition.txt"
    _write_table(path, [(len(rows),), header, *rows])
    return [f"Img/{row[0]}" for row in rows]


_WRITERS: dict[str, _Writer] = {
    "cub200": _cub200,
    "cars196": _cars196,
    "sop": _sop,
    "inshop": _inshop,
}
DATASETS = tuple(_WRITERS)


def _write_table(path: Path, rows: Iterable[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [" ".join(map(str, row)) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
