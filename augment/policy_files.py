"""Policies as JSON files that a person can read and edit."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from augment import image_ops
from augment.image_ops import Operation
from augment.policy import Policy, make_policy

FORMAT, VERSION = "augment policy", 1


def save_policy(policy: Policy, path: str | Path) -> None:
    """Writes a policy as JSON: see `policy_text`.

    Args:
      policy: what to write; its numbers must be finite.
      path: file to write.

    Raises:
      ValueError: a number is not finite, or an operation of one's own has the name of
        another one of this package.
    """
    Path(path).write_text(policy_text(policy), encoding="utf-8")


def policy_text(policy: Policy, *, best: int = 0) -> str:
    """A policy as JSON, every number such that it reads back exactly.

    Probabilities and levels outside [0, 1], which a search may hold, are written as
    the 0 or 1 as which they act.

    Args:
      policy: what to write; its numbers must be finite.
      best: how many of its likeliest sub-policies to repeat first, in words for a
        human reader; reading passes over them.

    Returns:
      The text of a file that `load_policy` reads.

    Raises:
      ValueError: as in `save_policy`.
    """
    for leaf in jax.tree.leaves(policy):
        if not np.isfinite(leaf).all():
            raise ValueError("a policy with numbers that are not finite is not saved")
    probabilities = np.clip(policy.probabilities, 0, 1)
    levels = np.clip(policy.levels, 0, 1)
    sub_policies = []
    for row, logit in enumerate(np.asarray(policy.logits)):
        steps = [
            {
                "operation": policy.table[int(policy.operations[row, step])].name,
                "probability": _short(probabilities[row, step]),
                "level": _short(levels[row, step]),
            }
            for step in range(levels.shape[1])
        ]
        sub_policies.append({"logit": _short(logit), "steps": steps})
    ranges = {
        each.name: {
            "low": each.low,
            "high": each.high,
            "mirror": each.mirror,
            "function": _function_name(each),
        }
        for each in policy.table
    }
    text: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    if best:
        text["best"] = _in_words(policy, best)
    text |= {"operations": ranges, "sub_policies": sub_policies}
    return json.dumps(text, indent=1) + "\n"


def load_policy(path: str | Path, *, operations: Iterable[Operation] = ()) -> Policy:
    """Reads a policy that `save_policy` wrote.

    Args:
      path: file to read.
      operations: operations of one's own that the file may name; those of this package
        are known. Ranges are taken from the file.

    Returns:
      The policy.

    Raises:
      ValueError: the file is not a policy, of another version, names an operation that
        is not known, or holds a number outside its range; the message says which.
    """
    known = {
        each.name: each
        for each in (*image_ops.OPERATIONS, *image_ops.EXTRA_OPERATIONS, *operations)
    }
    try:
        text = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"{path} is not a policy: its format is not {FORMAT!r}")
    if text.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {text.get('version')!r}, this package reads "
            f"{VERSION}: use the jaxfaces that wrote it, or a newer one"
        )
    try:
        table = tuple(
            _operation(name, about, known) for name, about in text["operations"].items()
        )
        rows = [
            [(s["operation"], s["probability"], s["level"]) for s in row["steps"]]
            for row in text["sub_policies"]
        ]
        logits = np.array([float(row["logit"]) for row in text["sub_policies"]])
        policy = make_policy(rows, table=table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks or garbles an entry: {error!r}") from error
    if not np.isfinite(logits).all():
        raise ValueError(f"{path}: logits must be finite")
    return Policy(
        operations=policy.operations,
        probabilities=policy.probabilities,
        levels=policy.levels,
        logits=jnp.asarray(logits, jnp.float32),
        table=table,
    )


def best_sub_policies(policy: Policy, *, count: int = 25) -> Policy:
    """What a search found: its likeliest sub-policies, from now on equally likely.

    Args:
      policy: the whole distribution; probabilities and levels may lie outside [0, 1].
      count: how many to keep, >= 1; all where there are fewer. A smaller count gives
        a prefix of a larger one.

    Returns:
      The policy, its rows by falling weight, probabilities and levels in [0, 1].

    Raises:
      ValueError: `count` is below 1.

    Source: Li et al. 2020 (DADA), official code, which keeps 25.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    rows = _likeliest(policy, count)
    return Policy(
        operations=policy.operations[rows],
        probabilities=jnp.clip(policy.probabilities[rows], 0, 1),
        levels=jnp.clip(policy.levels[rows], 0, 1),
        logits=jnp.zeros(len(rows)),
        table=policy.table,
    )


def _likeliest(policy: Policy, count: int) -> jax.Array:
    return jnp.argsort(-policy.logits, stable=True)[:count]


def _in_words(policy: Policy, count: int) -> list[str]:
    """Lines of `weight: operation probability @ level, …`, the likeliest first."""
    weights = np.asarray(jax.nn.softmax(policy.logits))
    found = best_sub_policies(policy, count=count)
    lines = []
    for row, place in enumerate(np.asarray(_likeliest(policy, count))):
        steps = zip(found.operations[row], found.probabilities[row], found.levels[row])
        said = [f"{policy.table[int(o)].name} {p:.2f} @ {m:.2f}" for o, p, m in steps]
        lines.append(f"{weights[place]:.4f}: {', '.join(said)}")
    return lines


def _function_name(each: Operation) -> str:
    """The operation of this package whose functions these are, or its own name."""
    package = (*image_ops.OPERATIONS, *image_ops.EXTRA_OPERATIONS)
    for known in package:
        if known.reference is each.reference:
            return known.name
    if each.name in {known.name for known in package}:
        raise ValueError(
            f"operation {each.name!r} is not the one of this package, but would be "
            "read as that one: give it another name"
        )
    return each.name


def _operation(name: str, about: dict, known: dict[str, Operation]) -> Operation:
    function = about["function"]
    if function not in known:
        raise ValueError(
            f"unknown operation {function!r}; there are {', '.join(known)}. One of "
            "your own is read by augment.load_policy(path, operations=[…]) alone"
        )
    numbers = [about["low"], about["high"]]
    numbers += [] if about["mirror"] is None else [about["mirror"]]
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"the range of {name} must be finite numbers, got {numbers}")
    functions = known[function]
    ends = about["low"], about["high"], about["mirror"]
    return Operation(name, *ends, functions.reference, functions.smooth)


def _short(number: Any) -> float:
    """The shortest decimal that reads back as the same float32."""
    return float(str(np.float32(number)))
