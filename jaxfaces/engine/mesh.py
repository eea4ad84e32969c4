"""Devices: one mesh with a data axis, batches split over it, state on every device."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make(devices: int = 0) -> Mesh:
    """A mesh over the first `devices` devices (0 is all) with the axis "data".

    Raises:
      ValueError: there are fewer devices, or a process would have none.
    """
    available = jax.devices()
    if devices > len(available):
        raise ValueError(
            f"--devices={devices}, but this machine has {len(available)} "
            f"({available[0].device_kind})"
        )
    if jax.process_count() > 1 and devices not in (0, len(available)):
        raise ValueError(
            f"--devices={devices}, but {jax.process_count()} processes share all of "
            f"their {len(available)}; leave the flag out"
        )
    chosen = np.asarray(available[: devices or len(available)])
    return Mesh(chosen, ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def everywhere(mesh: Mesh, value: np.ndarray) -> jax.Array:
    """Puts a host array whole on every device."""
    return jax.make_array_from_process_local_data(replicated(mesh), value, value.shape)


def put(mesh: Mesh, batch: Any) -> Any:
    """Moves this process's rows of a batch to its devices, split along the first axis.

    Raises:
      ValueError: the global batch does not divide among the devices.
    """
    rows = split(mesh)
    _check_all(mesh, batch)
    if jax.process_count() == 1:  # all columns at once take half the time
        return jax.device_put(batch, rows)
    return jax.tree.map(
        lambda column: jax.make_array_from_process_local_data(rows, column), batch
    )


def feed(mesh: Mesh, batch: Any) -> Any:
    """A host batch as a jitted function takes it whose `in_shardings` split it.

    One process gives it as it is: jit itself moves it with a third of the work of
    `put`, which counts where a step takes milliseconds.

    Raises:
      ValueError: the global batch does not divide among the devices.
    """
    if jax.process_count() > 1:
        return put(mesh, batch)
    _check_all(mesh, batch)
    return batch


def put_whole(mesh: Mesh, batch: Mapping[str, Any]) -> Any:
    """Moves a batch that every process holds whole to the devices, split likewise.

    Raises:
      ValueError: the batch does not divide among the devices.
    """
    if jax.process_count() == 1:
        return put(mesh, batch)
    rows = split(mesh)

    def place(column: np.ndarray) -> jax.Array:
        _check(mesh, len(column))
        return jax.make_array_from_callback(column.shape, rows, column.__getitem__)

    return jax.tree.map(place, batch)


def _check_all(mesh: Mesh, batch: Any) -> None:
    for column in jax.tree.leaves(batch):
        _check(mesh, len(column) * jax.process_count())


def _check(mesh: Mesh, total: int) -> None:
    if total % mesh.size:
        raise ValueError(
            f"a batch of {total} rows cannot be split over {mesh.size} devices; "
            f"choose a multiple of {mesh.size}, or fewer --devices"
        )
