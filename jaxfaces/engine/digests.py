"""Digests of the leaves of a pytree, so that damage to a checkpoint is noticed."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore
from jax.sharding import NamedSharding, PartitionSpec

# hashlib lets go of the interpreter on large buffers, so threads do hash in parallel.
_THREADS = min(os.cpu_count() or 1, 8)


def digests(tree: Any) -> dict[str, str]:
    """The type, shape and BLAKE2b digest of every leaf, by its name.

    Args:
      tree: pytree of arrays. One that is split among processes is gathered, a leaf at
        a time, so every process must call this.

    Returns:
      For instance {"params.w": "float32[3,4] 0f1e…"}; the same for the same values
      however they are spread over devices.
    """
    leaves = by_name(tree)
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = [pool.submit(_digest, _on_host(leaf)) for leaf in leaves.values()]
        found = [future.result() for future in futures]
    return dict(zip(leaves, found, strict=True))


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves by the names that they have in a checkpoint, such as "params.w"."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in named
    }


def other_shapes(saved: Mapping[str, str], like: Any) -> list[str]:
    """How the leaves of `like` differ in name, type or shape from what was saved."""
    then = {name: words.partition(" ")[0] for name, words in saved.items()}
    now = {name: _kind(_plain(leaf)) for name, leaf in by_name(like).items()}
    return [
        f"{name} was {then.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]


def fault(folder: Path, saved: Mapping[str, str]) -> str | None:
    """What is wrong with the arrays that orbax saved in `folder`, None if nothing is.

    Reads them leaf by leaf, without orbax: that reads all at once, and when one leaf
    fails the others go on to fail noisily in the background.

    Args:
      folder: of one item, written by orbax.
      saved: the result of `digests` when they were saved.
    """
    for notes in [folder / "_METADATA", *folder.glob("array_metadatas/*")]:
        try:
            json.loads(notes.read_bytes())
        except (OSError, ValueError) as error:
            return f"{notes.name} cannot be read: {error}"
    with ThreadPoolExecutor(_THREADS) as pool:
        faults = pool.map(lambda item: _leaf_fault(folder, *item), saved.items())
        return next(filter(None, faults), None)


def _leaf_fault(folder: Path, name: str, expected: str) -> str | None:
    database = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/"}
    spec = {"driver": "zarr", "kvstore": {**database, "path": f"{name}/"}}
    try:
        array = tensorstore.open(spec, open=True, read=True).result().read().result()
    # What damaged bytes raise is up to tensorstore.
    except Exception as error:
        return f"leaf {name} cannot be read: {reason(error)}"
    return None if _digest(array) == expected else f"leaf {name} is not what was saved"


def reason(error: Exception) -> str:
    """An error of orbax or tensorstore in a few words, without its specifications."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.partition(" [")[0][:200]


def _plain(leaf: Any) -> Any:
    """A random key as its numbers, all else as it is."""
    if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _on_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    leaf = _plain(leaf)
    if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        assert isinstance(leaf.sharding, NamedSharding)  # the engine makes no other
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
        leaf = _gather(everywhere)(leaf)
    return np.asarray(leaf)


@functools.cache
def _gather(place: NamedSharding) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=place)


def _kind(array: Any) -> str:
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _digest(array: np.ndarray) -> str:
    words = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    digest = hashlib.blake2b(memoryview(words), digest_size=16)  # type: ignore[arg-type]
    return f"{_kind(array)} {digest.hexdigest()}"
