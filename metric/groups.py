"""Class ids of queries and gallery, and the items of a class as lists."""

import numpy as np
from numpy.typing import ArrayLike


class ItemsByClass:
    """Gallery indices sorted by class, so that those of a class are one slice."""

    def __init__(self, ids: np.ndarray, num_classes: int):
        self.order = np.argsort(ids, kind="stable").astype(np.int32)
        self.counts = np.bincount(ids, minlength=num_classes)
        self.starts = np.cumsum(self.counts) - self.counts

    def members(self, ids: np.ndarray, length: int) -> np.ndarray:
        """Ascending gallery indices (b, length) of classes (b,), filled with -1."""
        offset = np.arange(length)
        position = self.starts[ids, None] + offset
        items = np.take(self.order, position, mode="clip")
        return np.where(offset < self.counts[ids, None], items, -1)


def class_ids(
    query_labels: ArrayLike, gallery_labels: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of any type as int32 ids from 0, the same for queries and gallery."""
    queries = np.asarray(query_labels)
    items = queries if gallery_labels is None else np.asarray(gallery_labels)
    _, ids = np.unique(np.concatenate([queries, items]), return_inverse=True)
    ids = ids.astype(np.int32)
    return ids[: len(queries)], ids[len(queries) :]


def few_lengths(length: int) -> int:
    """The next power of two, so that few list lengths are compiled."""
    return 1 << (length - 1).bit_length()
