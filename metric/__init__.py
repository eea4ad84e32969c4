"""Deep metric learning: losses, miners, samplers, retrieval and clustering measures."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metric.ann import export_index as export_index
    from metric.attention import class_aware_attention as class_aware_attention
    from metric.class_vectors import soft_labels as soft_labels
    from metric.clustering import clustering_measures as clustering_measures
    from metric.confidence import (
        confidence_weighted_cross_entropy as confidence_weighted_cross_entropy,
    )
    from metric.contrastive import contrastive_loss as contrastive_loss
    from metric.distances import normalize as normalize
    from metric.distances import pair_masks as pair_masks
    from metric.distances import unit_distances as unit_distances
    from metric.lifted_structure import lifted_structure_loss as lifted_structure_loss
    from metric.margin import margin_loss as margin_loss
    from metric.margin_softmax import arcface_loss as arcface_loss
    from metric.margin_softmax import cosface_loss as cosface_loss
    from metric.margin_softmax import normalized_softmax_loss as normalized_softmax_loss
    from metric.margin_softmax import proxy_nca_loss as proxy_nca_loss
    from metric.memory import Memory as Memory
    from metric.memory import empty_memory as empty_memory
    from metric.memory import enqueue as enqueue
    from metric.memory import references as references
    from metric.mining import distance_weighted_pairs as distance_weighted_pairs
    from metric.mining import hard_pairs as hard_pairs
    from metric.mining import multi_similarity_pairs as multi_similarity_pairs
    from metric.mining import semi_hard_pairs as semi_hard_pairs
    from metric.multi_similarity import multi_similarity_loss as multi_similarity_loss
    from metric.n_pair import n_pair_loss as n_pair_loss
    from metric.noise import open_set_noise as open_set_noise
    from metric.noise import pair_flip_noise as pair_flip_noise
    from metric.noise import symmetric_noise as symmetric_noise
    from metric.pooling import attention_pool as attention_pool
    from metric.proxy_anchor import proxy_anchor_loss as proxy_anchor_loss
    from metric.ranked_list import ranked_list_loss as ranked_list_loss
    from metric.reid import reid_measures as reid_measures
    from metric.reranking import k_reciprocal_reranking as k_reciprocal_reranking
    from metric.retrieval import nearest_neighbours as nearest_neighbours
    from metric.retrieval import retrieval_measures as retrieval_measures
    from metric.sampling import class_balanced_plan as class_balanced_plan
    from metric.sampling import epoch_batches as epoch_batches
    from metric.sampling import tracklet_epoch_batches as tracklet_epoch_batches
    from metric.sampling import tracklet_plan as tracklet_plan
    from metric.soft_mining import online_soft_mining as online_soft_mining
    from metric.soft_mining import osm_caa_loss as osm_caa_loss
    from metric.supcon import supcon_loss as supcon_loss
    from metric.triplet import triplet_loss as triplet_loss
    from metric.verification import all_pairs_verification as all_pairs_verification
    from metric.verification import verification_measures as verification_measures

_MODULES = {
    "Memory": "memory",
    "all_pairs_verification": "verification",
    "arcface_loss": "margin_softmax",
    "attention_pool": "pooling",
    "class_aware_attention": "attention",
    "class_balanced_plan": "sampling",
    "clustering_measures": "clustering",
    "confidence_weighted_cross_entropy": "confidence",
    "contrastive_loss": "contrastive",
    "cosface_loss": "margin_softmax",
    "distance_weighted_pairs": "mining",
    "empty_memory": "memory",
    "enqueue": "memory",
    "epoch_batches": "sampling",
    "export_index": "ann",
    "hard_pairs": "mining",
    "k_reciprocal_reranking": "reranking",
    "lifted_structure_loss": "lifted_structure",
    "margin_loss": "margin",
    "multi_similarity_loss": "multi_similarity",
    "multi_similarity_pairs": "mining",
    "n_pair_loss": "n_pair",
    "nearest_neighbours": "retrieval",
    "normalize": "distances",
    "normalized_softmax_loss": "margin_softmax",
    "online_soft_mining": "soft_mining",
    "open_set_noise": "noise",
    "osm_caa_loss": "soft_mining",
    "pair_flip_noise": "noise",
    "pair_masks": "distances",
    "proxy_anchor_loss": "proxy_anchor",
    "proxy_nca_loss": "margin_softmax",
    "ranked_list_loss": "ranked_list",
    "references": "memory",
    "reid_measures": "reid",
    "retrieval_measures": "retrieval",
    "semi_hard_pairs": "mining",
    "soft_labels": "class_vectors",
    "supcon_loss": "supcon",
    "symmetric_noise": "noise",
    "tracklet_epoch_batches": "sampling",
    "tracklet_plan": "sampling",
    "triplet_loss": "triplet",
    "unit_distances": "distances",
    "verification_measures": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
