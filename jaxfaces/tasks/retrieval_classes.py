"""Retrieval measures class by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import metric


def measures(
    embedded: Sequence[tuple[np.ndarray, Mapping[str, np.ndarray]]],
) -> dict[str, np.ndarray]:
    """R@1 and MAP@R of each class, the means over its queries.

    Args:
      embedded: embeddings (N, D) and columns with `label` of the queries, and of the
        gallery where there is one.

    Returns:
      `recall_at_1` and `map_at_r`, (C,) each, in the order of the queries' labels;
      queries without a relevant item are left out, a class of such alone is NaN.
    """
    (queries, columns), *gallery = embedded
    items: dict[str, Any] = {}
    if gallery:
        items = {"gallery": gallery[0][0], "gallery_labels": gallery[0][1]["label"]}
    found = metric.retrieval_measures(
        queries, columns["label"], ks=(1,), per_query=True, **items
    )["per_query"]
    _, ids = np.unique(columns["label"], return_inverse=True)
    values = {"recall_at_1": found["recall_at_k"][1], "map_at_r": found["map_at_r"]}
    counted = np.isfinite(values["map_at_r"])
    sizes = np.bincount(ids, counted)
    with np.errstate(invalid="ignore"):
        return {
            name: np.bincount(ids, np.where(counted, each, 0)) / sizes
            for name, each in values.items()
        }
