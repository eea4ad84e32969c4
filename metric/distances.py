"""Unit embeddings, their pairwise distances and the masks that select pairs."""

import jax
import jax.numpy as jnp


def at_least_float32(x: jax.Array) -> jax.Array:
    """Casts half precision and integers up, so that distances keep their digits."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def normalize(x: jax.Array) -> jax.Array:
    """Rows scaled to unit length, x / ||x||; a zero row stays zero, with zero gradient.

    Args:
      x: (..., D) raw embeddings of any scale; half precision is computed in float32.

    Returns:
      (..., D) unit rows, float32 or float64.
    """
    x = at_least_float32(x)
    # Dividing by the largest entry first keeps squares of 1e-30 or 1e30 representable.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    zero = scale == 0
    x = x / jnp.where(zero, 1, scale)
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return jnp.where(zero, 0, x * jax.lax.rsqrt(jnp.where(zero, 1, squared)))


def unit_distances(queries: jax.Array, gallery: jax.Array) -> jax.Array:
    """Euclidean distances between unit rows, sqrt(2 - 2 q.g), by one matrix product.

    The product loses digits of the squared distance: up to 3e-6 in float32 at D = 1024
    (1e-7 at D = 64), 1e-14 in float64. So distances under 2e-3 (1e-6 in float64) are
    returned as exactly 0, with zero gradient: identical rows always are.

    Args:
      queries: (Q, D) unit rows.
      gallery: (G, D) unit rows.

    Returns:
      (Q, G) distances in [0, 2].
    """
    squared = 2 - 2 * products(queries, gallery)
    floor = 1e-12 if squared.dtype == jnp.float64 else 4e-6
    tiny = squared <= floor  # False for NaN, which must reach the caller
    return jnp.where(tiny, 0, jnp.sqrt(jnp.where(tiny, 1, squared)))


def products(queries: jax.Array, gallery: jax.Array) -> jax.Array:
    """Inner products (Q, G) in full precision, which a TPU's default has not."""
    return jnp.matmul(queries, gallery.T, precision=jax.lax.Precision.HIGHEST)


def pair_masks(
    labels: jax.Array, valid: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Which ordered pairs of a batch share a class, and which do not.

    Args:
      labels: (B,) integer class ids.
      valid: (B,) booleans, False for padding rows; None means all rows count.

    Returns:
      Two (B, B) boolean masks, positives (same class, never the item itself) and
      negatives (other class), both False where either row is padding.
    """
    same = labels[:, None] == labels[None]
    real = jnp.ones_like(same)
    if valid is not None:
        real = valid[:, None] & valid[None]
    itself = jnp.eye(labels.shape[0], dtype=bool)
    return same & ~itself & real, ~same & real


def hide_padding(
    embeddings: jax.Array, valid: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Zeroes padding rows, so that not even a NaN in them reaches values or gradients.

    Args:
      embeddings: (B, D) raw embeddings.
      valid: (B,) booleans or None.

    Returns:
      (B, D) embeddings and the number of rows that count, a scalar of their dtype.
    """
    embeddings = at_least_float32(embeddings)
    if valid is None:
        return embeddings, jnp.asarray(embeddings.shape[0], embeddings.dtype)
    hidden = jnp.where(valid[:, None], embeddings, 0)
    return hidden, jnp.sum(valid, dtype=embeddings.dtype)
