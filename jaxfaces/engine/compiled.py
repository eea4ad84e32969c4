"""Compiled programs: counted, and kept on disk between runs."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax


def keep(folder: str) -> None:
    """Keeps what is compiled from now on in a folder; "" changes nothing.

    Args:
      folder: made if absent; an entry's name depends on the program, the version of
        XLA and the kind of processor, so that machines may share it.
    """
    if not folder:
        return
    # A folder that cannot be made is told here, not in the middle of a run.
    Path(folder).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    # The small programs of an evaluation add up to seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class Compilations:
    """Which programs were compiled, and for what arguments.

    Args:
      warn: gets a line when one is compiled a second time.
    """

    def __init__(self, warn: Callable[[str], None]):
        self._warn = warn
        self._traces: dict[str, list[dict[str, str]]] = {}

    @property
    def count(self) -> int:
        """How many compilations there were."""
        return sum(len(traces) for traces in self._traces.values())

    def note(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Notes one; to be called by the function itself, which tracing alone runs."""
        leaves = jax.tree_util.tree_leaves_with_path(arguments)
        shapes = {
            jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
            for path, leaf in leaves
        }
        traces = self._traces.setdefault(name, [])
        traces.append(shapes)
        if len(traces) > 1:
            self._warn(
                f"phase {name!r} was compiled {len(traces)} times: "
                + _changes(traces[-2], shapes)
            )


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Which arguments changed between two compilations, in words."""
    paths = sorted(set(old) | set(new))
    changed = [
        f"{path} was {old.get(path, 'absent')}, is {new.get(path, 'absent')}"
        for path in paths
        if old.get(path) != new.get(path)
    ]
    shown = "; ".join(itertools.islice(changed, 4))
    return shown or "no shape changed; a constant or a weak type did"
