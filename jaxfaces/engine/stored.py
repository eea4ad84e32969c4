"""What of a pytree is on disk: all of its leaves, but those without entries."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp


def shapes(like: Any) -> Any:
    """Shapes, types and places of the leaves of a pytree."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, like)


def storable(leaf: Any) -> Any:
    """What stands for a leaf on disk: orbax saves no array without entries."""
    if leaf.size:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((1,), jnp.uint8, sharding=leaf.sharding)
    return jax.device_put(np.zeros((1,), np.uint8), leaf.sharding)


def restorable(stored: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """The leaf that `storable` made `stored` of."""
    if like.size:
        return stored
    return jax.device_put(np.zeros(like.shape, like.dtype), like.sharding)
