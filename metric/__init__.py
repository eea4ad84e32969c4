"""Deep metric learning: losses, samplers, retrieval and clustering measures."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metric.clustering import clustering_measures as clustering_measures
    from metric.contrastive import contrastive_loss as contrastive_loss
    from metric.distances import normalize as normalize
    from metric.distances import pair_masks as pair_masks
    from metric.distances import unit_distances as unit_distances
    from metric.lifted_structure import lifted_structure_loss as lifted_structure_loss
    from metric.margin import margin_loss as margin_loss
    from metric.mining import distance_weighted_pairs as distance_weighted_pairs
    from metric.mining import hard_pairs as hard_pairs
    from metric.mining import multi_similarity_pairs as multi_similarity_pairs
    from metric.mining import semi_hard_pairs as semi_hard_pairs
    from metric.multi_similarity import multi_similarity_loss as multi_similarity_loss
    from metric.n_pair import n_pair_loss as n_pair_loss
    from metric.ranked_list import ranked_list_loss as ranked_list_loss
    from metric.retrieval import nearest_neighbours as nearest_neighbours
    from metric.retrieval import retrieval_measures as retrieval_measures
    from metric.sampling import class_balanced_plan as class_balanced_plan
    from metric.sampling import epoch_batches as epoch_batches
    from metric.supcon import supcon_loss as supcon_loss
    from metric.triplet import triplet_loss as triplet_loss

_MODULES = {
    "class_balanced_plan": "sampling",
    "clustering_measures": "clustering",
    "contrastive_loss": "contrastive",
    "distance_weighted_pairs": "mining",
    "epoch_batches": "sampling",
    "hard_pairs": "mining",
    "lifted_structure_loss": "lifted_structure",
    "margin_loss": "margin",
    "multi_similarity_loss": "multi_similarity",
    "multi_similarity_pairs": "mining",
    "n_pair_loss": "n_pair",
    "nearest_neighbours": "retrieval",
    "normalize": "distances",
    "pair_masks": "distances",
    "ranked_list_loss": "ranked_list",
    "retrieval_measures": "retrieval",
    "semi_hard_pairs": "mining",
    "supcon_loss": "supcon",
    "triplet_loss": "triplet",
    "unit_distances": "distances",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
