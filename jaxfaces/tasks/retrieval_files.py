"""A user's own images in, embeddings and nearest neighbours out."""

import csv
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

import metric
from jaxfaces.data import images, streams
from jaxfaces.data.errors import DataError
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.task import Predicted
from jaxfaces.imaging import figures
from jaxfaces.tasks.image_data import ImageData

NAME = "embeddings"
SHEET_QUERIES, SHEET_RESULTS = 8, 8
NO_PIXELS = np.zeros((32, 32, 1), np.uint8)


def stream(
    data: ImageData, paths: Sequence[Path], batch_size: int, max_pixels: int
) -> streams.Stream:
    """Image files fitted as the training images were, a row a file, in order."""
    decode = functools.partial(
        images.load,
        size=data.image_size,
        how=data.fit,
        trim=data.trim_white,
        grey=data.grey,
        max_pixels=max_pixels,
    )
    plan = streams.ordered_plan(len(paths), batch_size)
    sweep = streams.batches_to_cover(len(paths), batch_size)
    read = functools.partial(_read, decode, paths)
    return streams.Stream(plan, read, len(paths), 0, sweep)


def _read(decode: Any, paths: Sequence[Path], rows: np.ndarray) -> Mapping[str, Any]:
    chosen = [paths[row] for row in rows]
    for path in chosen:
        if not path.is_file():  # opening a pipe would wait for a writer
            raise images.ImageError("no such file")
    return {"image": np.stack([decode(path) for path in chosen])}


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
    files = np.array(predicted.names, np.str_)  # fixed width: nothing is pickled
    np.savez(path, embeddings=embeddings, files=files, model=np.str_(predicted.model))


def _save_parquet(path: Path, embeddings: np.ndarray, predicted: Predicted) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)), embeddings.shape[1]
    )
    table = pa.table({"file": pa.array(predicted.names), "embedding": vectors})
    table = table.replace_schema_metadata({"model": predicted.model})
    parquet.write_table(table, path)


def load(path: Path, data: ImageData) -> Predicted:
    """Reads what `write` wrote: the file with the embeddings, or the folder.

    Raises:
      DataError: it cannot be read so; the message says why.
    """
    if path.is_dir():
        path = next(iter(sorted(path.glob(f"{NAME}.*"))), path / f"{NAME}.npz")
    try:
        if not path.is_file():
            raise DataError("no such file")
        columns = _parquet if path.suffix == ".parquet" else _npz
        embeddings, files, model = columns(path)
        embeddings = np.asarray(embeddings, np.float32)
        whole = embeddings.ndim == 2 and files.ndim == 1 and files.dtype.kind == "U"
        if not whole or not len(files) or len(files) != len(embeddings):
            raise DataError("needs embeddings (N, D) and as many names of files")
        if not np.isfinite(embeddings).all():
            raise DataError("holds embeddings that are not finite")
    # What damaged archives raise is up to zipfile, zlib, numpy and arrow.
    except Exception as error:
        raise DataError(f"--gallery={path} cannot be read: {error}") from error
    names = files.tolist()
    paths = [Path(name) for name in names]
    read = stream(data, paths, 1, images.MAX_PIXELS).read
    return Predicted(names, embeddings, read, model)


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    with np.load(path, allow_pickle=False) as columns:
        model = str(columns["model"]) if "model" in columns else ""
        return columns["embeddings"], columns["files"], model


def _parquet(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    from pyarrow import parquet

    table = parquet.read_table(path, columns=["file", "embedding"])
    vectors = table["embedding"].combine_chunks()
    embeddings = vectors.flatten().to_numpy(zero_copy_only=False)
    model = (table.schema.metadata or {}).get(b"model", b"").decode()
    files = np.array(table["file"].to_pylist(), np.str_)
    return embeddings.reshape(len(vectors), -1), files, model


def _sheet(
    predicted: Predicted,
    items: Predicted,
    order: np.ndarray,
    similarities: np.ndarray,
) -> Image.Image:
    """Some of the queries with their first neighbours, as the network sees them."""
    queries = np.linspace(0, len(order) - 1, min(SHEET_QUERIES, len(order))).astype(int)
    shown = order[queries, :SHEET_RESULTS]
    left = [_pixels(predicted, query) for query in queries]
    right = [[_pixels(items, item) for item in rows] for rows in shown]
    paper = np.full_like(next((x for x in left if x is not None), NO_PIXELS), 255)
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
    return figures.contact_sheet(
        np.stack([_like(paper, x) for x in left]),
        np.stack([[_like(paper, x) for x in row] for row in right]),
        captions=captions,
    )


def nearest_others(embeddings: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Rows of the items nearest to each query, itself left out."""
    k = min(SHEET_RESULTS + 1, len(embeddings))
    order, _ = metric.nearest_neighbours(embeddings[queries], embeddings, k=k)
    # A duplicate may come before the query itself, so it is found, not cut off.
    itself = order == queries[:, None]
    itself[~itself.any(axis=1), -1] = True
    return order[~itself].reshape(len(queries), k - 1)


def _pixels(predicted: Predicted, row: int) -> np.ndarray | None:
    """The pixels of a file, None where it is gone since it was embedded."""
    try:
        return predicted.read(np.array([row]))["image"][0]
    except DataError:
        return None


def _like(paper: np.ndarray, pixels: np.ndarray | None) -> np.ndarray:
    return paper if pixels is None or pixels.shape != paper.shape else pixels
