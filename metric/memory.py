"""Cross-batch memory: embeddings of past batches as references (Wang et al. 2020)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from metric.pairs import Given


class Memory(NamedTuple):
    """A ring of the M newest rows; a pytree to keep in the training state.

    Attributes:
      embeddings: (M, D) as they were enqueued.
      labels: (M,) their class ids.
      valid: (M,) booleans, False for places not yet filled.
      next: () integer, the place of the next row.
    """

    embeddings: jax.Array
    labels: jax.Array
    valid: jax.Array
    next: jax.Array


def empty_memory(size: int, width: int, dtype: jax.typing.DTypeLike = float) -> Memory:
    """A memory with room for `size` rows of `width` numbers."""
    if size < 1 or width < 1:
        raise ValueError(f"a memory has 1 row and column or more, got {size}, {width}")
    return Memory(
        embeddings=jnp.zeros((size, width), dtype),
        labels=jnp.zeros(size, int),
        valid=jnp.zeros(size, bool),
        next=jnp.zeros((), jnp.int32),
    )


def enqueue(
    memory: Memory,
    embeddings: jax.Array,
    labels: jax.Array,
    valid: jax.Array | None = None,
) -> tuple[Memory, jax.Array]:
    """Puts a batch in the place of the oldest rows; call it before the loss.

    No gradient flows into the memory. Under `jax.shard_map` enqueue outside, and hand
    the memory in whole, positions split like the batch.

    Args:
      memory: what `empty_memory` or the last call gave.
      embeddings: (B, D), B at most the size of the memory.
      labels: (B,) integer class ids.
      valid: (B,) booleans; rows with False are not enqueued.

    Returns:
      The new memory, and where each row lies in it, (B,), -1 for nowhere.

    Raises:
      ValueError: the batch is larger than the memory.
      AssertionError: shapes disagree (checked while tracing).
    """
    memory = Memory(*map(jnp.asarray, memory))  # a restored one may be numpy's
    size, width = memory.embeddings.shape
    rows = len(embeddings)
    chex.assert_shape(
        embeddings, (None, width), custom_message="as wide as the memory's rows"
    )
    chex.assert_shape(labels, (rows,), custom_message="labels: one a row")
    if rows > size:
        raise ValueError(f"a batch of {rows} does not fit a memory of {size}")
    there = jnp.ones(rows, bool) if valid is None else valid
    chex.assert_shape(there, (rows,), custom_message="valid: one a row")
    taken = jnp.cumsum(there, dtype=jnp.int32)
    places = (memory.next + taken - 1) % size
    target = jnp.where(there, places, size)  # beyond the end is dropped
    embeddings = jax.lax.stop_gradient(embeddings)
    labels = labels.astype(memory.labels.dtype)
    new = Memory(
        memory.embeddings.at[target].set(
            embeddings.astype(memory.embeddings.dtype), mode="drop"
        ),
        memory.labels.at[target].set(labels, mode="drop"),
        memory.valid.at[target].set(True, mode="drop"),
        (memory.next + jnp.sum(there, dtype=jnp.int32)) % size,
    )
    return new, jnp.where(there, places, -1)


def references(memory: Memory, positions: jax.Array | None = None) -> Given:
    """Keywords that compare a batch with the memory, in any loss over pairs.

    `loss(x, y, **references(memory, positions))`; no gradient reaches the memory.

    Args:
      memory: from `enqueue`.
      positions: (B,) where the batch lies, from `enqueue`, so that no item meets
        itself; None for a batch that is not in the memory.
    """
    return Given(
        ref=jax.lax.stop_gradient(memory.embeddings),
        ref_labels=memory.labels,
        ref_valid=memory.valid,
        itself=positions,
    )
