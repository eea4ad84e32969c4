"""Features of whole tracklets: plain means over all of their frames."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

COLUMNS = ("label", "camera", "query", "gallery", "index")


class Means(NamedTuple):
    """T tracklets.

    Attributes:
      features: (T, D) float32, means of the raw features of their frames.
      columns: `COLUMNS` of the first frame of each, (T,).
    """

    features: np.ndarray
    columns: dict[str, np.ndarray]

    def chosen(self, which: np.ndarray) -> "Means":
        """Some of them, by booleans (T,)."""
        columns = {name: column[which] for name, column in self.columns.items()}
        return Means(self.features[which], columns)


def tracklet_means(
    predict: Callable[[Mapping[str, Any]], Any], batches: Iterable[Mapping[str, Any]]
) -> Means:
    """Means of frame features over each tracklet of a sweep, summed as they come.

    Only a sum a tracklet is kept, never the features of a million frames.

    Args:
      predict: features (B, D) of one batch.
      batches: of frames, with the columns "tracklet", "valid" and `COLUMNS`.

    Returns:
      The tracklets in the order of their numbers.
    """
    parts: list[Any] = []
    for batch in batches:
        # Fetched one batch behind, so that device and host work at the same time.
        if parts:
            parts[-1] = _sums(*parts[-1])
        parts.append((predict(batch), batch))
    parts[-1] = _sums(*parts[-1])
    numbers, totals, counts, columns = zip(*parts)
    # A tracklet that goes over from one batch to the next is in both.
    _, first, place = np.unique(
        np.concatenate(numbers), return_index=True, return_inverse=True
    )
    total = np.zeros((len(first), totals[0].shape[1]))
    np.add.at(total, place, np.concatenate(totals))
    count = np.bincount(place, np.concatenate(counts))
    return Means(
        (total / count[:, None]).astype(np.float32),
        {
            name: np.concatenate([each[name] for each in columns])[first]
            for name in COLUMNS
        },
    )


def _sums(
    features: Any, batch: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Numbers, sums, counts and columns of the tracklets of a batch."""
    valid = batch["valid"]
    features = np.asarray(features)[valid].astype(np.float64)
    numbers, first, place = np.unique(
        batch["tracklet"][valid], return_index=True, return_inverse=True
    )
    total = np.zeros((len(numbers), features.shape[1]))
    np.add.at(total, place, features)
    columns = {name: batch[name][valid][first] for name in COLUMNS}
    return numbers, total, np.bincount(place), columns
