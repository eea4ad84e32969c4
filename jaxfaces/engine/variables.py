"""Inference variables on disk: nested dictionaries of arrays as safetensors."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

import jaxfaces
from jaxfaces import registry
from jaxfaces.engine import commandline, digests
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.files import replacing
from jaxfaces.engine.options import Options

SEPARATOR = "/"
EMPTY, DIGEST = "empty", "digest"
ADVICE = "Copy it again, or let its run write it again"


def describe(
    task: Any, options: Options, *, step: int, seed: int, classes: Sequence[str] = ()
) -> dict[str, str]:
    """Metadata from which `task_of` makes the task again.

    Args:
      task: the task.
      options: of its run; those that cannot change a result, such as the folder that
        its data were in, are left out.
      step: number of finished steps.
      seed: which of its parallel seeds, from 0.
      classes: names of the classes that it was trained on, by label.
    """
    lines = commandline.flag_lines(task, options, runtime=False)
    return {
        "step": str(step),
        "seed": str(options.seed + seed),
        "task": registry.name_of(type(task)),
        "flags": "\n".join(lines),
        "jaxfaces": jaxfaces.__version__,
        "classes": json.dumps(list(classes)),
    }


def task_of(
    path: Path, metadata: Mapping[str, str], task_class: type | None = None
) -> Any:
    """The task that a file was written by, from its metadata.

    Raises:
      RunError: the metadata do not name a task, or not one that is known here.
    """
    if "flags" not in metadata:
        raise RunError(
            f"{path} does not say which task wrote it; load its run directory instead"
        )
    try:
        return commandline.read_lines(
            metadata["flags"].splitlines(), {"options": Options()}, task_class
        )[1]
    except commandline.UsageError as error:
        raise RunError(
            f"the flags in {path}, written by jaxfaces "
            f"{metadata.get('jaxfaces', 'unknown')}, cannot be read: {error}"
        ) from error


def classes_of(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the classes by label, from a file's metadata; () where it has none.

    Raises:
      RunError: they are no list of names.
    """
    try:
        found = json.loads(metadata.get("classes", "[]"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: the names of classes are no JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise RunError(f"{path}: the names of classes are no list of names")
    return tuple(found)


def save(path: Path, variables: Any, *, metadata: Mapping[str, str]) -> None:
    """Writes variables atomically; a leaf's name is the path to it, joined by "/".

    A digest of all that the file holds goes along, and `load` checks it.

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
        temporary.write_bytes(serialize(flat, {**words, DIGEST: _digest(flat, words)}))


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

    A file of another program, without a digest, is read unchecked.

    Raises:
      RunError: the file is missing or damaged.
    """
    if not path.is_file():
        raise RunError(f"{path} is not a file; name a .safetensors file of a run")
    try:
        with safe_open(str(path), framework="numpy") as file:
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}. {ADVICE}") from error
    words = {name: text for name, text in metadata.items() if name != DIGEST}
    if metadata.get(DIGEST, "") not in ("", _digest(flat, words)):
        raise RunError(f"{path} is damaged: its content changed. {ADVICE}")
    nested: dict[str, Any] = {}
    try:
        empty = [str(name) for name in json.loads(metadata.pop(EMPTY, "[]")) if name]
    except (ValueError, TypeError) as error:
        raise RunError(f"{path} was not written by a run: {error}") from error
    for name, value in [*flat.items(), *((name, {}) for name in empty)]:
        _place(path, nested, name, value)
    return nested, metadata


def step_of(path: Path, metadata: Mapping[str, str]) -> int:
    """At which step of its run a file was written.

    Raises:
      RunError: no run wrote it.
    """
    try:
        return int(metadata["step"])
    except (KeyError, ValueError) as error:
        raise RunError(f"{path} was not written by a run: it names no step") from error


def _digest(flat: Mapping[str, np.ndarray], words: Mapping[str, str]) -> str:
    """BLAKE2b of names, types, shapes and bytes of the arrays, and of the metadata."""
    content = [sorted(words.items()), sorted(digests.digests(dict(flat)).items())]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def _place(path: Path, nested: dict[str, Any], name: str, value: Any) -> None:
    """Puts a value at its path, making the dictionaries on the way."""
    *parents, leaf = name.split(SEPARATOR)
    for parent in parents:
        nested = nested.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise RunError(f"{path}: {parent!r} in {name!r} is an array too")
    nested[leaf] = value
