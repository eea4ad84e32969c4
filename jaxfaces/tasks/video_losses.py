"""What tracklets pay: classification and pairs, of frames and of whole tracklets."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

import metric
from jaxfaces.engine.config import group, knob
from jaxfaces.models.branches import Supervised
from jaxfaces.tasks.loss_settings import SoftMining


@dataclasses.dataclass(frozen=True)
class VideoLosses:
    """Six losses of weight 1; a task nests it to get its flags."""

    osm_caa: SoftMining = group(
        SoftMining(sigma=1.0, sigma_convention="normal", attention="gauss")
    )
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
        pairs: Callable[..., jax.Array] = functools.partial(
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
