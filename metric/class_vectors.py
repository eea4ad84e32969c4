"""What every loss against class vectors shares: labels, soft labels, weights, checks.

Class vectors (proxies, the rows of a classifier) are references in the frame of
`metric.pairs`, one a class, so that padding, blocks of queries and the devices of a
`shard_map` are handled there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import chex
import jax
import jax.numpy as jnp

from metric import layout
from metric import pairs as pairs_lib
from metric.layout import Prepared
from metric.pairs import Pairs, Reduction


class Given(TypedDict, total=False):
    """Keywords that every loss against class vectors takes; all may be left out.

    Attributes:
      valid: (B,) booleans, False for padding rows, which neither pay nor count.
      weights: (B,) numbers >= 0; an example of weight w counts as w examples. Weights
        of classes are `weights=class_weights[labels]`.
      axis_name: an axis of `jax.shard_map` over which the batch is split, the class
        vectors being whole on every device; the loss is that of the whole batch.
      block_rows: examples compared at once; less memory, and every block is computed
        again for the gradient. None takes all at once.
    """

    valid: jax.Array | None
    weights: jax.Array | None
    axis_name: str | None
    block_rows: int | None


class Targets(NamedTuple):
    """What else is known of b examples: `extra` of a block in `metric.pairs`.

    Attributes:
      soft: (b, C) weights of the classes, or None where labels are integers.
      weights: (b,) weights of the examples, 0 in padding.
    """

    soft: jax.Array | None
    weights: jax.Array


def soft_labels(
    labels: jax.Array, classes: int, *, smoothing: float = 0.0
) -> jax.Array:
    """Class probabilities (1 - smoothing) onehot + smoothing / C (Szegedy et al. 2016).

    Args:
      labels: (B,) integer class ids in 0 … C - 1; another makes its row NaN.
      classes: their number C >= 1.
      smoothing: share that is spread evenly over all classes, in [0, 1].

    Returns:
      (B, C) rows that add up to 1, in the default float type.

    Raises:
      ValueError: `classes` or `smoothing` is out of range.
      AssertionError: labels are not (B,) integers (checked while tracing).
    """
    if classes < 1:
        raise ValueError(f"classes must be 1 or more, got {classes}")
    check_range("smoothing", smoothing, 0, 1)
    chex.assert_rank(labels, 1, custom_message="labels are (rows,)")
    layout.check_columns(len(labels), labels=labels)
    rows = (1 - smoothing) * jax.nn.one_hot(labels, classes) + smoothing / classes
    return jnp.where(_known(labels, classes)[:, None], rows, jnp.nan)


def per_example(
    rows: Callable[[Pairs], jax.Array],
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    reduction: Reduction,
    **given: Any,
) -> jax.Array:
    """The weighted mean over the examples of what `rows` says of each.

    Args:
      rows: from a block of b examples before all C class vectors, with `Targets` in
        its `extra`, to (b,) values.
      embeddings: (B, D) raw network outputs.
      labels: (B,) integer class ids, or (B, C) soft labels.
      class_vectors: (C, D) raw class vectors.
      reduction: "mean", or "none" for the (B,) values times their weights.
      **given: see `Given`.
    """
    ready = prepare(embeddings, labels, class_vectors, **given)
    weights = ready.batch["extra"].weights
    values = weights * pairs_lib.over_blocks(rows, ready)
    if pairs_lib.check_reduction(reduction) == "none":
        return values
    total = ready.sum(weights)
    return ready.sum(values) / jnp.where(total == 0, 1, total)


def prepare(
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    *,
    valid: jax.Array | None = None,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
    block_rows: int | None = None,
) -> Prepared:
    """Checks a batch and lays it out: class vectors as references, `Targets` beside.

    A label that names no class vector makes its example's weight NaN: that is a fault
    of the caller which must not pass unseen.

    Raises:
      ValueError: an argument is out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    embeddings, class_vectors = jnp.asarray(embeddings), jnp.asarray(class_vectors)
    _check(embeddings, labels, class_vectors)
    layout.check_columns(len(embeddings), valid=valid, weights=weights)
    classes, is_soft = len(class_vectors), labels.ndim == 2
    dtype = jnp.result_type(embeddings, class_vectors, jnp.float32)
    ones = jnp.ones(len(embeddings), dtype)
    weights = ones if weights is None else jnp.asarray(weights, dtype)
    soft = jnp.asarray(labels, dtype) if is_soft else None
    if not is_soft:
        weights = jnp.where(_known(labels, classes), weights, jnp.nan)
    if valid is not None:
        weights = jnp.where(valid, weights, 0)
        soft = None if soft is None else jnp.where(valid[:, None], soft, 0)
    return layout.prepare(
        embeddings,
        None if is_soft else labels,
        extra=Targets(soft, weights),
        valid=valid,
        same=soft > 0 if soft is not None else None,
        ref=class_vectors,
        ref_labels=None if is_soft else jnp.arange(classes),
        axis_name=axis_name,
        block_rows=block_rows,
    )


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises ValueError for a plain number outside [low, high]; a traced one passes."""
    if isinstance(value, int | float) and not low <= value <= high:
        raise ValueError(f"{name} must be in [{low:.6g}, {high:.6g}], got {value}")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError for a plain number that is not above 0."""
    if isinstance(value, int | float) and not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")


def _known(labels: jax.Array, classes: int) -> jax.Array:
    """(B,) booleans, which labels name a class."""
    return (labels >= 0) & (labels < classes)


def _check(embeddings: jax.Array, labels: jax.Array, class_vectors: jax.Array) -> None:
    chex.assert_rank(embeddings, 2, custom_message="embeddings are (rows, width)")
    rows, width = embeddings.shape
    wanted = f"class_vectors are (classes, width) with width {width}"
    chex.assert_shape(class_vectors, (None, width), custom_message=wanted)
    classes = len(class_vectors)
    if classes == 0:
        raise ValueError("class_vectors must hold one class or more, got none")
    chex.assert_rank(
        labels, {1, 2}, custom_message="labels are (rows,) or (rows, classes)"
    )
    if labels.ndim == 2:
        wanted = f"soft labels are (rows, classes), ({rows}, {classes})"
        chex.assert_shape(labels, (rows, classes), custom_message=wanted)
    else:
        layout.check_columns(rows, labels=labels)
