"""Optimisers and schedules by flag, on optax."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxfaces.engine.config import knob


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimiser with its schedule; a task nests it to get its flags."""

    optimizer: str = knob("adam", "Update rule.", choices=("sgd", "adam", "adamw"))
    lr: float = knob(1e-3, "Peak learning rate.", lower=0.0)
    momentum: float = knob(0.9, "Momentum of sgd.", lower=0.0, upper=1.0)
    nesterov: bool = knob(False, "Nesterov's form of momentum.")
    weight_decay: float = knob(
        0.0, "On weights, not biases or norms; decoupled for adamw, else L2.", lower=0.0
    )
    schedule: str = knob(
        "constant", "After the warm-up.", choices=("constant", "cosine", "steps")
    )
    lr_end: float = knob(
        0.0,
        "Where schedule=cosine ends, as a share of --lr.",
        lower=0.0,
        upper=1.0,
    )
    warmup_steps: int = knob(0, "Steps of linear warm-up.", lower=0)
    warmup_start: float = knob(
        0.0, "Where it starts, as a share of --lr.", lower=0.0, upper=1.0
    )
    milestones: tuple[int, ...] = knob(
        (),
        "Steps at which schedule=steps multiplies the rate by --decay, each as often "
        "as it is named.",
        lower=1,
    )
    decay: float = knob(0.5, "Factor at each milestone.", lower=0.0, upper=1.0)
    clip_norm: float = knob(
        0.0, "Longest gradient (global norm); 0 leaves it as it is.", lower=0.0
    )
    average: float = knob(
        0.0, "Decay of averaged parameters for evaluation; 0 is none.", lower=0, upper=1
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"--milestones must not fall, got {self.milestones}")

    def rate(self, steps: int) -> optax.Schedule:
        """The learning rate as a function of the step, over a run of `steps`."""
        after = max(steps - self.warmup_steps, 1)
        if self.schedule == "cosine":
            main = optax.cosine_decay_schedule(self.lr, after, self.lr_end)
        elif self.schedule == "steps":
            # Milestones are counted from the run's start, the schedule from its own.
            scales = {
                m - self.warmup_steps: self.decay ** self.milestones.count(m)
                for m in self.milestones
            }
            main = optax.piecewise_constant_schedule(self.lr, scales)
        else:
            main = optax.constant_schedule(self.lr)
        if not self.warmup_steps:
            return main
        if self.warmup_start:
            start, length = self.warmup_start, self.warmup_steps
        else:  # the first step of n has rate lr / n: a rate of 0 would waste it
            start, length = 1 / self.warmup_steps, max(self.warmup_steps - 1, 1)
        warmup = optax.linear_schedule(start * self.lr, self.lr, length)
        return optax.join_schedules([warmup, main], [self.warmup_steps])

    def make(
        self, steps: int, multiplier: Callable[[tuple], float] | None = None
    ) -> optax.GradientTransformation:
        """The optax transformation.

        Args:
          steps: length of the schedule.
          multiplier: maps the path of a parameter (a tuple of key entries as in
            `jax.tree_util.tree_map_with_path`) to a factor on its learning rate.
        """
        rate = self.rate(steps)
        chain = []
        if self.clip_norm:
            chain.append(optax.clip_by_global_norm(self.clip_norm))
        if self.weight_decay and self.optimizer != "adamw":
            chain.append(optax.add_decayed_weights(self.weight_decay, weights))
        if self.optimizer == "sgd":
            chain.append(optax.sgd(rate, self.momentum or None, self.nesterov))
        elif self.optimizer == "adam":
            chain.append(optax.adam(rate))
        else:
            chain.append(
                optax.adamw(rate, weight_decay=self.weight_decay, mask=weights)
            )
        if multiplier is not None:
            chain.append(_scale_by_path(multiplier))
        return optax.chain(*chain)


def weights(params: Any) -> Any:
    """Mask that is True for matrices and kernels, False for biases and norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _scale_by_path(
    multiplier: Callable[[tuple], float],
) -> optax.GradientTransformation:
    def scale(updates: Any, _: Any = None) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, update: update * multiplier(path), updates
        )

    return optax.stateless(scale)


def averaged(average: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """One step of an exponential moving average, quicker at first.

    The decay at step t is min(decay, (1 + t) / (10 + t)), so that the first parameters
    are forgotten early (the warm-up of tf.train.ExponentialMovingAverage).

    Args:
      average: pytree of the averages so far.
      new: pytree of the same structure.
      decay: weight of the past in the long run, in [0, 1].
      step: scalar, number of updates so far.
    """
    t = step.astype("float32")
    keep = jax.numpy.minimum(decay, (1 + t) / (10 + t))

    def mix(old: jax.Array, latest: jax.Array) -> jax.Array:
        if not jax.numpy.issubdtype(latest.dtype, jax.numpy.floating):
            return latest  # a counter has no mean
        return (keep * old + (1 - keep) * latest).astype(latest.dtype)

    return jax.tree.map(mix, average, new)
