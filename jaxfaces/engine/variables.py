"""Inference variables on disk: nested dictionaries of arrays as safetensors."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxfaces.engine.errors import RunError

SEPARATOR = "/"


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
    _flatten(jax.device_get(variables), "", flat)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(flat, temporary, dict(metadata))
    os.replace(temporary, path)


def _flatten(node: Any, name: str, into: dict[str, np.ndarray]) -> None:
    if isinstance(node, Mapping):
        for key, child in node.items():
            if SEPARATOR in str(key):
                raise RunError(f"the key {key!r} of inference variables contains a /")
            _flatten(child, f"{name}{SEPARATOR}{key}" if name else str(key), into)
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
                *parents, leaf = name.split(SEPARATOR)
                node = nested
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[leaf] = file.get_tensor(name)
            return nested, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
