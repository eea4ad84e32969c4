"""Labelled images by flag: which data set, how it is fitted, how it is split."""

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxfaces.data import folds, made_up, miniature, npz, sources
from jaxfaces.data.sources import Source
from jaxfaces.engine.config import knob


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set of labelled images; a task nests it to get its flags."""

    dataset: str = knob(
        "digits",
        "digits, made_up, folder:PATH, npz:FILE, or the name of a prepared data set.",
    )
    data_dir: str = knob(
        "",
        "Folder that holds prepared data sets; empty is $JAXFACES_DATA.",
        runtime=True,
    )
    image_size: int = knob(
        0, "Side of the stored images; 0 is their own.", lower=0, upper=8192
    )
    fit: str = knob(
        "warp",
        "To a square: warp, pad with white, or crop the centre.",
        choices=("warp", "pad", "crop"),
    )
    trim_white: bool = knob(False, "Cut white margins off first.")
    grey: bool = knob(False, "One channel instead of three.")
    train_classes: float = knob(
        0.5,
        "Share of classes to train on, where a data set is not split already.",
        lower=0.01,
        upper=1.0,
    )
    validation_fraction: float = knob(
        0.1, "Share of the training data held out; 0 is none.", lower=0.0, upper=0.9
    )
    validation_by: str = knob(
        "class",
        "Hold out whole classes, or images of every class.",
        choices=("class", "image"),
    )
    on_bad_example: str = knob(
        "error",
        "Stop at a damaged image, record or label, or leave it out and count it.",
        choices=sources.ON_BAD_EXAMPLE,
    )

    def split(self, name: str) -> Source | None:
        """The images of "train", "validation" or "test"; None where there are none."""
        if name == "test":
            test = _divided(self, "test")
            return test if len(test) else None
        rest = _divided(self, "train")
        if self.validation_by == "class":
            train, held = folds.split_classes(rest.labels, self.validation_fraction)
        else:
            train, held = _split_images(rest.labels, self.validation_fraction)
        if name == "validation":
            return sources.subset(rest, held) if len(held) else None
        return sources.relabel(sources.subset(rest, train))

    def smoke(self, *, image_size: int) -> "ImageData":
        """Made-up data: an archive of the data set's layout where there is one."""
        changes: dict[str, Any] = {
            "image_size": image_size,
            "train_classes": 0.5,
            "validation_fraction": 0.25,
            "validation_by": "class",
        }
        if self.dataset in miniature.DATASETS:
            folder = Path(tempfile.mkdtemp(prefix="jaxfaces-smoke-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            miniature.prepare(self.dataset, folder)
            changes["data_dir"] = str(folder)
        else:
            changes["dataset"] = "made_up"
        return dataclasses.replace(self, **changes)


@functools.lru_cache(maxsize=4)
def _divided(data: ImageData, split: str) -> Source:
    """The training half (all but the test classes) or the test half of a data set."""
    if not _stored_divided(data.dataset):
        whole = _load(data, "all")
        try:
            train, test = folds.split_classes(whole.labels, 1 - data.train_classes)
        except ValueError as error:
            raise ValueError(
                f"--train_classes={data.train_classes}: {error}"
            ) from error
        return sources.subset(whole, train if split == "train" else test)
    return _load(data, split)


def _stored_divided(dataset: str) -> bool:
    """Whether a data set comes with a training and a test split of its own."""
    if dataset.startswith("npz:"):
        path = Path(dataset.removeprefix("npz:"))
        return npz.is_divided(path, sources.MEMORY_LIMIT)
    return dataset not in ("digits", "made_up") and not dataset.startswith("folder:")


@functools.lru_cache(maxsize=2)
def _load(data: ImageData, split: str) -> Source:
    if data.dataset == "made_up":
        return made_up.made_up(
            classes=16,
            images_per_class=8,
            image_size=data.image_size or 16,
            channels=1 if data.grey else 3,
        )
    return sources.load(
        data.dataset,
        split,
        data_dir=data.data_dir,
        image_size=data.image_size,
        fit=data.fit,
        trim_white=data.trim_white,
        grey=data.grey,
        on_bad_example=data.on_bad_example,
    )


def _split_images(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Holds out every n-th image of each class, evenly spread in the order of rows."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = round(fraction * len(rows))
        held[rows[np.linspace(0, len(rows) - 1, count).astype(int)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
