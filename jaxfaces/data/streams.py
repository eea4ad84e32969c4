"""Streams of batches: a plan of row numbers and a way to read rows."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Columns = Mapping[str, np.ndarray]
Plan = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Stream:
    """A named source of batches whose n-th batch is a pure function of n.

    Attributes:
      plan: maps n to the (B,) row numbers of the n-th global batch, each in
        0 … examples - 1, or `examples` for padding.
      read: maps (b,) row numbers to columns with leading axis b, for instance
        {"image": (b, H, W, C) uint8, "label": (b,) int32}.
      examples: number of rows.
      classes: number of classes, 0 where there are none.
      sweep: number of batches that cover every row once.
      skipped: number of bad examples that were left out.
      names: names of the classes, by label; () where they have none.
      in_memory: reading is no more than indexing arrays, so that worker processes
        would only copy them: --workers leaves it to threads, and --resident may read
        every row once and ask no more.
    """

    plan: Plan
    read: Callable[[np.ndarray], Columns]
    examples: int
    classes: int
    sweep: int
    skipped: int = 0
    in_memory: bool = False
    names: tuple[str, ...] = ()


def load_batch(
    stream: Stream, n: int, *, part: int = 0, parts: int = 1
) -> dict[str, np.ndarray]:
    """Reads the n-th batch of a stream, or one process's share of it.

    Args:
      stream: where to read.
      n: number of the batch, from 0.
      part: which of `parts` equal slices of the batch to read.
      parts: number of slices; must divide the batch size.

    Returns:
      The columns of the stream with `index` (b,) int32, the row numbers, and `valid`
      (b,) bool, False in padding, whose columns are zero and whose index is `examples`.

    Raises:
      ValueError: `parts` does not divide the batch, the batch is all padding, or the
        stream has a column called index or valid.
    """
    rows = np.asarray(stream.plan(n))
    if len(rows) % parts:
        raise ValueError(
            f"a batch of {len(rows)} rows cannot be split among {parts} processes; "
            "choose --batch_size as a multiple of the number of processes"
        )
    if not np.any(rows < stream.examples):
        raise ValueError(f"batch {n} of a stream of {stream.examples} rows is empty")
    rows = rows.reshape(parts, -1)[part]
    valid = rows < stream.examples
    # A share may be padding alone; row 0 then gives the shapes.
    columns = stream.read(rows[valid] if valid.any() else np.zeros(1, rows.dtype))
    reserved = {"index", "valid"} & set(columns)
    if reserved:
        raise ValueError(f"a stream may not have a column called {reserved.pop()!r}")
    batch = {name: _spread(column, valid) for name, column in columns.items()}
    return batch | {"index": rows.astype(np.int32), "valid": valid}


def column_types(stream: Stream) -> dict[str, dict[str, Any]]:
    """The {"dtype", "shape"} of one row of each column of a stream's batches."""
    rows = np.zeros(1, np.int64)
    bookkeeping = {"index": rows.astype(np.int32), "valid": rows == 0}
    return {
        name: {"dtype": column.dtype.name, "shape": list(column.shape[1:])}
        for name, column in {**stream.read(rows), **bookkeeping}.items()
    }


def _spread(column: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Puts the rows of `column` where `valid`, zeros elsewhere."""
    if valid.all():
        return np.ascontiguousarray(column)
    out = np.zeros((len(valid), *column.shape[1:]), column.dtype)
    out[valid] = column[: valid.sum()]
    return out


def from_columns(
    columns: Columns, plan: Plan, *, sweep: int, classes: int = 0
) -> Stream:
    """A stream over arrays in memory, read a whole batch at once by indexing.

    Args:
      columns: arrays with one leading axis of rows.
      plan: batch number to row numbers.
      sweep: batches that cover every row once.
      classes: number of classes among the rows.

    Returns:
      The stream.

    Raises:
      ValueError: columns differ in length.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns must have one length, got {lengths}")

    def read(rows: np.ndarray) -> Columns:
        return {name: column[rows] for name, column in columns.items()}

    examples = next(iter(lengths.values()))
    return Stream(plan, read, examples, classes, sweep, in_memory=True)


def batches_to_cover(examples: int, batch_size: int) -> int:
    """Number of batches that cover `examples` rows, the last perhaps padded."""
    return -(-examples // batch_size)


def ordered_plan(examples: int, batch_size: int) -> Plan:
    """Rows in order, over and over; the last batch of a sweep is padded."""
    return functools.partial(_ordered, examples, batch_size)


def ordered(stream: Stream) -> Stream:
    """The same rows in order, in batches of the same size, each once a sweep."""
    size = len(stream.plan(0))
    return dataclasses.replace(
        stream,
        plan=ordered_plan(stream.examples, size),
        sweep=batches_to_cover(stream.examples, size),
    )


def shuffled_plan(
    examples: int, batch_size: int, *, seed: int, drop_last: bool = False
) -> Plan:
    """A new permutation of all rows every sweep; the last batch of a sweep is padded.

    The permutation of sweep e depends on (seed, e) alone, so any batch can be named
    without having seen those before it.

    Args:
      examples: number of rows.
      batch_size: rows in a batch.
      seed: of the permutations.
      drop_last: every batch is whole, and the rows that do not fill one sit a sweep
        out: padding would count in the statistics of batch norms.

    Returns:
      The plan.

    Raises:
      ValueError: there are no rows, or none of the batches would be whole.
    """
    if examples < 1:
        raise ValueError("cannot shuffle a stream without examples")
    if drop_last and examples < batch_size:
        raise ValueError(
            f"--batch_size={batch_size} is more than {examples} images: batches are "
            f"whole, so give at most {examples}"
        )
    whole = examples // batch_size if drop_last else None
    return functools.partial(_shuffled, examples, batch_size, seed, whole)


def _shuffled(
    examples: int, batch_size: int, seed: int, whole: int | None, n: int
) -> np.ndarray:
    batches = whole or batches_to_cover(examples, batch_size)
    table = np.append(_permutation(examples, seed, n // batches), examples)
    return table[_ordered(examples, batch_size, n % batches)]


@functools.lru_cache(maxsize=16)
def _permutation(examples: int, seed: int, sweep: int) -> np.ndarray:
    return np.random.default_rng((seed, sweep)).permutation(examples)


def _ordered(examples: int, batch_size: int, n: int) -> np.ndarray:
    start = n % batches_to_cover(examples, batch_size) * batch_size
    return np.minimum(np.arange(start, start + batch_size), examples)
