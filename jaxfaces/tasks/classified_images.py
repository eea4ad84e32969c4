"""Labelled images for classification by flag: all classes in every split."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from jaxfaces.data import folds, sources, streams
from jaxfaces.data.sources import Source
from jaxfaces.data.streams import Stream
from jaxfaces.engine.config import knob
from jaxfaces.tasks.stored_images import StoredImages


@dataclasses.dataclass(frozen=True)
class ClassifiedImages(StoredImages):
    """Images to classify; a task nests it to get its flags.

    Reduced sets and divisions are drawn from the order of the images' own ids where the
    data set has ids, so that they are those of the original files.
    """

    train_split: str = knob("train", "Where training images come from; may add: a+b.")
    test_split: str = knob("test", "Where test images come from.")
    test_fraction: float = knob(
        0.2,
        "Share to test on, where a data set is not split already.",
        lower=0.0,
        upper=0.9,
    )
    train_images: int = knob(
        0, "Take so many for training and validation together; 0 is all.", lower=0
    )
    only_classes: tuple[int, ...] = knob(
        (), "Of those, keep the classes with these numbers; none is all.", lower=0
    )
    validation_fraction: float = knob(
        0.1, "Share of the training data held out; 0 is none.", lower=0.0, upper=0.9
    )
    split_seed: int = knob(0, "Which images are taken and held out.", lower=0)

    def split(self, name: str) -> Source | None:
        """The images of "train", "validation" or "test"; None where there are none.

        Labels are 0 … C - 1 in every split, C being the number of training classes.

        Raises:
          ValueError: a class cannot be divided as the flags say.
          DataError: the data set is missing or damaged.
        """
        return _splits(self)[name]

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        train = _splits(self)["train"]
        assert train is not None
        return train.classes

    def sweep(self, source: Source, batch_size: int) -> Stream:
        """Every image of a split once, in order."""
        names, classes = source.names, self.classes
        return Stream(
            streams.ordered_plan(len(source), batch_size),
            source.read,
            len(source),
            classes,
            streams.batches_to_cover(len(source), batch_size),
            source.skipped,
            source.in_memory,
            tuple(names[label] for label in range(classes)) if names else (),
        )

    def shuffled(self, source: Source, batch_size: int, seed: int) -> Stream:
        """Whole batches of a split, shuffled anew every sweep.

        Raises:
          ValueError: there are fewer images than one batch takes.
        """
        plan = streams.shuffled_plan(len(source), batch_size, seed=seed, drop_last=True)
        return dataclasses.replace(
            self.sweep(source, batch_size),
            plan=plan,
            sweep=len(source) // batch_size,
        )

    def smoke(self, *, image_size: int) -> Self:
        """The same on a few made-up images."""
        small = super().smoke(image_size=image_size)
        names = ("train_split", "test_split")
        own = {} if small.divided else {n: getattr(ClassifiedImages, n) for n in names}
        return dataclasses.replace(
            small, train_images=0, only_classes=(), validation_fraction=0.25, **own
        )


def swept(batches: Mapping[str, Any]) -> Any:
    """The images to measure: the first stream of a split, whatever its name."""
    return next(iter(batches.values()))


@functools.lru_cache(maxsize=4)
def _splits(data: ClassifiedImages) -> Mapping[str, Source | None]:
    pool, test = _pool(data)
    if data.train_images:
        if data.train_images > len(pool):
            raise ValueError(
                f"--train_images={data.train_images} is more than the {len(pool)} "
                "images that there are"
            )
        rest = len(pool) - data.train_images
        pool = _cut(pool, rest, data, "train_images")[0]
    if data.only_classes:
        pool = sources.subset(pool, _rows_of(pool, data.only_classes))
    present = np.unique(pool.labels)
    if len(present) < 2:
        raise ValueError(
            f"--dataset={data.dataset} leaves one class of images to train on; there "
            "must be two"
        )
    if test is not None:
        if data.only_classes:
            test = sources.subset(test, np.isin(test.labels, present).nonzero()[0])
        strange = np.setdiff1d(test.labels, present)
        if len(strange):
            flag = "test_split" if data.divided else "train_images"
            raise ValueError(
                f"--{flag}: there are test images of class {strange[0]} and none to "
                "train on"
            )
    held = None
    if data.validation_fraction:
        count = _share(data.validation_fraction, pool)
        pool, held = _cut(pool, count, data, "validation_fraction")
    found = {"train": pool, "validation": held, "test": test}
    return {
        name: source and _numbered(source, present) for name, source in found.items()
    }


def _pool(data: ClassifiedImages) -> tuple[Source, Source | None]:
    """The images to train and validate on, and those to test on, if any."""
    if data.divided:
        test = data.stored(data.test_split) if data.test_split else None
        return _in_order(data.stored(data.train_split)), test
    for flag in ("train_split", "test_split"):
        if getattr(data, flag) != getattr(ClassifiedImages, flag):
            raise ValueError(
                f"--{flag}={getattr(data, flag)}: --dataset={data.dataset} is not "
                "divided; --test_fraction says how much of it to test on"
            )
    whole = _in_order(data.stored("all"))
    if not data.test_fraction:
        return whole, None
    return _cut(whole, _share(data.test_fraction, whole), data, "test_fraction")


def _share(fraction: float, source: Source) -> int:
    """So many images are a share, a part of one counting whole as in scikit-learn."""
    return math.ceil(round(fraction * len(source), 9))


def _in_order(source: Source) -> Source:
    """The images in the order of their ids, where they have any."""
    if source.ids is None:
        return source
    return sources.subset(source, np.argsort(source.ids, kind="stable"))


def _cut(
    source: Source, count: int, data: ClassifiedImages, flag: str
) -> tuple[Source, Source]:
    """All but `count` images, and these, every class with its share in both."""
    if not count:
        return source, sources.subset(source, np.arange(0))
    try:
        kept, cut = folds.split_within_classes(
            source.labels, len(source) - count, seed=data.split_seed
        )
    except ValueError as error:
        advice = "" if flag == "train_images" else f"; --{flag}=0 holds none out"
        value = getattr(data, flag)
        raise ValueError(f"--{flag}={value:g}: {error}{advice}") from error
    return sources.subset(source, kept), sources.subset(source, cut)


def _rows_of(source: Source, classes: tuple[int, ...]) -> np.ndarray:
    missing = np.setdiff1d(classes, source.labels)
    if len(missing):
        raise ValueError(f"--only_classes: there are no images of class {missing[0]}")
    return np.flatnonzero(np.isin(source.labels, classes))


def _numbered(source: Source, present: np.ndarray) -> Source:
    """The classes that occur in training as 0 … C - 1."""
    names = source.names and tuple(source.names[label] for label in present)
    labels = np.searchsorted(present, source.labels).astype(np.int32)
    return dataclasses.replace(source, labels=labels, names=names)
