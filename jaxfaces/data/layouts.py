"""Layouts of the image collections that users download and extract.

Every function reads one layout and returns an `Entry` an image. Labels number all
classes of a collection, so that training and test labels are disjoint.
"""

import collections
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfaces.data import encoded, folds, listings
from jaxfaces.data.errors import DataError


class Entry(NamedTuple):
    """An image of a collection: `file` is relative to the collection's folder."""

    split: str
    file: str
    label: int
    class_name: str
    role: str = ""


def cub200(source: Path) -> list[Entry]:
    """CUB-200-2011: the first 100 classes train, the others test.

    Needs `images.txt` (image number, file), `image_class_labels.txt` (image number,
    class number from 1) and `images/CLASS/*.jpg`. The official division into training
    and test images cuts through classes and is not used.

    Source: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011.
    """
    files = {number: file for number, file in listings.table(source / "images.txt", 2)}
    table = listings.table(source / "image_class_labels.txt", 2)
    labels = {number: int(label) for number, label in table}
    unlabelled = files.keys() - labels.keys()
    if unlabelled:
        raise DataError(
            f"{source / 'image_class_labels.txt'} lacks image {min(unlabelled)} of "
            "images.txt"
        )
    return [
        Entry(
            "train" if labels[number] <= 100 else "test",
            f"images/{file}",
            labels[number] - 1,
            Path(file).parent.name,
        )
        for number, file in files.items()
    ]


def cars196(source: Path) -> list[Entry]:
    """Cars196: the first 98 classes train, the others test.

    Needs one of three layouts, looked for in this order:
      * `cars_annos.mat` and `car_ims/*.jpg`;
      * `cars_train/*.jpg`, `cars_test/*.jpg`, `devkit/cars_meta.mat`,
        `devkit/cars_train_annos.mat` and `cars_test_annos_withlabels.mat` (beside
        `devkit` or in it);
      * folders `CLASS/*.jpg`, or `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, where
        sorted class names stand for class numbers.

    Source: Krause et al., 3D Object Representations for Fine-Grained Categorization,
    2013.
    """
    names, cars = _cars(source)
    return [
        Entry("train" if int(n) <= 98 else "test", file, int(n) - 1, names[int(n) - 1])
        for file, n in cars
    ]


def _cars(source: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Class names of Cars196, and file and class number (from 1) of every image."""
    devkit = source / "devkit"
    if (source / "cars_annos.mat").exists():
        table = listings.matlab(source / "cars_annos.mat")
        rows = table["annotations"]
        return list(table["class_names"]), [
            (row["relative_im_path"], row["class"]) for row in rows
        ]
    if devkit.exists():
        labelled = "cars_test_annos_withlabels.mat"
        beside = source / labelled
        tables = {
            "cars_train": devkit / "cars_train_annos.mat",
            "cars_test": beside if beside.exists() else devkit / labelled,
        }
        return list(listings.matlab(devkit / "cars_meta.mat")["class_names"]), [
            (f"{folder}/{row['fname']}", row["class"])
            for folder, path in tables.items()
            for row in listings.matlab(path)["annotations"]
        ]
    files = listings.class_folders(source, ("train", "test"))
    if not files:
        raise DataError(
            f"found neither cars_annos.mat nor devkit/ nor CLASS/*.jpg in {source}"
        )
    names = sorted({name for name, _ in files})
    return names, [(file, names.index(name) + 1) for name, file in files]


def sop(source: Path) -> list[Entry]:
    """Stanford Online Products, divided as its authors do.

    Needs `Ebay_train.txt` and `Ebay_test.txt` (a header, then image number, class
    number, super-class number, file) and the files they name, `bicycle_final/*.JPG` ….

    Source: Oh Song et al., Deep Metric Learning via Lifted Structured Feature
    Embedding, 2016.
    """
    entries = []
    for split in ("train", "test"):
        for row in listings.table(source / f"Ebay_{split}.txt", 4, header=1):
            kind = Path(row[3]).parent.name.removesuffix("_final")
            entries.append(
                Entry(split, row[3], int(row[1]) - 1, f"{kind} {int(row[1])}")
            )
    return entries


def inshop(source: Path) -> list[Entry]:
    """In-shop Clothes Retrieval of DeepFashion: train, and test in two roles.

    Needs `Eval/list_eval_partition.txt` or `list_eval_partition.txt` (a count, a
    header, then file, item, and train, query or gallery) and the images it names,
    `img/…` or `Img/img/…`. Query and gallery are one split "test" whose feature `role`
    tells them apart: one pass embeds both, and evaluation divides the rows.

    Source: Liu et al., DeepFashion, 2016.
    """
    path = source / "Eval" / "list_eval_partition.txt"
    if not path.exists():
        path = source / "list_eval_partition.txt"
    rows = listings.table(path, 3, header=2)
    prefix = "" if (source / "img").is_dir() else "Img/"
    strange = {role for _, _, role in rows} - {"train", "query", "gallery"}
    if strange:
        raise DataError(
            f"{path} has the status {min(strange)!r}; allowed are train, query, gallery"
        )
    items = {role: {item for _, item, r in rows if r == role} for _, _, role in rows}
    train = items.get("train", set())
    order = [*sorted(train), *sorted({item for _, item, _ in rows} - train)]
    labels = {item: label for label, item in enumerate(order)}
    return [
        Entry("train", prefix + file, labels[item], item)
        if role == "train"
        else Entry("test", prefix + file, labels[item], item, role)
        for file, item, role in rows
    ]


def omniglot_retrieval(source: Path) -> list[Entry]:
    """Omniglot: characters of the background alphabets train, the others test.

    Needs `images_background/ALPHABET/CHARACTER/*.png` and
    `images_evaluation/ALPHABET/CHARACTER/*.png`.

    Source: Lake, Salakhutdinov, Tenenbaum, Science 350, 2015.
    """
    entries: list[Entry] = []
    for split, top in (("train", "images_background"), ("test", "images_evaluation")):
        if not (source / top).is_dir():
            raise DataError(f"there is no folder {source / top}")
        for folder in sorted((source / top).glob("*/*/")):
            label = entries[-1].label + 1 if entries else 0
            name = f"{folder.parent.name}/{folder.name}"
            entries += [
                Entry(split, f"{top}/{name}/{path.name}", label, name)
                for path in encoded.image_files(folder)
            ]
    return entries


def caltech101_retrieval(source: Path) -> list[Entry]:
    """Caltech-101: of 100 classes the first half train, the others test.

    Needs `CLASS/*.jpg` in `source` or in `101_ObjectCategories`. BACKGROUND_Google and
    Faces_easy (which repeats Faces) are left out; classes are sorted without regard to
    case and the first 100 images of each are taken.

    Source: Fei-Fei, Fergus, Perona, Learning Generative Visual Models from Few Training
    Examples, 2004.
    """
    inner = "101_ObjectCategories"
    inside = (source / inner).is_dir()
    files = collections.defaultdict(list)
    for name, file in listings.class_folders(source / inner if inside else source):
        if name not in ("BACKGROUND_Google", "Faces_easy"):
            files[name].append(f"{inner}/{file}" if inside else file)
    names = sorted(files, key=str.lower)
    return [
        Entry("train" if label < len(names) // 2 else "test", file, label, name)
        for label, name in enumerate(names)
        for file in files[name][:100]
    ]


def folder(
    source: Path, *, test_fraction: float = 0.5, test_classes: Sequence[str] = ()
) -> list[Entry]:
    """Any image folder with one sub-folder a class, `CLASS/*`.

    Args:
      source: the folder.
      test_fraction: share of the classes in the test split, the last in name order.
      test_classes: names of the test classes instead.

    Returns:
      The entries by class and file name.

    Raises:
      DataError: there are no images, or a class named does not exist.
    """
    files = listings.class_folders(source)
    if not files:
        raise DataError(f"there are no images in {source}/CLASS/*")
    names = sorted({name for name, _ in files})
    unknown = set(test_classes) - set(names)
    if unknown:
        raise DataError(
            f"--test_classes has {min(unknown)!r}, which is no folder of {source}"
        )
    labels = {name: label for label, name in enumerate(names)}
    if not test_classes:
        _, test = folds.split_classes(np.arange(len(names)), test_fraction)
        test_classes = [names[label] for label in test]
    return [
        Entry("test" if name in test_classes else "train", file, labels[name], name)
        for name, file in files
    ]


LAYOUTS: dict[str, Callable[..., list[Entry]]] = {
    layout.__name__: layout
    for layout in (
        cub200,
        cars196,
        sop,
        inshop,
        omniglot_retrieval,
        caltech101_retrieval,
        folder,
    )
}


def read(dataset: str, source: Path, **options: Any) -> list[Entry]:
    """Reads the layout of `dataset`, one of `LAYOUTS`.

    Args:
      dataset: name of the layout.
      source: the folder of the extracted collection.
      **options: passed to the layout.

    Returns:
      An entry an image.

    Raises:
      DataError: `source` is not laid out so.
    """
    try:
        return LAYOUTS[dataset](source, **options)
    except DataError:
        raise
    # A list file that holds words for numbers, or numbers of classes without a name.
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"the lists in {source} are not those of {dataset}: {error!r}"
        ) from error
