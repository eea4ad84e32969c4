"""What a searched policy does, in numbers and pictures."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import augment
from jaxfaces.imaging import figures, policy_figures
from jaxfaces.tasks import search_state
from jaxfaces.tasks.search_settings import SearchSettings
from jaxfaces.tasks.search_state import Policy, Search

COLLAPSED = 0.01  # share of the greatest entropy below which little is left to choose
IDLE = 0.01  # mean chance of a coin below which hardly anything is applied
IMAGES, COPIES = 8, 5  # on the sheet of samples
# What can be planted, as measures: operation, name, and which of its numbers.
WATCHED = (
    ("Rotate", "share", "applied"),
    ("Rotate", "strength", "strength"),
    ("Rotate", "rank", "rank"),
    ("Invert", "share", "applied"),
    ("Invert", "rank", "rank"),
)


def by_operation(settings: SearchSettings, policy: Policy) -> dict[str, np.ndarray]:
    """How operations are used, averaged over draws of the policy.

    Args:
      settings: which have the operations, O of them.
      policy: logits (..., S), probabilities and levels (..., S, 2).

    Returns:
      Arrays (..., O): `applied`, times an image; `strength`, the same with each time
      weighed by |2 level - 1|, how far it is from doing nothing where the sign is
      random; `probability` and `level`, means over draws of the operation.
    """
    rows = np.asarray(settings.first_policy().operations)
    one_hot = np.eye(len(settings.operations))[rows]  # (S, 2, O)
    weights = np.asarray(jax.nn.softmax(policy["logits"]))
    chances, levels = (
        np.clip(policy[name], 0, 1) for name in ("probabilities", "levels")
    )

    def total(values: Any) -> np.ndarray:
        return np.einsum("...s,...si,sio->...o", weights, values, one_hot)

    drawn = total(np.ones_like(chances))
    drawn = np.maximum(drawn, np.finfo(np.float32).tiny)
    return {
        "applied": total(chances),
        "strength": total(chances * abs(2 * levels - 1)),
        "probability": total(chances) / drawn,
        "level": total(levels) / drawn,
    }


def measures(settings: SearchSettings, policy: Policy) -> dict[str, float]:
    """Entropy; how often Rotate and Invert are applied, how strongly Rotate.

    A rank is that of the operation by how often it is applied: 1 is the most.
    """
    found = {"entropy": float(search_state.entropy(policy["logits"]))}
    used = by_operation(settings, policy)
    used["rank"] = stats.rankdata(-used["applied"])
    for name, kind, of in WATCHED:
        if name in settings.operations:
            row = settings.operations.index(name)
            found[f"{name.lower()}_{kind}"] = float(used[of][row])
    return found


def of_step(
    settings: SearchSettings, before: Policy, after: Policy
) -> dict[str, tuple[jax.Array, int]]:
    """Metrics of the policies before and after a step, as pairs (sum, count).

    Only the norm is of the policy after it, so that this one is not finite alone where
    the policy's own step went wrong.
    """
    change = jnp.abs(before["levels"] - settings.initial_level)
    return {
        "policy_norm": (optax.tree.norm(after), 1),
        "entropy": (search_state.entropy(before["logits"]), 1),
        "probability": (jnp.mean(before["probabilities"]), 1),
        "level_change": (jnp.mean(change), 1),
    }


def remarks(policy: Policy) -> list[str]:
    """Says so where there is hardly anything left to choose, or to apply.

    Args:
      policy: logits (S,), probabilities (S, 2).
    """
    found = []
    most = float(np.log(len(policy["logits"])))
    # Two operations make one pair, of which there is nothing to choose.
    if most and search_state.entropy(policy["logits"]) < COLLAPSED * most:
        found.append(
            "the search has collapsed: the entropy of its sub-policies is below 1 % of "
            "the greatest, so that hardly another is drawn. Try a lower --policy_lr or "
            "more --draws"
        )
    weights = np.asarray(jax.nn.softmax(policy["logits"]))
    if weights @ np.clip(policy["probabilities"], 0, 1).mean(axis=1) < IDLE:
        found.append(
            "the policy hardly ever applies an operation: its coins are below 1 % on "
            "average. Where no operation helps that is what the search found; else try "
            "a lower --policy_lr, more --draws or another --initial_level"
        )
    return found


def charts(
    settings: SearchSettings, search: Search, done: int, steps: int
) -> Mapping[str, Any]:
    """How the policy changed in the steps done, and what each operation got."""
    snapshots = len(search.history["logits"])
    filled = min((done - 1) * snapshots // steps, snapshots - 1) + 1
    first = search_state.first_arrays(settings)
    shown: Any = {
        name: np.concatenate([np.asarray(first[name])[None], past[:filled]])
        for name, past in jax.device_get(search.history).items()
    }
    # A snapshot is the policy after the last step of its share of the run.
    ends = -(-np.arange(filled + 1) * steps // snapshots)
    ends[-1] = done
    used = by_operation(settings, shown)
    weights = np.asarray(jax.nn.softmax(shown["logits"]))
    pairs = [
        " + ".join(settings.operations[row] for row in rows)
        for rows in np.asarray(settings.first_policy().operations)
    ]
    followed = [
        ("weights of sub-policies", dict(zip(pairs, weights.T))),
        *(
            (title, dict(zip(settings.operations, used[name].T)))
            for title, name in (
                ("mean probability of operations", "probability"),
                ("mean level of operations", "level"),
            )
        ),
    ]
    return {
        "policy": policy_figures.policy_over_time(
            ends,
            np.asarray(search_state.entropy(shown["logits"])),
            float(np.log(len(pairs))),
            followed,
        ),
        "operations": policy_figures.operation_weights(
            settings.operations,
            used["applied"][-1],
            used["applied"][0],
            used["level"][-1],
        ),
    }


def samples(policy: augment.Policy, images: np.ndarray) -> Any:
    """Images, each beside what draws of a policy make of it.

    Args:
      policy: what to draw from.
      images: (N, H, W, C) uint8.
    """
    apply = jax.jit(augment.apply, static_argnames="grouping")
    changed = [
        np.asarray(apply(policy, key, images, grouping=len(images)))
        for key in jax.random.split(jax.random.key(0), COPIES)
    ]
    cells = np.stack([images, *changed], axis=1)
    captions = ["image", *["by the policy"] * COPIES] * len(images)
    flat = cells.reshape(-1, *cells.shape[2:])
    return figures.picture_grid(flat, captions, columns=COPIES + 1)
