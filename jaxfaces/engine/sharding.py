"""Where the leaves of a state lie: on every device whole, or each device a part."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AbstractMesh,
    Mesh,
    NamedSharding,
    PartitionSpec,
    get_abstract_mesh,
)

from jaxfaces.engine.errors import RunError

AXIS = "data"
CHOICES = ("replicated", "full")
# Leaves with fewer elements stay whole: to gather them costs a message, not memory.
SMALL = 2048


def full(state: Any, parts: int) -> Any:
    """Splits every large leaf along its longest axis that `parts` divides.

    Args:
      state: pytree of arrays or shapes.
      parts: number of devices along the mesh's data axis.

    Returns:
      A pytree of `PartitionSpec`, empty where a leaf stays whole.
    """
    return jax.tree.map(lambda leaf: _split(leaf.shape, parts), state)


def _split(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    axes = [axis for axis, size in enumerate(shape) if size and size % parts == 0]
    if np.prod(shape) < SMALL or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, AXIS)


def places(
    task: Any, mesh: Mesh, state: Any, *, choice: str = "replicated", seeds: int = 1
) -> Any:
    """The sharding of every leaf of a task's state.

    Args:
      task: its `sharding(state)`, if it has one, gives a pytree of `PartitionSpec`
        from shapes and goes before `choice`.
      mesh: the devices.
      state: shapes of the state of one seed.
      choice: one of CHOICES.
      seeds: with several seeds states have a leading axis, which is not split.

    Returns:
      A pytree of `NamedSharding` like `state`.

    Raises:
      RunError: the task's specification is not one of its state.
    """
    if hasattr(task, "sharding"):
        specs = task.sharding(state)
    elif choice == "full":
        specs = full(state, mesh.shape[AXIS])
    else:
        specs = jax.tree.map(lambda _: PartitionSpec(), state)

    def place(path: Any, leaf: Any, spec: Any) -> NamedSharding:
        lead = (None,) if seeds > 1 else ()
        try:
            found = NamedSharding(mesh, PartitionSpec(*lead, *spec))
            found.shard_shape((*[seeds] * len(lead), *leaf.shape))
        except (ValueError, TypeError) as error:
            where = jax.tree_util.keystr(path)
            raise RunError(f"sharding of state{where}: {error}") from error
        return found

    try:
        return jax.tree_util.tree_map_with_path(place, state, specs)
    except ValueError as error:
        raise RunError(
            f"the task's sharding(state) is not like its state: {error}"
        ) from error


def gathered(params: Any) -> Any:
    """Parameters whole on every device while a step uses them.

    Without it the compiler is free to gather activations instead. Outside a step on
    several devices this changes nothing.
    """
    if devices() is None:
        return params
    return jax.lax.with_sharding_constraint(params, PartitionSpec())


def devices() -> AbstractMesh | None:
    """The devices that share the batch of the step being traced; None if one has it.

    For functions that split their work themselves, such as `augment.apply`.
    """
    mesh = get_abstract_mesh()
    return mesh if AXIS in mesh.axis_names else None


@contextlib.contextmanager
def sharing(mesh: Mesh) -> Iterator[None]:
    """Lets `devices` tell of a mesh of several while a step is traced."""
    if mesh.size == 1:
        yield
        return
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        yield
