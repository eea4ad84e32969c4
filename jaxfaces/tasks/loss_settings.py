"""Hyper-parameters of the embedding losses, a group of flags each."""

import dataclasses

from jaxfaces.engine.config import knob


@dataclasses.dataclass(frozen=True)
class Contrastive:
    """Hyper-parameters of `metric.contrastive_loss`."""

    pos_margin: float = knob(0.0, "Distance positives may keep.", lower=0.0, upper=2.0)
    neg_margin: float = knob(1.0, "Distance negatives must keep.", lower=0.0, upper=2.0)


@dataclasses.dataclass(frozen=True)
class Triplet:
    """Hyper-parameters of `metric.triplet_loss`."""

    margin: float = knob(0.2, "By which negatives are farther.", lower=0.0, upper=2.0)
    kind: str = knob(
        "semihard", "Which triplets pay.", choices=("all", "semihard", "hard")
    )


@dataclasses.dataclass(frozen=True)
class Margin:
    """Hyper-parameters of `metric.margin_loss`."""

    beta: float = knob(1.2, "Boundary of distances.", lower=0.0, upper=2.0)
    margin: float = knob(0.2, "Kept from it on both sides.", lower=0.0, upper=2.0)


@dataclasses.dataclass(frozen=True)
class NPair:
    """Hyper-parameters of `metric.n_pair_loss`."""

    l2: float = knob(0.0, "Weight of the squared lengths of embeddings.", lower=0.0)


@dataclasses.dataclass(frozen=True)
class LiftedStructure:
    """Hyper-parameters of `metric.lifted_structure_loss`."""

    pos_margin: float = knob(0.0, "Distance positives may keep.", lower=0.0, upper=2.0)
    neg_margin: float = knob(1.0, "Distance negatives must keep.", lower=0.0, upper=2.0)


@dataclasses.dataclass(frozen=True)
class MultiSimilarity:
    """Hyper-parameters of `metric.multi_similarity_loss`."""

    alpha: float = knob(2.0, "Weighs hard positives more.", lower=1e-3)
    beta: float = knob(50.0, "Weighs hard negatives more.", lower=1e-3)
    base: float = knob(0.5, "Similarity that divides them.", lower=-1.0, upper=1.0)


@dataclasses.dataclass(frozen=True)
class SupCon:
    """Hyper-parameters of `metric.supcon_loss`."""

    temperature: float = knob(0.1, "Of the softmax over a batch.", lower=1e-3)


@dataclasses.dataclass(frozen=True)
class RankedList:
    """Hyper-parameters of `metric.ranked_list_loss`."""

    alpha: float = knob(
        1.2, "Distance that negatives are pushed beyond.", lower=0.0, upper=2.0
    )
    margin: float = knob(0.4, "Gap between the two boundaries.", lower=0.0, upper=2.0)
    simpler: bool = knob(False, "The journal's form: boundaries 1 ∓ margin / 2.")
    temperature: float = knob(10.0, "Weighs near negatives more.", lower=0.0)
    positive_temperature: float = knob(0.0, "Weighs far positives more.", lower=0.0)
    pos_weight: float = knob(0.5, "Of the positive term.", lower=0.0)
    neg_weight: float = knob(0.5, "Of the negative term.", lower=0.0)
    gradient: str = knob(
        "query", "What is differentiated.", choices=("query", "pair", "full")
    )
    query_weighting: str = knob(
        "uniform", "How queries are averaged.", choices=("uniform", "mass")
    )


@dataclasses.dataclass(frozen=True)
class SoftMining:
    """Hyper-parameters of `metric.osm_caa_loss`."""

    alpha: float = knob(
        1.2, "Distance that negatives are pushed beyond.", lower=0.0, upper=2.0
    )
    sigma: float = knob(0.8, "Width of the mining of positives.", lower=1e-3)
    balance: float = knob(0.5, "Share of the negative term.", lower=0.0, upper=1.0)
    mining: str = knob("soft", "Online soft mining.", choices=("soft", "none"))
    attention: str = knob(
        "prob", "Class-aware attention.", choices=("prob", "gauss", "none")
    )
    attention_width: float = knob(0.68, "Of the Gaussian attention.", lower=1e-3)
    sigma_convention: str = knob(
        "paper",
        "exp(-d²/sigma²), or the released code's normal density.",
        choices=("paper", "normal"),
    )
    pair: str = knob("min", "Attention of a pair.", choices=("min", "product"))
    gradient: str = knob(
        "weights_const",
        "Whether weights are differentiated.",
        choices=("weights_const", "full"),
    )
    legacy_pair_scale: bool = knob(False, "Divide by the number of pairs, as released.")


@dataclasses.dataclass(frozen=True)
class NormalizedSoftmax:
    """Hyper-parameters of `metric.normalized_softmax_loss`."""

    temperature: float = knob(0.05, "Of the softmax over classes.", lower=1e-3)


@dataclasses.dataclass(frozen=True)
class ArcFace:
    """Hyper-parameters of `metric.arcface_loss`."""

    margin: float = knob(0.5, "Added to the angle, radians.", lower=0.0, upper=1.57)
    scale: float = knob(64.0, "Of the cosines.", lower=1e-3)


@dataclasses.dataclass(frozen=True)
class CosFace:
    """Hyper-parameters of `metric.cosface_loss`."""

    margin: float = knob(0.35, "Taken from the cosine.", lower=0.0, upper=2.0)
    scale: float = knob(64.0, "Of the cosines.", lower=1e-3)


@dataclasses.dataclass(frozen=True)
class ProxyNCA:
    """Hyper-parameters of `metric.proxy_nca_loss`."""

    temperature: float = knob(1 / 9, "Of the softmax over classes.", lower=1e-3)


@dataclasses.dataclass(frozen=True)
class ProxyAnchor:
    """Hyper-parameters of `metric.proxy_anchor_loss`."""

    margin: float = knob(
        0.1, "Cosine kept from the class vectors.", lower=-1.0, upper=1.0
    )
    alpha: float = knob(32.0, "Weighs hard items more.", lower=1e-3)
