"""Compiled programs kept on disk between runs."""

from pathlib import Path

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
