"""Export of a gallery to faiss, for galleries that exact search is too slow for."""

import math
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from metric.search import Search, check_column


def export_index(
    embeddings: ArrayLike,
    path: str | os.PathLike[str],
    *,
    ids: ArrayLike | None = None,
    kind: Literal["flat", "ivf", "hnsw"] = "flat",
    lists: int | None = None,
    probes: int | None = None,
    links: int = 32,
    effort: int = 128,
) -> None:
    """Writes a faiss index of unit rows that is searched by inner product, the cosine.

    Needs faiss, `pip install 'jaxfaces[ann]'`. Queries must be unit rows too:

        index = faiss.read_index("gallery.faiss")
        similarities, ids = index.search(np.asarray(metric.normalize(queries)), k)

    which for `flat` are those of `metric.nearest_neighbours`, to rounding; an index of
    less than k items, or found items, ends in id -1 there too. The other kinds find
    most of them: measure their recall against it on a sample of queries.

    Args:
      embeddings: (N, D) raw embeddings, normalised inside, N >= 1.
      path: the file, replaced when the index is complete.
      ids: (N,) integers >= 0 that a search answers with, all different; None numbers
        the rows.
      kind: "flat", exact; "ivf", inverted lists around k-means centres (Jégou et al.
        2011), of which a query reads a few; "hnsw", a graph (Malkov and Yashunin 2018).
      lists: number of lists of "ivf", from 1 to N; None is 4 sqrt(N), but no more than
        N / 39, which gives k-means the rows that faiss asks for.
      probes: lists that a query reads, 1 to `lists`; None is a sixteenth of them. Kept
        in the file; `faiss.extract_index_ivf(index).nprobe` changes it.
      links: neighbours of a node of "hnsw", >= 2; the graph takes 8 links bytes a row.
      effort: candidates that "hnsw" keeps while it builds and searches, >= 1.

    Raises:
      ImportError: faiss is not installed.
      ValueError: embeddings are not finite, ids are not as above, or a number is out of
        range.
    """
    faiss = _faiss()
    if kind not in ("flat", "ivf", "hnsw"):
        raise ValueError(f"kind must be flat, ivf or hnsw, got {kind!r}")
    ready = Search(embeddings, None, None)
    size = ready.num_items
    if not size:
        raise ValueError("an index needs at least one row")
    rows = np.ascontiguousarray(np.asarray(ready.items)[:size])
    numbers = _numbers(ids, size)
    if kind == "ivf":
        index = _inverted(faiss, rows, lists, probes)
    elif kind == "hnsw":
        index = _graph(faiss, rows.shape[1], links, effort)
    else:
        index = faiss.IndexFlatIP(rows.shape[1])
    if kind != "ivf":  # whose lists hold the ids
        index = faiss.IndexIDMap2(index)
    index.add_with_ids(rows, numbers)
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    faiss.write_index(index, str(partial))
    os.replace(partial, path)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        message = "export_index needs faiss: pip install 'jaxfaces[ann]'"
        raise ImportError(message) from error
    return faiss


def _numbers(ids: ArrayLike | None, size: int) -> np.ndarray:
    """The ids as faiss takes them."""
    if ids is None:
        return np.arange(size, dtype=np.int64)
    given = np.asarray(ids)
    check_column("ids", given, size)
    if not np.issubdtype(given.dtype, np.integer):
        raise ValueError(f"ids must be integers, got {given.dtype}")
    if given.min() < 0:
        raise ValueError("ids must be 0 or more: -1 is faiss's word for nothing found")
    if len(np.unique(given)) < size:
        raise ValueError("ids must all be different")
    return given.astype(np.int64)


def _inverted(
    faiss: Any, rows: np.ndarray, lists: int | None, probes: int | None
) -> Any:
    size, width = rows.shape
    if lists is None:
        lists = max(1, min(round(4 * math.sqrt(size)), size // 39))
    if not 1 <= lists <= size:
        raise ValueError(f"lists must be from 1 to {size} rows, got {lists}")
    if probes is None:
        probes = -(-lists // 16)
    if not 1 <= probes <= lists:
        raise ValueError(f"probes must be from 1 to {lists} lists, got {probes}")
    # The factory's index owns its quantiser and keeps its centres unit vectors.
    index = faiss.index_factory(width, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.nprobe = probes
    return index


def _graph(faiss: Any, width: int, links: int, effort: int) -> Any:
    if links < 2 or effort < 1:
        raise ValueError(f"links must be >= 2 and effort >= 1, got {links}, {effort}")
    index = faiss.IndexHNSWFlat(width, links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = index.hnsw.efSearch = effort
    return index
