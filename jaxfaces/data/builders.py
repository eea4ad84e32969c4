"""Writing of labelled images once as a TFDS array_record directory, no TensorFlow."""

import collections
import contextlib
import functools
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxfaces.data import images
from jaxfaces.data.errors import DataError
from jaxfaces.data.layouts import Entry

VERSION = "1.0.0"


def write(
    entries: Sequence[Entry],
    source: Path,
    *,
    name: str,
    data_dir: Path,
    description: str = "",
    shorter_side: int = 0,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes images as the TFDS data set `data_dir/name/1.0.0`.

    The records have the features `image` (encoded as in the file), `label`,
    `class_name`, `file` and `role`. Everything is written to a hidden folder of
    `data_dir` and moved into place when complete, so an interruption leaves nothing
    that looks whole and an overwritten version stays until the new one is.

    Args:
      entries: what to write; every file is looked for before anything is written.
      source: the folder that the entries' files are relative to.
      name: lower-case letters, digits and underscores.
      data_dir: parent of the data set's folder, made if missing.
      description: one sentence kept with the data set.
      shorter_side: if not 0, images whose shorter side is longer are reduced to it and
        stored as JPEG of quality 90.
      overwrite: replace an existing version.

    Returns:
      Number of images in every split.

    Raises:
      DataError: a file is missing or no image, a class is in two splits, or the version
        exists.
    """
    target = data_dir / name / VERSION
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists; --overwrite replaces it")
    _check(entries, source)
    data_dir.mkdir(parents=True, exist_ok=True)
    encode = functools.partial(_encode, source, shorter_side)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=f".{name}-") as temporary:
        builder = _builder(entries, encode, name, temporary, description)
        # TFDS prints the temporary place; its progress bars go to stderr.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rename(Path(temporary) / "replaced")
        (Path(temporary) / name / VERSION).rename(target)
    return dict(collections.Counter(entry.split for entry in entries))


def _check(entries: Sequence[Entry], source: Path) -> None:
    """Raises on entries that cannot make a class-disjoint data set."""
    labels: dict[str, set[int]] = {"train": set(), "test": set()}
    for entry in entries:
        labels[entry.split].add(entry.label)
    for split, found in labels.items():
        if not found:
            raise DataError(f"the {split} split of {source} would be empty")
    shared = labels["train"] & labels["test"]
    if shared:
        name = next(entry.class_name for entry in entries if entry.label in shared)
        raise DataError(f"class {name!r} is in both the train and the test split")
    files = collections.Counter(entry.file for entry in entries)
    twice = [file for file, count in files.items() if count > 1]
    if twice:
        raise DataError(f"{source / twice[0]} is listed {files[twice[0]]} times")
    missing = [file for file in files if not (source / file).is_file()]
    if missing:
        raise DataError(
            f"there is no file {source / missing[0]} ({len(missing)} of {len(files)} "
            "images are missing)"
        )


def _encode(source: Path, shorter_side: int, file: str) -> bytes:
    """The bytes to store for one file."""
    path = source / file
    try:
        images.check(path)
        if not shorter_side:
            return path.read_bytes()
        image = images.decode(path)
        scale = shorter_side / min(image.size)
        if scale < 1:
            size = [max(round(side * scale), shorter_side) for side in image.size]
            image = image.resize(size, Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=90)
        return stream.getvalue()
    except images.ImageError as error:
        raise DataError(f"{path}: {error}") from error


def _builder(
    entries: Sequence[Entry],
    encode: Callable[[str], bytes],
    dataset: str,
    data_dir: str,
    text: str,
) -> Any:
    """A TFDS builder over the entries; a class of its own, since TFDS names classes."""
    import tensorflow_datasets as tfds

    class Entries(  # type: ignore[call-arg]
        tfds.core.GeneratorBasedBuilder, skip_registration=True
    ):
        """Labelled images from an extracted archive."""

        name = dataset
        VERSION = tfds.core.Version(VERSION)
        # Nothing is downloaded; looking for checksums needs importlib_resources.
        url_infos = None

        def _info(self) -> tfds.core.DatasetInfo:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Scalar(dtype=np.int64),
                "class_name": tfds.features.Text(),
                "file": tfds.features.Text(),
                "role": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=text,
                features=tfds.features.FeaturesDict(features),
            )

        def _split_generators(self, dl_manager: Any) -> dict:
            return {
                split: self._generate_examples(split) for split in ("train", "test")
            }

        def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
            for entry in entries:
                if entry.split == split:
                    yield (
                        entry.file,
                        {
                            "image": encode(entry.file),
                            "label": entry.label,
                            "class_name": entry.class_name,
                            "file": entry.file,
                            "role": entry.role,
                        },
                    )

    return Entries(data_dir=data_dir, file_format="array_record")
