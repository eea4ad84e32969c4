"""Digests of the leaves of a pytree, so that damage to a checkpoint is noticed."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

# hashlib lets go of the interpreter on large buffers, so threads do hash in parallel.
_THREADS = min(os.cpu_count() or 1, 8)


def digests(tree: Any) -> dict[str, str]:
    """The type, shape and BLAKE2b digest of every leaf, by its path.

    Args:
      tree: pytree of arrays. One that is split among processes is gathered, a leaf at
        a time, so every process must call this.

    Returns:
      For instance {"['w']": "float32[3,4] 0f1e…"}; the same for the same values however
      they are spread over devices.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(_digest, _on_host(leaf)) for _, leaf in named]
        found = [future.result() for future in futures]
    paths = [jax.tree_util.keystr(path) for path, _ in named]
    return dict(zip(paths, found, strict=True))


def changed(saved: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Paths of leaves that are not what they were, missing and new ones included."""
    return [path for path in {**saved, **found} if saved.get(path) != found.get(path)]


def _on_host(leaf: jax.Array) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        assert isinstance(leaf.sharding, NamedSharding)  # the engine makes no other
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        leaf = jax.jit(lambda x: x, out_shardings=everywhere)(leaf)
    return np.asarray(leaf)


def _digest(array: np.ndarray) -> str:
    shape = ",".join(map(str, array.shape))
    words = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return (
        f"{array.dtype}[{shape}] {hashlib.blake2b(words, digest_size=16).hexdigest()}"
    )
