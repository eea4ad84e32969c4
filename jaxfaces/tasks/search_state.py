"""What a search learns beside the weights of the network, and remembers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

import augment
from jaxfaces.tasks.search_settings import SearchSettings

KEEP = 0.9  # of the running mean and variances of f, a step

Policy = Mapping[str, jax.Array]  # logits (S,), probabilities (S, 2), levels (S, 2)


class Search(struct.PyTreeNode):
    """What a search learns beside the weights of the network.

    Attributes:
      policy: logits (S,), probabilities (S, 2), levels (S, 2).
      opt: state of its optimiser.
      control: parameters of the control variate.
      control_opt: state of its optimiser.
      mean: () running mean of f.
      square: () running mean of (f - mean)².
      own: () running variance of f between the draws of a step, 0 where there is one.
      history: the policy at equally spaced steps, a leading axis of snapshots.
    """

    policy: Any
    opt: Any
    control: Any
    control_opt: Any
    mean: jax.Array
    square: jax.Array
    own: jax.Array
    history: Any


def first_arrays(settings: SearchSettings) -> dict[str, jax.Array]:
    """The policy that a search begins with, as arrays."""
    first = settings.first_policy()
    return {
        "logits": first.logits,
        "probabilities": first.probabilities,
        "levels": first.levels,
    }


def first_search(settings: SearchSettings, key: jax.Array, snapshots: int) -> Search:
    """The search before any step, with room for so many snapshots."""
    policy = first_arrays(settings)
    control = augment.init_control_variate(key, *policy["levels"].shape)
    return Search(
        policy=policy,
        opt=settings.optimizer().init(policy),
        control=control,
        control_opt=settings.control_optimizer().init(control),
        mean=jnp.zeros(()),
        square=jnp.zeros(()),
        own=jnp.zeros(()),
        history=jax.tree.map(lambda x: jnp.repeat(x[None], snapshots, axis=0), policy),
    )


def as_policy(settings: SearchSettings, arrays: Policy) -> augment.Policy:
    """The policy with these logits, probabilities and levels."""
    first: Any = settings.first_policy()
    return dataclasses.replace(first, **arrays)


def remembered(
    search: Search, values: jax.Array, step: jax.Array, steps: int
) -> Search:
    """The search with f's running mean and variances, and a snapshot of its policy."""
    # The plain mean at first, so that no start has to be forgotten.
    keep = jnp.minimum(KEEP, step / (step + 1))
    off = jnp.mean(jnp.square(values - search.mean))
    own = jnp.var(values, ddof=1) if len(values) > 1 else 0.0
    snapshots = len(search.history["logits"])
    slot = jnp.minimum(step * snapshots // steps, snapshots - 1)
    return search.replace(
        mean=keep * search.mean + (1 - keep) * jnp.mean(values),
        square=keep * search.square + (1 - keep) * off,
        own=keep * search.own + (1 - keep) * own,
        history=jax.tree.map(
            lambda past, now: past.at[slot].set(now), search.history, search.policy
        ),
    )


def entropy(logits: Any) -> Any:
    """Entropy of the choice of a sub-policy in nats, along the last axis."""
    log_p = jax.nn.log_softmax(logits)
    # The absolute value, since nothing to choose from would be -0.
    return jnp.abs(jnp.sum(jnp.exp(log_p) * log_p, axis=-1))
