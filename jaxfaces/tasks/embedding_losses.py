"""What is minimised over embeddings: a loss, its pairs, a memory and a classifier."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import metric
from jaxfaces.engine.config import group, knob
from jaxfaces.tasks import loss_settings

_PAIRS = {
    "contrastive": "contrastive_loss",
    "lifted_structure": "lifted_structure_loss",
    "margin": "margin_loss",
    "multi_similarity": "multi_similarity_loss",
    "n_pair": "n_pair_loss",
    "ranked_list": "ranked_list_loss",
    "supcon": "supcon_loss",
    "triplet": "triplet_loss",
}
_CLASSES = {
    "arcface": "arcface_loss",
    "cosface": "cosface_loss",
    "normalized_softmax": "normalized_softmax_loss",
    "proxy_anchor": "proxy_anchor_loss",
    "proxy_nca": "proxy_nca_loss",
}
_MINERS = {
    "distance_weighted": "distance_weighted_pairs",
    "hard": "hard_pairs",
    "multi_similarity": "multi_similarity_pairs",
    "semi_hard": "semi_hard_pairs",
}


@dataclasses.dataclass(frozen=True)
class EmbeddingLoss:
    """A loss over the embeddings of a batch, and what goes with it.

    Its value is loss(embeddings) + classification_weight * classification(logits), for
    every branch of the network; logits are a linear classifier's of raw embeddings.
    """

    loss: str = knob(
        "ranked_list",
        "Loss over embeddings.",
        choices=("none", "osm_caa", *sorted(_PAIRS | _CLASSES)),
    )
    miner: str = knob(
        "none", "Chooses the pairs of a loss over pairs.", choices=("none", *_MINERS)
    )
    memory: int = knob(
        0, "Embeddings of the last batches to compare with too.", lower=0
    )
    classification: str = knob(
        "none",
        "A classifier's loss beside it; osm_caa's attention needs one.",
        choices=("none", "cross_entropy", "confidence_weighted"),
    )
    classification_weight: float = knob(1.0, "Of the classifier's loss.", lower=0.0)
    attention_of: str = knob(
        "context_vectors",
        "What osm_caa's attention looks at: unit embeddings before the classifier's "
        "rows, or its logits.",
        choices=("context_vectors", "logits"),
    )
    contrastive: loss_settings.Contrastive = group(loss_settings.Contrastive())
    triplet: loss_settings.Triplet = group(loss_settings.Triplet())
    margin: loss_settings.Margin = group(loss_settings.Margin())
    n_pair: loss_settings.NPair = group(loss_settings.NPair())
    lifted_structure: loss_settings.LiftedStructure = group(
        loss_settings.LiftedStructure()
    )
    multi_similarity: loss_settings.MultiSimilarity = group(
        loss_settings.MultiSimilarity()
    )
    supcon: loss_settings.SupCon = group(loss_settings.SupCon())
    ranked_list: loss_settings.RankedList = group(loss_settings.RankedList())
    osm_caa: loss_settings.SoftMining = group(loss_settings.SoftMining())
    normalized_softmax: loss_settings.NormalizedSoftmax = group(
        loss_settings.NormalizedSoftmax()
    )
    arcface: loss_settings.ArcFace = group(loss_settings.ArcFace())
    cosface: loss_settings.CosFace = group(loss_settings.CosFace())
    proxy_nca: loss_settings.ProxyNCA = group(loss_settings.ProxyNCA())
    proxy_anchor: loss_settings.ProxyAnchor = group(loss_settings.ProxyAnchor())

    def __post_init__(self) -> None:
        """Checks what goes together."""
        over_pairs = self.loss in _PAIRS
        if self.miner != "none" and not over_pairs:
            raise ValueError(f"--miner chooses pairs; --loss={self.loss} has none")
        if self.memory and not over_pairs:
            raise ValueError(f"--memory does not go with --loss={self.loss}")
        needs = self._attends or self.loss == "none"
        if self.classification == "none" and needs:
            raise ValueError(
                f"--loss={self.loss} needs --classification=cross_entropy or "
                "confidence_weighted"
            )

    @property
    def _attends(self) -> bool:
        return self.loss == "osm_caa" and self.osm_caa.attention != "none"

    def check_supervised(self) -> None:
        """Raises ValueError unless it suits a network with classifiers of its own."""
        if self.classification == "none":
            raise ValueError(
                "--supervised needs --classification=cross_entropy or "
                "confidence_weighted"
            )
        if self._attends and self.attention_of != "logits":
            raise ValueError("--supervised needs --attention_of=logits")

    def init(
        self, key: jax.Array, classes: int, sizes: Mapping[str, int], supervised: bool
    ) -> dict[str, Any]:
        """Class vectors and classifiers, {} where none are needed.

        Args:
          key: for their first values.
          classes: how many classes.
          sizes: dimensions of the embedding by branch.
          supervised: the network has classifiers of its own.
        """
        params: dict[str, Any] = {}
        first, second = jax.random.split(key)
        if self.loss in _CLASSES:
            params["class_vectors"] = _matrices(first, classes, sizes)
        if self.classification != "none" and not supervised:
            params["classifier"] = {
                name: {"kernel": kernel, "bias": jnp.zeros(classes)}
                for name, kernel in _matrices(second, classes, sizes).items()
            }
        return params

    def remember(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Empty memories by branch as dictionaries, {} where none are wanted."""
        if not self.memory:
            return {}
        return {
            name: metric.empty_memory(self.memory, size)._asdict()
            for name, size in sizes.items()
        }

    def __call__(
        self,
        params: Mapping[str, Any],
        memory: Mapping[str, Any],
        embeddings: Mapping[str, jax.Array],
        rows: Mapping[str, jax.Array],
        key: jax.Array,
        logits: Sequence[jax.Array] | None = None,
    ) -> tuple[jax.Array, dict[str, Any], dict[str, Any]]:
        """The value, the memories after it, and metrics as (sum, count).

        Args:
          params: what `init` gave, trained since.
          memory: what `remember` gave, or the last call.
          embeddings: (B, D) raw embeddings by branch.
          rows: "label" (B,) and "valid" (B,).
          key: for miners that draw.
          logits: (B, C) each, of a network with classifiers of its own, which all pay;
            the last one's are what attention looks at and what accuracy is of.
        """
        total = jnp.zeros(())
        after: dict[str, Any] = {}
        metrics: dict[str, tuple[Any, Any]] = {}
        for name, x in embeddings.items():
            suffix = f"_{name}" if len(embeddings) > 1 else ""
            refs: dict[str, Any] = {}
            if self.memory:
                new, place = metric.enqueue(
                    metric.Memory(**memory[name]), x, rows["label"], rows["valid"]
                )
                refs = dict(metric.references(new, place))
                after[name] = new._asdict()
            scores = logits or self._scores(params, name, x)
            for each in scores:
                value, correct = self._classified(each, rows)
                total += self.classification_weight * value
                metrics[f"accuracy{suffix}"] = correct
            if self.loss != "none":
                value = self._embedded(params, name, x, scores, rows, key, refs)
                total += value
                if scores or suffix:  # else it is all of it
                    metrics[f"{self.loss}{suffix}"] = (value, 1)
        return total, after, {"loss": (total, 1), **metrics}

    def _scores(
        self, params: Mapping[str, Any], branch: str, x: jax.Array
    ) -> list[jax.Array]:
        """Logits of the branch's own classifier, none where there is none."""
        if self.classification == "none":
            return []
        classifier = params["classifier"][branch]
        return [x @ classifier["kernel"].T + classifier["bias"][None]]

    def _embedded(
        self,
        params: Mapping[str, Any],
        branch: str,
        x: jax.Array,
        scores: Sequence[jax.Array],
        rows: Mapping[str, jax.Array],
        key: jax.Array,
        refs: dict[str, Any],
    ) -> jax.Array:
        settings = dataclasses.asdict(getattr(self, self.loss))
        labels, valid = rows["label"], rows["valid"]
        if self.loss in _CLASSES:
            loss = getattr(metric, _CLASSES[self.loss])
            vectors = params["class_vectors"][branch]
            return loss(x, labels, vectors, valid=valid, **settings)
        if self.loss == "osm_caa":
            if self._attends and self.attention_of == "logits":
                settings["logits"] = scores[-1]
            elif self._attends:
                settings["context_vectors"] = params["classifier"][branch]["kernel"]
            return metric.osm_caa_loss(x, labels, valid=valid, **settings)
        if settings.pop("simpler", False):
            settings["alpha"] = None
        given = {"valid": valid, **refs}
        if self.miner != "none":
            mine = getattr(metric, _MINERS[self.miner])
            if self.miner == "distance_weighted":
                mine = functools.partial(mine, key)
            given["pairs"] = mine(x, labels, **given)
        return getattr(metric, _PAIRS[self.loss])(x, labels, **settings, **given)

    def _classified(
        self, logits: jax.Array, rows: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """The classifier's loss, and how many rows it gets right of how many."""
        labels, valid = rows["label"], rows["valid"]
        number = jnp.sum(valid)
        hits = jnp.sum((jnp.argmax(logits, axis=1) == labels) & valid)
        if self.classification == "confidence_weighted":
            loss = metric.confidence_weighted_cross_entropy
            return loss(logits, labels, valid=valid), (hits, number)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        value = jnp.sum(jnp.where(valid, nll, 0)) / jnp.maximum(number, 1)
        return value, (hits, number)


def _matrices(
    key: jax.Array, classes: int, sizes: Mapping[str, int]
) -> dict[str, jax.Array]:
    """Random (classes, D) matrices by branch, rows about 1 long."""
    keys = jax.random.split(key, len(sizes))
    return {
        name: jax.random.normal(each, (classes, size)) / size**0.5
        for each, (name, size) in zip(keys, sorted(sizes.items()))
    }
