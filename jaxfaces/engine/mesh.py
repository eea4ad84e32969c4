"""Devices: one mesh with a data axis, batches split over it, state on every device."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make(devices: int = 0) -> Mesh:
    """A mesh over the first `devices` devices (0 is all) with the axis "data".

    Raises:
      ValueError: there are fewer devices.
    """
    available = jax.devices()
    if devices > len(available):
        raise ValueError(
            f"--devices={devices}, but this machine has {len(available)} "
            f"({available[0].device_kind})"
        )
    chosen = np.asarray(available[: devices or len(available)])
    return Mesh(chosen, ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def put(mesh: Mesh, batch: Mapping[str, Any]) -> Any:
    """Moves this process's rows of a batch to its devices, split along the first axis.

    Raises:
      ValueError: the global batch does not divide among the devices.
    """
    rows = NamedSharding(mesh, PartitionSpec("data"))
    for column in jax.tree.leaves(batch):
        total = len(column) * jax.process_count()
        if total % mesh.size:
            raise ValueError(
                f"a batch of {total} rows cannot be split over {mesh.size} devices; "
                f"choose a multiple of {mesh.size}, or fewer --devices"
            )
    if jax.process_count() == 1:  # all columns at once take half the time
        return jax.device_put(batch, rows)
    return jax.tree.map(
        lambda column: jax.make_array_from_process_local_data(rows, column), batch
    )
