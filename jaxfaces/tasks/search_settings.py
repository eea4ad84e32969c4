"""How a policy is searched for, by flag."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

import augment
from jaxfaces.engine.config import knob

ESTIMATORS = ("relax", "relax_linear", "reinforce", "gumbel", "official")
# Those whose gradient in the levels no flag chooses, and how they take it.
OWN_ORDER = {
    "relax_linear": "that of its value to first order",
    "official": "a finite difference",
}


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """A space of policies and a gradient in it; a task nests it to get its flags."""

    operations: tuple[str, ...] = knob(
        tuple(each.name for each in augment.OPERATIONS),
        "Operations by name; the sub-policies are all unordered pairs of them.",
    )
    initial_level: float = knob(
        0.5,
        "Strength that all begin with; at 0.5 most operations do nothing.",
        lower=0.0,
        upper=1.0,
    )
    random_start: int | None = knob(
        None,
        "Seed of uniform coins and levels to begin with, for comparison; none begins "
        "with fair coins at --initial_level.",
        lower=0,
    )
    estimator: str = knob(
        "relax",
        "Gradient in the choices: relax, with a learnt control variate; relax_linear, "
        "of a step's value to first order; reinforce; gumbel, biased; official, what "
        "DADA's released code computes.",
        choices=ESTIMATORS,
    )
    draws: int = knob(
        1,
        "Draws of the policy a step, each on the whole batch.",
        lower=1,
        upper=1024,
    )
    temperature: float = knob(
        0.5, "Of relaxed choices, τ; read by relax, relax_linear and gumbel."
    )
    temperature_end: float | None = knob(
        None,
        "What --temperature becomes, linearly, by the last step; none is no change. "
        "Read by relax, relax_linear and gumbel.",
    )
    policy_lr: float = knob(0.005, "Learning rate of the policy, by Adam.", lower=0.0)
    control_lr: float = knob(
        3e-4,
        "Learning rate of the control variate, by Adam; read by relax and "
        "relax_linear.",
        lower=0.0,
    )
    order: str = knob(
        "forward",
        "Gradient in the levels: exact by forward or by reverse mode, or a finite "
        "difference; relax_linear and official have one of their own.",
        choices=("forward", "reverse", "finite"),
    )
    level_gradient: str = knob(
        "straight_through",
        "How images depend on levels: straight_through, by 1 at every pixel, as DADA; "
        "smooth, as they do where operations are bilinear and unrounded.",
        choices=("straight_through", "smooth"),
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        for name, value in (
            ("temperature", self.temperature),
            ("temperature_end", self.temperature_end),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"--{name}={value} is not positive")
        if self.estimator in OWN_ORDER and self.order != "forward":
            raise ValueError(
                f"--order={self.order} says nothing to --estimator={self.estimator}, "
                f"whose gradient in the levels is always {OWN_ORDER[self.estimator]}: "
                "leave --order out"
            )
        if len(set(self.operations)) < len(self.operations):
            raise ValueError(f"--operations={','.join(self.operations)} repeats one")
        if len(self.operations) < 2:
            raise ValueError(
                f"--operations={','.join(self.operations)} makes no pair: name two or "
                "more"
            )
        try:
            [augment.operation(name) for name in self.operations]
        except ValueError as error:
            raise ValueError(f"--operations: {error}") from error

    def first_policy(self) -> augment.Policy:
        """All pairs of the operations, equally likely; coins fair and levels equal."""
        table = [augment.operation(name) for name in self.operations]
        first = augment.unsearched_policy(level=self.initial_level, table=table)
        if self.random_start is None:
            return first
        key, count = jax.random.key(self.random_start), len(first.logits)
        return augment.random_policy(key, count=count, table=table)

    def temperature_at(self, step: jax.Array, steps: int) -> float | jax.Array:
        """τ at a step of a run of `steps`."""
        if self.temperature_end is None:
            return self.temperature
        share = jnp.minimum(step / max(steps - 1, 1), 1)
        return self.temperature + share * (self.temperature_end - self.temperature)

    def optimizer(self) -> optax.GradientTransformation:
        """That of the policy."""
        return optax.adam(self.policy_lr, b1=0.5, b2=0.999)

    def control_optimizer(self) -> optax.GradientTransformation:
        """That of the control variate."""
        return optax.adam(self.control_lr)
