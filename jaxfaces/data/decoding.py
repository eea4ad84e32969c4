"""Decoding of stored images, all at once or batch by batch, the bad ones found."""

import bisect
import collections
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxfaces.data.encoded import Encoded, Example
from jaxfaces.data.errors import DataError, ExampleError

_BLOCK = 512
_THREADS = min(os.cpu_count() or 1, 16)
_ADVICE = "--on_bad_example=skip leaves bad examples out"
_CHANGED = "it was good when the data set was opened"

ToArray = Callable[[bytes | Path | np.ndarray], np.ndarray]
# Indexed by label.
Names = tuple[str, ...] | Mapping[int, str]


class Decoded(NamedTuple):
    """Good examples; the fields are those of `sources.Source`."""

    pixels: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray
    names: Names | None
    roles: np.ndarray | None
    ids: np.ndarray | None
    left_out: np.ndarray | None
    in_memory: bool


def decode(
    stored: Encoded, to_array: ToArray, *, skip: bool, memory_limit: int
) -> Decoded:
    """Decodes stored images, once or batch by batch.

    Args:
      stored: the images before decoding.
      to_array: maps an encoded image to (H, W, C) uint8, the same for all.
      skip: leave bad examples out; else the first one raises.
      memory_limit: bytes of decoded images to hold in memory at most.

    Returns:
      The good examples.

    Raises:
      DataError: an example is bad, or none is good.
    """
    shape = _shape(stored, to_array, skip)
    in_memory = stored.examples * int(np.prod(shape)) <= memory_limit
    column = np.empty((stored.examples if in_memory else 0, *shape), np.uint8)
    rows: list[int] = []
    kept: list[Example] = []
    lost: dict[int, Example] = {}
    for start in range(0, stored.examples, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, stored.examples))
        examples = stored.fetch(block)
        if in_memory or skip:
            results = _decode(examples, to_array)
        else:  # the record is looked at, its image not yet
            results = [_fault(example) for example in examples]
        good = _good(examples, results, None if skip else _ADVICE)
        lost |= {int(block[i]): e for i, e in enumerate(examples) if i not in good}
        examples = [examples[position] for position in good]
        if in_memory or skip:
            pixels = _stack(examples, list(good.values()), shape)
            if in_memory:
                column[len(rows) : len(rows) + len(good)] = pixels
        rows.extend(block[list(good)])
        # The labels stay, the encoded images go.
        kept.extend(example._replace(image=b"") for example in examples)
    if not rows:
        raise DataError(f"none of the {stored.examples} examples is good")
    chosen = np.array(rows)
    on_demand = functools.partial(
        _on_demand, stored, to_array, shape, chosen, _CHANGED if skip else _ADVICE
    )
    return Decoded(
        pixels=column[: len(rows)].__getitem__ if in_memory else on_demand,
        labels=np.array([example.label for example in kept], np.int32),
        names=stored.names or _names(kept),
        roles=_words(example.role for example in kept),
        ids=_words(example.id for example in kept),
        left_out=_counted(chosen, kept, lost) if lost else None,
        in_memory=in_memory,
    )


def _shape(stored: Encoded, to_array: ToArray, skip: bool) -> tuple[int, ...]:
    """Shape of the first image that can be decoded."""
    if not stored.examples:
        raise DataError("the split holds no images")
    for row in range(stored.examples):
        examples = stored.fetch(np.array([row]))
        results = _decode(examples, to_array)
        for pixels in _good(examples, results, None if skip else _ADVICE).values():
            return pixels.shape
    raise DataError(
        f"none of the {stored.examples} images can be decoded, the last being "
        f"{examples[0].where}: {results[0]}"
    )


def _on_demand(
    stored: Encoded,
    to_array: ToArray,
    shape: tuple[int, ...],
    chosen: np.ndarray,
    advice: str,
    rows: np.ndarray,
) -> np.ndarray:
    examples = stored.fetch(chosen[rows])
    good = _good(examples, _decode(examples, to_array), advice)
    return _stack(examples, list(good.values()), shape)


def _decode(
    examples: list[Example], to_array: ToArray
) -> list[np.ndarray | ExampleError]:
    """Decodes examples on several threads; one that fails gives its error."""

    def attempt(part: np.ndarray) -> list[np.ndarray | ExampleError]:
        return [_attempt(examples[i], to_array) for i in part]

    # A share of the batch to each thread: one task an image costs more than decoding a
    # small one. The pool lives for one batch, so that a source can be pickled.
    parts = np.array_split(np.arange(len(examples)), _THREADS)
    with ThreadPoolExecutor(_THREADS) as pool:
        return [result for part in pool.map(attempt, parts) for result in part]


def _attempt(example: Example, to_array: ToArray) -> np.ndarray | ExampleError:
    if example.fault:
        return ExampleError(example.fault)
    try:
        return to_array(example.image)
    except ExampleError as error:
        return error


def _fault(example: Example) -> np.ndarray | ExampleError:
    """What is wrong with an example before decoding; an empty image if nothing is."""
    return ExampleError(example.fault) if example.fault else np.empty(0, np.uint8)


def _good(
    examples: list[Example],
    results: list[np.ndarray | ExampleError],
    advice: str | None,
) -> dict[int, np.ndarray]:
    """The decoded images by position; one that failed raises if there is `advice`."""
    good = {}
    for position, (example, result) in enumerate(zip(examples, results)):
        if isinstance(result, np.ndarray):
            good[position] = result
        elif advice is not None:
            raise DataError(f"{example.where}: {result}; {advice}") from result
    return good


def _stack(
    examples: list[Example], arrays: list[np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    for example, array in zip(examples, arrays):
        if array.shape != shape:
            raise DataError(
                f"{example.where} is {array.shape}, others are {shape}; "
                "choose --image_size to fit all to one size"
            )
    return np.array(arrays, np.uint8).reshape(-1, *shape)


def _counted(
    rows: np.ndarray, kept: list[Example], lost: dict[int, Example]
) -> np.ndarray:
    """How many bad examples are counted at each kept row: the nearest of their class.

    Where the class is unknown or nothing of it is left, the nearest of all is taken.
    """
    counts = np.zeros(len(rows), np.int64)
    places: dict[int, list[int]] = collections.defaultdict(list)
    for place, example in enumerate(kept):
        places[example.label].append(place)
    for row, example in lost.items():
        own = [] if example.fault else places.get(example.label, [])
        counts[_nearest(rows, own or range(len(rows)), row)] += 1
    return counts


def _nearest(rows: np.ndarray, places: Sequence[int], row: int) -> int:
    """Which of `places` has in `rows` the nearest to `row`; both ascend."""
    after = bisect.bisect_left(places, row, key=rows.__getitem__)
    around = places[max(after - 1, 0) : after + 1]
    return min(around, key=lambda place: abs(int(rows[place]) - row))


def _names(kept: list[Example]) -> dict[int, str] | None:
    """Names of the labels that occur; None where none has one.

    No tuple: one label of two billion would make it as long.
    """
    table = {example.label: example.class_name for example in kept}
    return table if any(table.values()) else None


def _words(words: Iterable[str]) -> np.ndarray | None:
    found = np.array(list(words))
    return found if (found != "").any() else None
