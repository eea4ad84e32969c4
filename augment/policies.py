"""Policies from the literature, and those that a search has to beat.

All are applied after crop and flip, to uint8 images.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from augment import policy_tables
from augment.image_ops import OPERATIONS, Operation, operation
from augment.policy import Policy, make_policy

BINS = 31  # strengths of RandAugment and TrivialAugment, 0 to 30


def auto_augment(dataset: str) -> Policy:
    """The policy that AutoAugment found, 25 pairs of operations.

    Args:
      dataset: `"cifar10"`, `"svhn"` or `"imagenet"`.

    Returns:
      The policy.

    Raises:
      ValueError: no policy of that name is known.

    Source: Cubuk et al. 2019 (AutoAugment), the tables of its appendix; ten levels, a
    random sign for blends too, the ranges of torchvision 0.11.
    Differs: from torchvision in that a shift is rounded to pixels, not truncated.
    """
    text = _named(policy_tables.AUTO_AUGMENT, dataset)
    pairs = [[(name, p, m / 9) for name, p, m in steps] for steps in _parsed(text)]
    names = {name for steps in pairs for name, _, _ in steps}
    return make_policy(pairs, table=_shares_of_the_image(names))


def dada(dataset: str) -> Policy:
    """The policy that DADA found, 25 pairs of operations, equally likely.

    Args:
      dataset: `"cifar10"`, `"cifar100"`, `"svhn"` or `"imagenet"`.

    Returns:
      The policy.

    Raises:
      ValueError: no policy of that name is known.

    Source: Li et al. 2020 (DADA), published by its authors with two decimals.
    """
    return make_policy(_parsed(_named(policy_tables.DADA, dataset)))


def rand_augment(*, count: int = 2, magnitude: int = 9) -> Policy:
    """Operations drawn uniformly, all at the same strength.

    Args:
      count: N, operations an image, one after another; >= 1. The policy has 14^N
        sub-policies, so that more than 4 take memory.
      magnitude: M, strength from 0 to 30.

    Returns:
      The policy.

    Raises:
      ValueError: `count` or `magnitude` is outside its range.

    Source: Cubuk et al. 2020 (RandAugment), the 14 operations and ranges of
    torchvision 0.11, blends with a random sign.
    Differs: from torchvision in that a shift is rounded to pixels, not truncated.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 0 <= magnitude < BINS:
        raise ValueError(f"magnitude must lie in 0 … {BINS - 1}, got {magnitude}")
    table = _shares_of_the_image(_fourteen())
    level = magnitude / (BINS - 1)
    steps = [(each.name, 1.0, level) for each in table]
    return make_policy(list(itertools.product(steps, repeat=count)), table=table)


def trivial_augment(*, wide: bool = True) -> Policy:
    """One operation an image, it and its strength uniform: no parameter at all.

    Args:
      wide: the wide ranges (shear 0.99, shift 32 pixels, 135 degrees, 2 bits), which
        its authors advise except for small networks (WRN-40-2); else the standard
        ones (0.3, 10 pixels, 30 degrees, 4 bits).

    Returns:
      The policy: 14 operations times 31 strengths.

    Source: Müller and Hutter 2021 (TrivialAugment), ranges and roundings of its
    official code (`wide_standard`, `fixed_standard`): whole pixels, degrees, thresholds
    and bits; blends without a random sign.
    """
    shear, shift, turn, bits = (0.99, 32, 135, 6) if wide else (0.3, 10, 30, 4)
    blend = (0.01, 2.0, None) if wide else (0.1, 1.9, None)
    table = _table(
        _fourteen(),
        Shear=(0, shear, 0),
        Translate=(0, shift, 0),
        Rotate=(0, turn, 0),
        Solarize=(256, 0, None),
        Posterize=(8.5, 8.5 - bits, None),
        Blend=blend,
    )
    whole = {"TranslateX": shift, "TranslateY": shift, "Rotate": turn}
    whole |= {"Solarize": 256, "Posterize": bits}
    steps = []
    for each, m in itertools.product(table, range(BINS)):
        span = whole.get(each.name)
        level = m / 30 if span is None else (m * span // 30) / span
        steps.append([(each.name, 1.0, level)])
    return make_policy(steps, table=table)


def unsearched_policy(
    *, level: float = 0.5, table: Sequence[Operation] = OPERATIONS
) -> Policy:
    """All pairs of operations, equally likely, coins fair: where a search begins.

    Args:
      level: strength of all, in [0, 1].
      table: the operations, two or more.

    Returns:
      The policy: 105 pairs of the fifteen operations.

    Raises:
      ValueError: `level` is outside its range, or there are not two operations.

    Source: Li et al. 2020 (DADA), official code.
    """
    steps = [(each.name, 0.5, level) for each in table]
    return make_policy(list(itertools.combinations(steps, 2)), table=tuple(table))


def random_policy(
    key: jax.Array,
    *,
    count: int = 25,
    table: Sequence[Operation] = OPERATIONS,
) -> Policy:
    """Different pairs drawn at random, probabilities and levels uniform in [0, 1].

    It is what `best_sub_policies` of a search is to be compared with.

    Args:
      key: PRNG key.
      count: pairs to draw, 1 to their number.
      table: the operations, two or more.

    Returns:
      The policy, its pairs equally likely.

    Raises:
      ValueError: `count` is outside its range, or there are not two operations.
    """
    pairs = unsearched_policy(table=table)
    most = len(pairs.logits)
    if not 1 <= count <= most:
        raise ValueError(f"count must lie in 1 … {most}, got {count}")
    drawing, tossing, levels = jax.random.split(key, 3)
    rows = jax.random.choice(drawing, most, (count,), replace=False)
    return Policy(
        operations=pairs.operations[rows],
        probabilities=jax.random.uniform(tossing, (count, 2)),
        levels=jax.random.uniform(levels, (count, 2)),
        logits=jnp.zeros(count),
        table=pairs.table,
    )


def _fourteen() -> set[str]:
    """The operations of RandAugment and TrivialAugment."""
    return {
        *("Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
        *("Brightness", "Color", "Contrast", "Sharpness", "Posterize", "Solarize"),
        *("AutoContrast", "Equalize"),
    }


def _shares_of_the_image(names: set[str]) -> tuple[Operation, ...]:
    """AutoAugment's ranges: shifts in shares of the image, bits rounded."""
    return _table(
        names,
        Shear=(0, 0.3, 0),
        Translate=(0, 150 / 331, 0),
        Rotate=(0, 30, 0),
        Solarize=(255, 0, None),
        Posterize=(8.5, 4.5, None),
        Blend=(1.0, 1.9, 1.0),
    )


def _table(
    names: set[str], **ranges: tuple[float, float, float | None]
) -> tuple[Operation, ...]:
    """Operations with (low, high, mirror) by family; the others keep their own."""
    families = {
        **dict.fromkeys(("ShearX", "ShearY"), "Shear"),
        **dict.fromkeys(("TranslateX", "TranslateY"), "Translate"),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), "Blend"),
    }
    table = []
    for name in sorted(names):
        known = operation(name)
        low_high_mirror = ranges.get(families.get(name, name))
        if low_high_mirror is None:
            table.append(known)
            continue
        # A shift beyond one image is in pixels.
        pixels = name.startswith("Translate") and low_high_mirror[1] >= 1
        functions = operation(f"{name}Abs") if pixels else known
        table.append(
            Operation(name, *low_high_mirror, functions.reference, functions.smooth)
        )
    return tuple(table)


def _named(tables: dict[str, str], dataset: str) -> str:
    if dataset not in tables:
        raise ValueError(
            f"no policy for dataset {dataset!r}; there are {', '.join(tables)}"
        )
    return tables[dataset]


def _parsed(text: str) -> list[list[tuple[str, float, float]]]:
    """Lines of `operation probability level, …` as names and numbers."""

    def step(words: str) -> tuple[str, float, float]:
        name, probability, level = words.split()
        return name, float(probability), float(level)

    lines = text.strip().splitlines()
    return [[step(words) for words in line.split(",")] for line in lines]
