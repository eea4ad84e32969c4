"""Deep metric learning: losses, samplers, retrieval and clustering measures."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metric.attention import class_aware_attention as class_aware_attention
    from metric.clustering import clustering_measures as clustering_measures
    from metric.contrastive import contrastive_loss as contrastive_loss
    from metric.distances import normalize as normalize
    from metric.distances import pair_masks as pair_masks
    from metric.distances import unit_distances as unit_distances
    from metric.memory import Memory as Memory
    from metric.memory import empty_memory as empty_memory
    from metric.memory import enqueue as enqueue
    from metric.memory import recall as recall
    from metric.pooling import attention_pool as attention_pool
    from metric.ranked_list import ranked_list_loss as ranked_list_loss
    from metric.retrieval import nearest_neighbours as nearest_neighbours
    from metric.retrieval import retrieval_measures as retrieval_measures
    from metric.sampling import class_balanced_plan as class_balanced_plan
    from metric.sampling import epoch_batches as epoch_batches
    from metric.sampling import tracklet_epoch_batches as tracklet_epoch_batches
    from metric.sampling import tracklet_plan as tracklet_plan
    from metric.soft_mining import online_soft_mining as online_soft_mining
    from metric.soft_mining import osm_caa_loss as osm_caa_loss

_MODULES = {
    "Memory": "memory",
    "attention_pool": "pooling",
    "class_aware_attention": "attention",
    "class_balanced_plan": "sampling",
    "clustering_measures": "clustering",
    "contrastive_loss": "contrastive",
    "empty_memory": "memory",
    "enqueue": "memory",
    "epoch_batches": "sampling",
    "nearest_neighbours": "retrieval",
    "normalize": "distances",
    "online_soft_mining": "soft_mining",
    "osm_caa_loss": "soft_mining",
    "pair_masks": "distances",
    "ranked_list_loss": "ranked_list",
    "recall": "memory",
    "retrieval_measures": "retrieval",
    "tracklet_epoch_batches": "sampling",
    "tracklet_plan": "sampling",
    "unit_distances": "distances",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
