"""A user's own images in, embeddings and nearest neighbours out."""

import csv
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

import metric
from jaxfaces.data import images, npz, sources
from jaxfaces.data.errors import DataError
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.task import Predicted
from jaxfaces.imaging import figures
from jaxfaces.tasks import image_files
from jaxfaces.tasks.stored_images import StoredImages

NAME = "embeddings"
SHEET_QUERIES, SHEET_RESULTS = 8, 8


def write(
    predicted: Predicted,
    folder: Path,
    *,
    gallery: Predicted | None = None,
    format: str = "npz",
    neighbours: int = SHEET_RESULTS,
) -> None:
    """Writes embeddings, and for each the nearest others: a CSV table and a picture.

    Args:
      predicted: raw embeddings (N, D) of N files.
      folder: where to write embeddings.npz or .parquet, neighbours.csv and .png.
      gallery: where to search; None searches the files among themselves.
      format: "npz" or "parquet".
      neighbours: how many; 0 writes none.

    Raises:
      RunError: an embedding is not finite, or the gallery is of another network.
    """
    embeddings = _unit(predicted)
    save = _save_parquet if format == "parquet" else _save_npz
    save(folder / f"{NAME}.{format}", embeddings, predicted)
    if gallery is not None:
        _check(embeddings, predicted, gallery)
    items = predicted if gallery is None else gallery
    k = min(neighbours, len(items.names) - (gallery is None))
    if k < 1:
        return
    searched = None if gallery is None else _unit(gallery)
    order, similarities = metric.nearest_neighbours(embeddings, searched, k=k)
    with (folder / "neighbours.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("query", "rank", "neighbour", "similarity"))
        for query, found, scores in zip(predicted.names, order, similarities):
            table.writerows(
                (query, rank, items.names[item], f"{score:.6f}")
                for rank, (item, score) in enumerate(zip(found, scores), 1)
            )
    sheet = _sheet(predicted, items, order, similarities)
    figures.to_png(sheet, folder / "neighbours.png")


def _unit(predicted: Predicted) -> np.ndarray:
    raw = np.asarray(predicted.outputs, np.float32)
    bad = np.flatnonzero(~np.isfinite(raw).all(axis=1))
    if len(bad):
        raise RunError(
            f"the embedding of {predicted.names[bad[0]]} is not finite (so of "
            f"{len(bad)} in {len(raw)}): the network diverged in training"
        )
    return np.asarray(metric.normalize(jnp.asarray(raw)))


def _check(embeddings: np.ndarray, predicted: Predicted, gallery: Predicted) -> None:
    other = bool(gallery.model) and gallery.model != predicted.model
    if other or embeddings.shape[1] != gallery.outputs.shape[1]:
        raise RunError(
            "--gallery was embedded by another network or at another step: embed its "
            "images with this one, and give the result"
        )


def _save_npz(path: Path, embeddings: np.ndarray, predicted: Predicted) -> None:
    # Text of fixed width: nothing is pickled.
    np.savez(
        path,
        embeddings=embeddings,
        files=np.array(predicted.names, np.str_),
        model=np.str_(predicted.model),
        folder=np.str_(os.getcwd()),
    )


def _save_parquet(path: Path, embeddings: np.ndarray, predicted: Predicted) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)), embeddings.shape[1]
    )
    table = pa.table({"file": pa.array(predicted.names), "embedding": vectors})
    about = {"model": predicted.model, "folder": os.fsencode(os.getcwd())}
    table = table.replace_schema_metadata(about)
    parquet.write_table(table, path)


def load(path: Path, data: StoredImages) -> Predicted:
    """Reads what `write` wrote: the file with the embeddings, or the folder.

    Its files are looked for from the folder where they were predicted.

    Raises:
      DataError: it cannot be read so; the message says why.
    """
    if path.is_dir():
        found = [path / f"{NAME}{suffix}" for suffix in COLUMNS]
        path = next((each for each in found if each.exists()), found[0])
    try:
        if not path.is_file():
            raise DataError("no such file")
        if path.suffix not in COLUMNS:
            raise DataError(f"give a folder or a file in {' or '.join(COLUMNS)}")
        embeddings, names, model, folder = COLUMNS[path.suffix](path)
        embeddings = np.asarray(embeddings, np.float32)
        whole = embeddings.ndim == 2 and all(isinstance(name, str) for name in names)
        if not whole or not names or len(names) != len(embeddings):
            raise DataError("needs embeddings (N, D) and as many names of files")
        if not np.isfinite(embeddings).all():
            raise DataError("holds embeddings that are not finite")
    # What damaged archives raise is up to zipfile, zlib, numpy and arrow.
    except Exception as error:
        raise DataError(f"--gallery={path} cannot be read: {error}") from error
    paths = [Path(folder) / name for name in names]
    read = image_files.stream(data, paths, 1, images.MAX_PIXELS).read
    return Predicted(names, embeddings, read, model)


def _npz(path: Path) -> tuple[np.ndarray, list, str, str]:
    wanted = ("embeddings", "files", "model", "folder")
    columns = npz.read(path, wanted, sources.MEMORY_LIMIT)
    model, folder = (str(columns.get(name, "")) for name in ("model", "folder"))
    files = np.atleast_1d(columns["files"])
    return columns["embeddings"], files.tolist(), model, folder


def _parquet(path: Path) -> tuple[np.ndarray, list, str, str]:
    from pyarrow import parquet

    # A dictionary, for a name that is repeated may be long.
    with parquet.ParquetFile(path, read_dictionary=["file"]) as file:
        size = _parquet_bytes(file.metadata)
        if size > sources.MEMORY_LIMIT:
            raise DataError(
                f"it holds {size:,} bytes, at most {sources.MEMORY_LIMIT:,} are read"
            )
        table = file.read(columns=["file", "embedding"])
    vectors = table["embedding"].combine_chunks()
    embeddings = vectors.flatten().to_numpy(zero_copy_only=False)
    names: list = []
    for chunk in table["file"].chunks:
        words = chunk.dictionary.to_pylist()
        names.extend(words[index] for index in chunk.indices.to_pylist())
    embeddings = embeddings.reshape(len(vectors), -1)
    about = table.schema.metadata or {}
    model, folder = (os.fsdecode(about.get(key, b"")) for key in (b"model", b"folder"))
    return embeddings, names, model, folder


def _parquet_bytes(metadata: Any) -> int:
    """What the values of all columns take, by the description of the file."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(
        max(each.total_uncompressed_size, 8 * each.num_values) for each in columns
    )


# How each kind of file is read: embeddings, names, model, folder.
COLUMNS = {".npz": _npz, ".parquet": _parquet}


def _sheet(
    predicted: Predicted,
    items: Predicted,
    order: np.ndarray,
    similarities: np.ndarray,
) -> Image.Image:
    """Some of the queries with their first neighbours, as the network sees them."""
    queries = np.linspace(0, len(order) - 1, min(SHEET_QUERIES, len(order))).astype(int)
    shown = order[queries, :SHEET_RESULTS]
    cells = [
        [(predicted, query), *((items, item) for item in rows)]
        for query, rows in zip(queries, shown)
    ]
    found = image_files.pixels([cell for row in cells for cell in row])
    found = found.reshape(len(cells), -1, *found.shape[1:])
    captions = [
        [
            Path(predicted.names[query]).stem,
            *(
                f"{score:.2f}  {Path(items.names[item]).stem}"
                for item, score in zip(rows, similarities[query])
            ),
        ]
        for query, rows in zip(queries, shown)
    ]
    return figures.contact_sheet(found[:, 0], found[:, 1:], captions=captions)


def nearest_others(embeddings: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Rows of the items nearest to each query, itself left out."""
    k = min(SHEET_RESULTS + 1, len(embeddings))
    order, _ = metric.nearest_neighbours(embeddings[queries], embeddings, k=k)
    # A duplicate may come before the query itself, so it is found, not cut off.
    itself = order == queries[:, None]
    itself[~itself.any(axis=1), -1] = True
    return order[~itself].reshape(len(queries), k - 1)
