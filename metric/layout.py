"""A batch checked and laid out before its references, in blocks and on devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from metric import distances


class Prepared(NamedTuple):
    """A checked batch: leaves of `batch` have B rows, those of `refs` have G."""

    batch: dict[str, Any]
    refs: dict[str, Any]
    axis_name: str | None
    block_rows: int | None

    @property
    def counted(self) -> jax.Array:
        """(B,) 1.0 for the rows that count, 0.0 for padding."""
        rows = self.batch["rows"]
        valid = self.batch["valid"]
        return (
            jnp.ones(len(rows), rows.dtype)
            if valid is None
            else valid.astype(rows.dtype)
        )

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum over all rows of the whole batch."""
        total = jnp.sum(x, axis=0)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)


def by_blocks(f: Callable[[Any], Any], batch: Any, block_rows: int | None) -> Any:
    """`f(batch)`, computed on blocks of rows, and again for the gradient.

    Args:
      f: a function of each row by itself; what it returns has a row for each.
      batch: a tree of arrays with B rows.
      block_rows: rows computed at once, or None for all.
    """
    size = len(jax.tree.leaves(batch)[0])
    if block_rows is None or block_rows >= size:
        return f(batch)
    fill = -size % block_rows

    def cut(x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, [(0, fill)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(-1, block_rows, *x.shape[1:])

    found = jax.lax.map(jax.checkpoint(f), jax.tree.map(cut, batch))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], found)


def prepare(
    embeddings: jax.Array,
    labels: jax.Array | None,
    *,
    unit: bool = True,
    extra: Any = None,
    valid: jax.Array | None = None,
    same: jax.Array | None = None,
    ref: jax.Array | None = None,
    ref_labels: jax.Array | None = None,
    ref_valid: jax.Array | None = None,
    itself: jax.Array | None = None,
    pairs: tuple[jax.Array, jax.Array] | None = None,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
    block_rows: int | None = None,
) -> Prepared:
    """Checks a batch and lays it out; padding rows are hidden, so that no NaN leaks.

    Raises:
      ValueError: arguments are missing, exclude each other or are out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    of_refs = {"ref_labels": ref_labels, "ref_valid": ref_valid, "itself": itself}
    _check(embeddings, labels, same, pairs, block_rows, ref, of_refs)
    check_columns(len(embeddings), labels=labels, valid=valid, itself=itself)
    hidden = distances.hide_padding(embeddings, valid)[0]
    rows = distances.normalize(hidden) if unit else hidden
    size = len(rows)
    if ref is not None:
        check_columns(len(ref), ref_labels=ref_labels, ref_valid=ref_valid)
        refs, _ = distances.hide_padding(ref, ref_valid)
        refs = distances.normalize(refs) if unit else refs
    else:
        refs, ref_labels, ref_valid = (
            gathered(each, axis_name) for each in (rows, labels, valid)
        )
        first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * size
        itself = first + jnp.arange(size)
    for matrix in (same, *(pairs or ()), weights):
        if matrix is not None:
            chex.assert_shape(matrix, (size, len(refs)))
    batch = {
        "rows": rows, "labels": labels, "valid": valid, "itself": itself,
        "same": same, "pairs": pairs, "weights": weights, "extra": extra,
    }  # fmt: skip
    beside = {"rows": refs, "labels": ref_labels, "valid": ref_valid}
    return Prepared(batch, beside, axis_name, block_rows)


def gathered(x: Any, axis_name: str | None) -> Any:
    """The rows of all devices, in the order of the axis; None stays None."""
    if x is None or axis_name is None:
        return x
    return jax.lax.all_gather(x, axis_name, tiled=True)


def _check(
    embeddings: jax.Array,
    labels: jax.Array | None,
    same: jax.Array | None,
    pairs: Any,
    block_rows: int | None,
    ref: jax.Array | None,
    of_refs: dict[str, jax.Array | None],
) -> None:
    chex.assert_rank(embeddings, 2, custom_message="embeddings are (rows, width)")
    if same is None and pairs is None and labels is None:
        raise ValueError("give labels, or same= for which pairs are positive")
    if ref is None:
        for name, column in of_refs.items():
            if column is not None:
                raise ValueError(f"{name}= needs ref=")
    else:
        chex.assert_shape(
            ref, (None, embeddings.shape[1]), custom_message="ref is as wide as rows"
        )
        if of_refs["ref_labels"] is None and same is None and pairs is None:
            raise ValueError("ref= needs ref_labels=, or same=")
    if block_rows is not None and block_rows < 1:
        raise ValueError(f"block_rows must be 1 or more, got {block_rows}")


def check_columns(rows: int, **columns: jax.Array | None) -> None:
    """Raises unless every column has a number a row, labels and places integers."""
    for name, column in columns.items():
        if column is None:
            continue
        wanted = f"{name}: one a row, ({rows},)"
        chex.assert_shape(column, (rows,), custom_message=wanted)
        if "label" in name or name == "itself":
            chex.assert_type(column, int, custom_message=f"{name} are integers")
