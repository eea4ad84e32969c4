"""Tracklets by flag: which collection, how frames are fitted, how it is split."""

import atexit
import dataclasses
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxfaces.data import folds, images, miniature_tracklets, sources, tracklets
from jaxfaces.data.errors import DataError
from jaxfaces.data.tracklets import Tracklets
from jaxfaces.engine.config import knob

MADE_UP = "made_up"


@dataclasses.dataclass(frozen=True)
class TrackletData:
    """A collection of tracklets; a task nests it to get its flags."""

    dataset: str = knob(
        MADE_UP,
        "Collection in the folder --data_dir/NAME, extracted; made_up needs none.",
        choices=(MADE_UP, *tracklets.LAYOUTS),
    )
    data_dir: str = knob(
        "", "Folder that holds collections; empty is $JAXFACES_DATA.", runtime=True
    )
    image_size: int = knob(
        32, "Side that frames are fitted to; 0 is their own.", lower=0, upper=8192
    )
    fit: str = knob(
        "warp",
        "To a square: warp, pad with white, or crop the centre.",
        choices=images.FITS,
    )
    validation_fraction: float = knob(
        0.1, "Share of the training people held out; 0 is none.", lower=0.0, upper=0.9
    )
    on_bad_example: str = knob(
        "error",
        "Stop at a damaged frame, or leave it out and count it.",
        choices=sources.ON_BAD_EXAMPLE,
    )

    def split(self, name: str) -> Tracklets | None:
        """The tracklets of "train", "validation" or "test"; None where there are none.

        Those held out are found again in all others that are held out, where a
        collection says nothing of who asks.
        """
        if name == "test":
            return _load(self, "test")
        whole = _load(self, "train")
        _, held = folds.split_classes(whole.people, self.validation_fraction)
        which = np.zeros(len(whole.people), bool)
        which[held] = True
        if name == "validation":
            return tracklets.chosen(whole, which) if which.any() else None
        return tracklets.chosen(whole, ~which)

    def smoke(self) -> "TrackletData":
        """Made-up tracklets in small, in the folders of the collection."""
        changes: dict[str, Any] = {"image_size": 32, "validation_fraction": 0.25}
        if self.dataset != MADE_UP:
            changes["data_dir"] = str(_made_up(self.dataset))
        return dataclasses.replace(self, **changes)


@functools.lru_cache(maxsize=2)
def _load(data: TrackletData, split: str) -> Tracklets:
    name, root = data.dataset, data.data_dir or os.environ.get("JAXFACES_DATA", "")
    if name == MADE_UP:
        name, root = "mars", str(_made_up("mars"))
    elif not root:
        raise DataError(
            f"--dataset={name} is read from --data_dir/{name}; give --data_dir, or set "
            "JAXFACES_DATA"
        )
    return tracklets.load(
        name,
        split,
        Path(root) / name,
        image_size=data.image_size,
        fit=data.fit,
        on_bad_example=data.on_bad_example,
    )


@functools.lru_cache(maxsize=2)
def _made_up(dataset: str) -> Path:
    """A temporary folder that holds the miniature of a collection."""
    folder = Path(tempfile.mkdtemp(prefix="jaxfaces-made-up-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    miniature_tracklets.write(dataset, folder / dataset, people=8)
    return folder
