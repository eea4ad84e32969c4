"""Checkpoints of a run: asynchronous, atomic, newest few and best kept (orbax).

Orbax writes and reads; what is added here is trust. Each checkpoint carries the digest
of every leaf and of its own notes, and nothing comes back that differs from what was
saved.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxfaces.engine import distributed
from jaxfaces.engine.digests import digests, fault, other_shapes, reason
from jaxfaces.engine.errors import CheckpointError, OtherProgramError
from jaxfaces.engine.stored import restorable, shapes, storable

T = TypeVar("T")

# Names beside the caller's own in the notes of a checkpoint.
_LEAVES, _SEAL = "leaves", "seal"
# Bytes to leave free for the small files beside the arrays.
_SLACK = 1 << 20
# How often a folder is listed anew in which a running run deletes.
_LISTINGS = 10


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
        self._policy = _KeepNewestAndBest(keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else self._policy,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self._manager = _listed(
            lambda: ocp.CheckpointManager(folder.absolute(), options=options)
        )
        # Donation reuses the state's buffers while orbax still writes: write a copy.
        self._copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if distributed.breaks_away(kind):
            return  # the others will not come to write their part
        try:
            self.check()
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:
            if kind is None:  # else the first error tells more
                raise self._unsaved(error) from error

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        _listed(self._manager.reload)
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, tree: Any, meta: Mapping[str, Any], *, best: int | None
    ) -> None:
        """Begins to save; returns once `tree` may be overwritten.

        Args:
          step: number of finished steps.
          tree: pytree of arrays.
          meta: what JSON can hold.
          best: step whose checkpoint is kept as the best.

        Raises:
          CheckpointError: this or an earlier checkpoint cannot be written.
        """
        self._policy.best = best
        copied = jax.tree.map(storable, self._copy(tree))
        self._check_room(copied)
        notes = {**meta, _LEAVES: digests(copied)}
        notes[_SEAL] = _seal(notes)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    tree=ocp.args.StandardSave(copied), meta=ocp.args.JsonSave(notes)
                ),
            )
        # What a full or failing disk raises is up to orbax and tensorstore.
        except Exception as error:
            raise self._unsaved(error) from error

    def _check_room(self, tree: Any) -> None:
        # Of a disk that fills up while it writes, orbax tells with many voices.
        leaves = jax.tree.leaves(tree)
        need = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + _SLACK
        free = shutil.disk_usage(self.folder).free
        if free < need:
            words = f"No space left on device ({need:,} bytes wanted, {free:,} free)"
            raise self._unsaved(OSError(words))

    def check(self) -> None:
        """Raises CheckpointError if a save in the background has failed."""
        try:
            self._manager.check_for_errors()
        except Exception as error:
            raise self._unsaved(error) from error

    def meta(self, step: int) -> dict[str, Any]:
        """The `meta` saved with a step.

        Raises:
          CheckpointError: it is damaged.
        """
        notes = self._notes(step)
        return {k: v for k, v in notes.items() if k not in (_LEAVES, _SEAL)}

    def restore(self, step: int, like: Any) -> Any:
        """Reads the tree of a step back and compares it with its digests.

        Args:
          step: one of `steps()`.
          like: pytree of arrays or `jax.ShapeDtypeStruct` with shardings to restore to.

        Raises:
          CheckpointError: it is damaged (the message names the leaf), or of another
            shape.
        """
        self._verify(step, like)
        return self._load(step, like)

    def _verify(self, step: int, like: Any) -> None:
        saved = self._notes(step)[_LEAVES]
        stored = jax.tree.map(storable, shapes(like))
        if differing := other_shapes(saved, stored):
            raise OtherProgramError(
                f"checkpoint {self.folder / str(step)} is of another program or other "
                f"flags: {'; '.join(differing[:3])}"
            )
        if found := fault(self.folder / str(step) / "tree", saved):
            raise self._damaged(step, found)

    def _load(self, step: int, like: Any) -> Any:
        stored = jax.tree.map(storable, shapes(like))
        args = ocp.args.Composite(tree=ocp.args.StandardRestore(stored))
        tree = self._read(step, args)["tree"]
        return jax.tree.map(restorable, tree, shapes(like))

    def newest(
        self, like: Any, *, resume: str, warn: Callable[[str], None]
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """The step, tree and meta to go on with; None where nothing was saved.

        Args:
          like: see `restore`.
          resume: "newest" raises if the newest checkpoint is damaged; "latest_good"
            goes back to the newest that is whole, and moves those after it aside.
          warn: gets one line for each that is moved.

        Raises:
          CheckpointError: the newest (or every) checkpoint is damaged.
        """
        steps = distributed.share(self.steps())
        faults: dict[int, str] = {}
        for step in reversed(steps):
            tree, found = self._attempt(step, like)
            if found is None:
                for bad, words in faults.items():
                    warn(f"{words}; moved to {self._set_aside(bad)}")
                return step, tree, self.meta(step)
            faults[step] = found
            if resume != "latest_good":
                raise CheckpointError(f"{found}. {_advice(steps, step)}")
        if faults:
            raise CheckpointError(
                f"every checkpoint in {self.folder} is damaged; the newest: "
                f"{faults[steps[-1]]}"
            )
        return None

    def _attempt(self, step: int, like: Any) -> tuple[Any, str | None]:
        """The tree of a step, or None and what is wrong, as process 0 finds it."""
        found = None
        try:
            if distributed.is_main():
                self._verify(step, like)
        except OtherProgramError:
            raise  # going back to an older one would not help
        except CheckpointError as error:
            found = str(error)
        found = distributed.share(found)
        if found is not None:
            return None, found
        try:
            return self._load(step, like), None
        except CheckpointError as error:
            if jax.process_count() > 1:
                raise  # the others may have read theirs
            return None, str(error)

    def _set_aside(self, step: int) -> Path:
        """Moves a checkpoint out of the way of the one that will replace it."""
        distributed.wait()  # every process has looked at it
        target = None
        if distributed.is_main():
            place = self.folder.parent / "damaged"
            place.mkdir(exist_ok=True)
            taken = {path.name for path in place.iterdir()}
            names = [str(step), *(f"{step}_{n}" for n in range(1, len(taken) + 2))]
            target = str(place / next(name for name in names if name not in taken))
            shutil.move(self.folder / str(step), target)
        target = distributed.share(target)
        self._manager.reload()
        return Path(target)

    def _notes(self, step: int) -> dict[str, Any]:
        # Not through orbax, whose reads wait for all processes: one may look alone.
        path = self.folder / str(step) / "meta" / "metadata"
        try:
            notes = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(step, f"its notes cannot be read: {error}") from error
        if not isinstance(notes, dict) or notes.get(_SEAL) != _seal(notes):
            raise self._damaged(step, "its notes (meta) are not what was saved")
        return notes

    def _read(self, step: int, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=args)
        # What a damaged file raises is up to orbax, tensorstore and json.
        except Exception as error:
            raise self._damaged(step, f"it cannot be read: {reason(error)}") from error

    def _damaged(self, step: int, reason: str) -> CheckpointError:
        return CheckpointError(
            f"checkpoint {self.folder / str(step)} (step {step}) is damaged: {reason}"
        )

    def _unsaved(self, error: Exception) -> CheckpointError:
        whole = sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())
        last = f"the newest whole one is step {whole[-1]}" if whole else "none is whole"
        return CheckpointError(
            f"a checkpoint could not be written to {self.folder}: {reason(error)}; "
            f"{last}. "
            "Make room or mend the disk, then give the same command to go on"
        )


def _listed(act: Callable[[], T]) -> T:
    """What lists a folder and then looks at each entry, though some go meanwhile."""
    for _ in range(_LISTINGS - 1):
        try:
            return act()
        except (FileNotFoundError, NotADirectoryError):
            continue
    return act()


def _seal(notes: Mapping[str, Any]) -> str:
    """Digest of the notes themselves."""
    words = {name: value for name, value in notes.items() if name != _SEAL}
    text = json.dumps(words, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _advice(steps: Sequence[int], damaged: int) -> str:
    older = [step for step in steps if step < damaged]
    if not older:
        return "There is no older one; begin anew in another --workdir"
    return f"--resume=latest_good goes back, at most to step {older[-1]}"
