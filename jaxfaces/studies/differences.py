"""Differences between arms, over the seeds and over the classes that they share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfaces.studies import statistics
from jaxfaces.studies.collected import Collected
from jaxfaces.studies.contrasts import Contrast


def measured(
    terms: Sequence[tuple[int, Collected]], measures: Sequence[str]
) -> dict[str, Any]:
    """A signed sum of arms, over the seeds and over the classes that all of them have.

    Returns:
      `difference` and `over_classes`, a `statistics.Difference` by measure.
    """
    differences, classes = {}, {}
    for name in measures:
        values = [arm.values(name) for _, arm in terms]
        seeds = [seed for seed in values[0] if all(seed in each for each in values)]
        if not seeds:
            continue
        total = _total(terms, values, seeds)
        found = statistics.paired(total, np.zeros_like(total))
        differences[name] = dataclasses.asdict(found)
        by_class = _by_class(terms, name, seeds)
        if by_class is not None:
            found = statistics.over_classes(by_class, np.zeros_like(by_class))
            classes[name] = dataclasses.asdict(found)
            classes[name].pop("p")  # it has none
    return {"difference": differences, "over_classes": classes}


def _by_class(
    terms: Sequence[tuple[int, Collected]], name: str, seeds: Sequence[int]
) -> np.ndarray | None:
    """(seeds, classes) of the signed sum, where all arms have the same classes."""
    values = [arm.classwise(name) for _, arm in terms]
    seeds = [seed for seed in seeds if all(seed in each for each in values)]
    if not seeds or len({len(each[seed]) for each in values for seed in seeds}) > 1:
        return None
    total = _total(terms, values, seeds)
    kept = np.isfinite(total).all(axis=0)
    return total[:, kept] if kept.any() else None


def _total(
    terms: Sequence[tuple[int, Collected]],
    values: Sequence[Mapping[int, Any]],
    seeds: Sequence[int],
) -> np.ndarray:
    """The signed sum of what the arms have by seed, (seeds, ...)."""
    signed = [
        sign * np.stack([each[seed] for seed in seeds])
        for (sign, _), each in zip(terms, values)
    ]
    return np.sum(signed, axis=0)


def adjust(found: Mapping[str, dict[str, Any]], primary: str) -> None:
    """Adds Holm's p of the primary measure over all that were compared."""
    compared = [each for each in found.values() if primary in each["difference"]]
    ps = [each["difference"][primary]["p"] for each in compared]
    for each, p in zip(compared, statistics.holm(ps)):
        each["difference"][primary]["p_holm"] = p


def gather(
    contrasts: Sequence[Contrast],
    collected: Mapping[str, Collected],
    measures: Sequence[str],
) -> dict[str, Any]:
    """What each contrast is, by name, with Holm's p over the contrasts."""
    found: dict[str, dict[str, Any]] = {}
    for each in contrasts:
        terms = [(sign, collected[arm]) for sign, arm in each.terms]
        found[each.name] = {"sum": str(each), **measured(terms, measures)}
    adjust(found, measures[0])
    return found
