"""Checkpoints of a run: asynchronous, atomic, newest few and best kept (orbax)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxfaces.engine.errors import CheckpointError


@dataclasses.dataclass
class _KeepNewestAndBest:
    """Preserves the newest few checkpoints and the one of the best step so far."""

    newest: int
    best: int | None = None

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        first = len(checkpoints) - self.newest
        return [
            i >= first or info.step == self.best for i, info in enumerate(checkpoints)
        ]


class Checkpoints:
    """The checkpoints in a folder; use as a context, leaving it waits for writes.

    Args:
      folder: where they are; made if absent unless `read_only`.
      keep: how many of the newest to keep.
      read_only: True leaves the folder as it is (another process may be writing).
    """

    def __init__(self, folder: Path, *, keep: int = 1, read_only: bool = False):
        self.folder = folder
        self._read_only = read_only
        self._policy = _KeepNewestAndBest(keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else self._policy,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        # Donation reuses the state's buffers while orbax still writes: write a copy.
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        self._manager.reload()
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, tree: Any, meta: dict[str, Any], *, best: int | None
    ) -> None:
        """Begins to save; returns once `tree` may be overwritten.

        Args:
          step: number of finished steps.
          tree: pytree of arrays.
          meta: what JSON can hold.
          best: step whose checkpoint is kept as the best.
        """
        self._policy.best = best
        self._manager.save(
            step,
            args=ocp.args.Composite(
                tree=ocp.args.StandardSave(self._copy(tree)),
                meta=ocp.args.JsonSave(meta),
            ),
        )

    def meta(self, step: int) -> dict[str, Any]:
        """The `meta` saved with a step."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return dict(self._restore(step, args)["meta"])

    def restore(self, step: int, like: Any) -> Any:
        """Reads the tree of a step back.

        Args:
          step: one of `steps()`.
          like: pytree of arrays or `jax.ShapeDtypeStruct` with shardings to restore to.

        Raises:
          CheckpointError: it is damaged, or of another shape.
        """
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(tree=ocp.args.StandardRestore(like))
        return self._restore(step, args)["tree"]

    def _restore(self, step: int, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=args)
        except (OSError, ValueError, KeyError, TypeError) as error:
            advice = "Remove that folder to go on from the checkpoint before it."
            raise CheckpointError(
                f"checkpoint {self.folder / str(step)} cannot be read: "
                f"{str(error).strip().splitlines()[0]}. "
                + ("" if self._read_only else advice)
            ) from error
