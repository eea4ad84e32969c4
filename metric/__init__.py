"""Deep metric learning: losses, samplers, retrieval and clustering measures."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metric.ann import export_index as export_index
    from metric.clustering import clustering_measures as clustering_measures
    from metric.contrastive import contrastive_loss as contrastive_loss
    from metric.distances import normalize as normalize
    from metric.distances import pair_masks as pair_masks
    from metric.distances import unit_distances as unit_distances
    from metric.ranked_list import ranked_list_loss as ranked_list_loss
    from metric.reid import reid_measures as reid_measures
    from metric.reranking import k_reciprocal_reranking as k_reciprocal_reranking
    from metric.retrieval import nearest_neighbours as nearest_neighbours
    from metric.retrieval import retrieval_measures as retrieval_measures
    from metric.sampling import class_balanced_plan as class_balanced_plan
    from metric.sampling import epoch_batches as epoch_batches
    from metric.verification import all_pairs_verification as all_pairs_verification
    from metric.verification import verification_measures as verification_measures

_MODULES = {
    "all_pairs_verification": "verification",
    "class_balanced_plan": "sampling",
    "clustering_measures": "clustering",
    "contrastive_loss": "contrastive",
    "epoch_batches": "sampling",
    "export_index": "ann",
    "k_reciprocal_reranking": "reranking",
    "nearest_neighbours": "retrieval",
    "normalize": "distances",
    "pair_masks": "distances",
    "ranked_list_loss": "ranked_list",
    "reid_measures": "reid",
    "retrieval_measures": "retrieval",
    "unit_distances": "distances",
    "verification_measures": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
