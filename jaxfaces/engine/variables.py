"""Inference variables on disk: nested dictionaries of arrays as safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from jaxfaces.engine.errors import RunError
from jaxfaces.engine.files import replacing

SEPARATOR = "/"
EMPTY = "empty"


def save(path: Path, variables: Any, *, metadata: Mapping[str, str]) -> None:
    """Writes variables atomically; a leaf's name is the path to it, joined by "/".

    Args:
      path: file to write.
      variables: nested dictionaries of arrays.
      metadata: words to keep beside them.

    Raises:
      RunError: something in `variables` is not a dictionary or an array.
    """
    flat: dict[str, np.ndarray] = {}
    empty: list[str] = []
    _flatten(jax.device_get(variables), "", flat, empty)
    # The format knows arrays alone; dictionaries without any are named beside them.
    words = {**metadata, EMPTY: json.dumps(empty)}
    with replacing(path) as temporary:
        # Not save_file: its errors hide the reason, such as a full disk.
        temporary.write_bytes(serialize(flat, words))


def _flatten(
    node: Any, name: str, into: dict[str, np.ndarray], empty: list[str]
) -> None:
    if isinstance(node, Mapping):
        if not node:
            empty.append(name)
        for key, child in node.items():
            if SEPARATOR in str(key):
                raise RunError(f"the key {key!r} of inference variables contains a /")
            inner = f"{name}{SEPARATOR}{key}" if name else str(key)
            _flatten(child, inner, into, empty)
    elif isinstance(node, (np.ndarray, np.generic)):
        into[name] = np.ascontiguousarray(node).reshape(np.shape(node))
    else:
        raise RunError(
            "inference variables must be nested dictionaries of arrays, "
            f"but {name or 'the whole'} is a {type(node).__name__}"
        )


def load(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Reads what `save` wrote: variables (numpy arrays) and metadata.

    Raises:
      RunError: the file is missing or damaged.
    """
    nested: dict[str, Any] = {}
    try:
        with safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                _place(nested, name, file.get_tensor(name))
            metadata = dict(file.metadata() or {})
            for name in json.loads(metadata.pop(EMPTY, "[]")):
                if name:
                    _place(nested, name, {})
            return nested, metadata
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _place(nested: dict[str, Any], name: str, value: Any) -> None:
    """Puts a value at its path, making the dictionaries on the way."""
    *parents, leaf = name.split(SEPARATOR)
    for parent in parents:
        nested = nested.setdefault(parent, {})
    nested[leaf] = value
