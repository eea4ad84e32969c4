"""Labelled images by flag: which data set, and how its images are fitted."""

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from jaxfaces.data import made_up, miniature, npz, sources
from jaxfaces.data.sources import Source
from jaxfaces.engine.config import knob


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """A data set of labelled images, not yet divided."""

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
    on_bad_example: str = knob(
        "error",
        "Stop at a damaged image, record or label, or leave it out and count it.",
        choices=sources.ON_BAD_EXAMPLE,
    )

    @property
    def divided(self) -> bool:
        """Whether the data set comes with training and test splits of its own."""
        if self.dataset.startswith("npz:"):
            path = Path(self.dataset.removeprefix("npz:"))
            return npz.is_divided(path, sources.MEMORY_LIMIT)
        single = self.dataset.startswith("folder:")
        return not single and self.dataset not in ("digits", "made_up")

    def stored(self, split: str) -> Source:
        """The images of a split as they are stored; "all" of what is not divided."""
        names = (field.name for field in dataclasses.fields(StoredImages))
        flags = {name: getattr(self, name) for name in names}
        return _load(split, **flags)

    def smoke(self, *, image_size: int) -> Self:
        """Made-up data: an archive of the data set's layout where there is one."""
        changes: dict[str, Any] = {"image_size": image_size, "dataset": "made_up"}
        if self.dataset in miniature.DATASETS:
            folder = Path(tempfile.mkdtemp(prefix="jaxfaces-smoke-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            miniature.prepare(self.dataset, folder)
            changes |= {"dataset": self.dataset, "data_dir": str(folder)}
        return dataclasses.replace(self, **changes)


@functools.lru_cache(maxsize=2)
def _load(split: str, *, dataset: str, **flags: Any) -> Source:
    if dataset == "made_up":
        return made_up.made_up(
            classes=16,
            images_per_class=8,
            image_size=flags["image_size"] or 16,
            channels=1 if flags["grey"] else 3,
        )
    return sources.load(dataset, split, **flags)
