"""Class-aware attention: how far an item's label can be trusted (Wang et al. 2019)."""

from typing import Literal

import chex
import jax
import jax.numpy as jnp

from metric import distances, layout


def class_aware_attention(
    embeddings: jax.Array,
    labels: jax.Array,
    *,
    logits: jax.Array | None = None,
    context_vectors: jax.Array | None = None,
    attention: Literal["prob", "gauss"] = "prob",
    attention_width: float = 0.68,
    valid: jax.Array | None = None,
    block_rows: int | None = None,
) -> jax.Array:
    """How far each item's label can be trusted; an outlier gets little.

    "prob" is the probability p_i of the item's own class, from context vectors

        p_i = exp(f_i . c_{y_i}) / sum_k exp(f_i . c_k)

    with f_i of unit length, no bias and no scale, or the softmax of given logits.
    "gauss" is exp(-(p_i - 1)² / (2 width²)) (released code), milder: 0.34 to 1.
    The paper does not say whether f_i is normalised here: for raw rows give
    `logits=embeddings @ context_vectors.T`.

    Args:
      embeddings: (B, D) raw network outputs; unused with logits.
      labels: (B,) integer class ids in [0, C); others give NaN.
      logits: (B, C), or None with context vectors.
      context_vectors: (C, D), or None with logits.
      attention: "prob" or "gauss".
      attention_width: width > 0 of "gauss".
      valid: (B,) booleans, False for padding rows.
      block_rows: rows computed at once, as in `metric.pairs.Given`.

    Returns:
      (B,) values in [0, 1], 0 in padding rows.

    Raises:
      ValueError: neither or both of logits and context vectors are given.
      AssertionError: shapes disagree (checked while tracing).
    """
    if attention not in ("prob", "gauss"):
        raise ValueError(f"attention must be prob or gauss, got {attention!r}")
    if (logits is None) == (context_vectors is None):
        raise ValueError("attention needs either logits= or context_vectors=")
    size = len(labels)
    if logits is not None:
        chex.assert_shape(
            logits, (size, None), custom_message="logits: one row an item"
        )
        rows = distances.hide_padding(logits, valid)[0]
    else:
        chex.assert_shape(
            (embeddings, context_vectors), ((size, None), (None, embeddings.shape[1])),
            custom_message="context vectors (C, D) are as wide as embeddings (B, D)",
        )  # fmt: skip
        rows = distances.normalize(distances.hide_padding(embeddings, valid)[0])
    labels = jnp.asarray(labels)
    labels = labels if valid is None else jnp.where(valid, labels, 0)

    def one(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        rows, labels = batch
        if context_vectors is not None:
            rows = distances.products(rows, distances.at_least_float32(context_vectors))
        return _own_probability(rows, labels)

    p = layout.by_blocks(one, (rows, labels), block_rows)
    if attention == "gauss":
        p = jnp.exp(-jnp.square((p - 1) / attention_width) / 2)
    return p if valid is None else jnp.where(valid, p, 0)


def _own_probability(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax probabilities (b,) of the labels; NaN for a label that is no column."""
    column = jnp.where(labels < 0, logits.shape[1], labels)[:, None]
    own = jnp.take_along_axis(
        logits, column, axis=1, mode="fill", fill_value=jnp.nan
    )[:, 0]  # fmt: skip
    return jnp.exp(own - jax.nn.logsumexp(logits, axis=1))
