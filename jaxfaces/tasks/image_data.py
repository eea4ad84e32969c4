"""Labelled images for retrieval by flag: training and test classes are disjoint."""

import dataclasses
import functools
from typing import Self

import numpy as np

from jaxfaces.data import folds, sources
from jaxfaces.data.sources import Source
from jaxfaces.engine.config import knob
from jaxfaces.tasks.stored_images import StoredImages


@dataclasses.dataclass(frozen=True)
class ImageData(StoredImages):
    """Images to retrieve; a task nests it to get its flags."""

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

    def smoke(self, *, image_size: int) -> Self:
        """The same on made-up images, half the classes to train on."""
        return dataclasses.replace(
            super().smoke(image_size=image_size),
            train_classes=0.5,
            validation_fraction=0.25,
            validation_by="class",
        )


@functools.lru_cache(maxsize=4)
def _divided(data: ImageData, split: str) -> Source:
    """The training half (all but the test classes) or the test half of a data set."""
    if data.divided:
        return data.stored(split)
    whole = data.stored("all")
    try:
        train, test = folds.split_classes(whole.labels, 1 - data.train_classes)
    except ValueError as error:
        raise ValueError(f"--train_classes={data.train_classes}: {error}") from error
    return sources.subset(whole, train if split == "train" else test)


def _split_images(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Holds out every n-th image of each class, evenly spread in the order of rows."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = round(fraction * len(rows))
        held[rows[np.linspace(0, len(rows) - 1, count).astype(int)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
