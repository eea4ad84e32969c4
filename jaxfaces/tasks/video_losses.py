"""What tracklets pay: classification and pairs, of frames and of whole tracklets."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import metric
from jaxfaces.engine.config import group, knob
from jaxfaces.models.branches import Supervised


@dataclasses.dataclass(frozen=True)
class OsmCaa:
    """Hyper-parameters of `metric.osm_caa_loss`, its defaults those of the release."""

    alpha: float = knob(
        1.2, "Distance that negatives are pushed beyond.", lower=0.0, upper=2.0
    )
    sigma: float = knob(1.0, "Width of the positive score.", lower=1e-3)
    sigma_convention: str = knob(
        "normal",
        "exp(-d²/2σ²), or the paper's exp(-d²/σ²).",
        choices=("normal", "paper"),
    )
    balance: float = knob(0.5, "Share of the negatives.", lower=0.0, upper=1.0)
    mining: str = knob("soft", "Scores of pairs.", choices=("soft", "none"))
    attention: str = knob(
        "gauss", "Trust in an item of a pair.", choices=("gauss", "prob", "none")
    )
    attention_width: float = knob(0.68, "Of attention=gauss.", lower=1e-3)
    pair: str = knob("min", "Of the two of a pair.", choices=("min", "product"))
    gradient: str = knob(
        "weights_const", "What is differentiated.", choices=("weights_const", "full")
    )


@dataclasses.dataclass(frozen=True)
class VideoLosses:
    """Six losses of weight 1; a task nests it to get its flags."""

    osm_caa: OsmCaa = group(OsmCaa())
    confidence_mean: float = knob(
        0.5, "Confidence that classification heeds most.", lower=0.0, upper=1.0
    )
    confidence_sigma: float = knob(0.18, "How far around it.", lower=1e-3)
    frame_attention: str = knob(
        "gauss",
        "What frames weigh in their tracklet; none is the same.",
        choices=("gauss", "prob", "none"),
    )

    def of(
        self,
        frames: Supervised,
        classify: Callable[[jax.Array], jax.Array],
        labels: jax.Array,
        valid: jax.Array,
        *,
        frames_per_tracklet: int,
    ) -> dict[str, jax.Array]:
        """The losses by name, to be added up (Wang et al. 2019, released code).

        Args:
          frames: what the network gives for B frames, those of a tracklet side by side.
          classify: the tracklets' own classifier, (T, D) to (T, C).
          labels: (B,) people, 0 … C - 1.
          valid: (B,) booleans, False for padding rows.
          frames_per_tracklet: must divide B.

        Returns:
          Scalars: of the three classifiers of frames and of that of tracklets, and of
          the pairs of tracklets and of frames.
        """
        each = frames_per_tracklet
        number = len(labels) // each
        groups = jnp.arange(len(labels)) // each
        attention = self._attention(frames, labels, valid)
        tracklets = metric.attention_pool(
            frames.embedding, attention, groups, number=number, valid=valid
        )
        people = jnp.max(jnp.where(valid, labels, 0).reshape(number, each), axis=1)
        there = jnp.any(valid.reshape(number, each), axis=1)
        logits = classify(tracklets)
        confidence = functools.partial(
            metric.confidence_weighted_cross_entropy,
            mean=self.confidence_mean,
            sigma=self.confidence_sigma,
        )
        pairs: Any = functools.partial(
            metric.osm_caa_loss, **dataclasses.asdict(self.osm_caa)
        )
        levels = zip(("low", "middle", "high"), frames.logits)
        return {
            **{
                f"classify_{level}": confidence(scores, labels, valid=valid)
                for level, scores in levels
            },
            "classify_tracklets": confidence(logits, people, valid=there),
            "tracklets": pairs(tracklets, people, logits=logits, valid=there),
            "frames": pairs(
                frames.embedding, labels, logits=frames.logits[-1], valid=valid
            ),
        }

    def _attention(
        self, frames: Supervised, labels: jax.Array, valid: jax.Array
    ) -> jax.Array:
        """What each frame weighs, (B,), by the last classifier's trust in its label."""
        if self.frame_attention == "none":
            return jnp.ones(len(labels))
        return metric.class_aware_attention(
            frames.embedding,
            labels,
            logits=frames.logits[-1],
            attention=self.frame_attention,  # type: ignore[arg-type]
            attention_width=self.osm_caa.attention_width,
            valid=valid,
        )
