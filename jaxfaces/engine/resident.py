"""Data that lie whole on every device, so that the host sends row numbers alone."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxfaces.data.streams import Columns, Stream
from jaxfaces.engine import distributed
from jaxfaces.engine import mesh as mesh_lib
from jaxfaces.engine.errors import RunError

PARTS = 4  # "auto" gives the data one of so many equal parts of a device's memory
PIECE = 16 << 20  # bytes that are read and sent at once
PATIENCE = 10.0  # seconds of silence while the data are sent

# By stream, columns (examples, ...).
Held = Mapping[str, Mapping[str, Any]]


def chosen(streams: Mapping[str, Stream], choice: str, mesh: Mesh) -> dict[str, Stream]:
    """The streams whose columns shall lie on the devices, as process 0 finds.

    Args:
      streams: those that steps read.
      choice: "off" for none, "on" for all, "auto" for those in memory, if the devices
        are no CPUs and tell that all together take a quarter of their memory at most.
      mesh: the devices.

    Raises:
      RunError: "on", but a stream is not in memory.
    """
    held = {name: each for name, each in streams.items() if each.in_memory}
    if choice == "on":
        for name in streams:
            if name not in held:
                raise RunError(
                    f"--resident=on: the stream {name!r} is decoded as it is read; "
                    "only data in memory can lie on the devices"
                )
    elif choice == "off" or not distributed.share(_fit(held, mesh.local_devices[0])):
        return {}
    return held


def _fit(streams: Mapping[str, Stream], device: jax.Device) -> bool:
    if device.platform == "cpu":
        return False  # its memory holds them already
    limit = (device.memory_stats() or {}).get("bytes_limit", 0)
    return PARTS * _bytes(_shapes(streams)) <= limit


def _shapes(streams: Mapping[str, Stream]) -> Held:
    """What `load` gives, as shapes; reads one row of each stream."""

    def column(stream: Stream, row: np.ndarray) -> jax.ShapeDtypeStruct:
        kind = jax.dtypes.canonicalize_dtype(row.dtype)
        return jax.ShapeDtypeStruct((stream.examples, *row.shape[1:]), kind)

    first = np.zeros(1, np.int64)
    return {
        name: {key: column(stream, row) for key, row in stream.read(first).items()}
        for name, stream in streams.items()
    }


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def load(
    streams: Mapping[str, Stream],
    mesh: Mesh,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Held:
    """Reads streams and puts all of their columns whole on every device.

    Piece by piece into memory of the devices, so that the host never holds a copy.

    Args:
      streams: what `chosen` gave.
      mesh: the devices.
      say: gets a line if this takes long.
    """
    whole = mesh_lib.replicated(mesh)
    write = jax.jit(_written, donate_argnums=0, out_shardings=whole)
    shapes = _shapes(streams)
    late = time.monotonic() + PATIENCE
    held: dict[str, Any] = {}
    for name, stream in streams.items():
        held[name] = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype, device=whole), shapes[name]
        )
        row = _bytes(shapes[name]) // stream.examples
        size = min(stream.examples, PIECE // max(row, 1) + 1)
        for start in range(0, stream.examples, size):
            # The last piece is as long as the others, for one compiled program.
            start = min(start, stream.examples - size)
            read = dict(stream.read(np.arange(start, start + size)))
            piece = jax.tree.map(lambda x: mesh_lib.everywhere(mesh, x), read)
            held[name] = write(held[name], piece, np.int32(start))
            jax.block_until_ready(held[name])  # else pieces queue up on the host
            if time.monotonic() > late:
                late = float("inf")
                say(f"putting {_bytes(shapes) / 1e9:.1f} GB of data on every device")
    return held


def _written(held: Any, piece: Any, start: jax.Array) -> Any:
    """Columns with the rows of a piece from row `start` on."""

    def write(column: jax.Array, rows: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(column, rows, start, axis=0)

    return jax.tree.map(write, held, piece)


def planned(
    streams: Mapping[str, Stream], held: Mapping[str, Any]
) -> dict[str, Stream]:
    """The streams, those that are held without columns to read."""
    return {
        name: dataclasses.replace(each, read=_nothing) if name in held else each
        for name, each in streams.items()
    }


def _nothing(_: np.ndarray) -> Columns:
    return {}


def feeder(held: Held, mesh: Mesh) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that makes of a host batch what a step takes, as `mesh.feed` does.

    Rows of the streams in `held` are gathered on the devices, each its own, by a
    program apart from the step: a gather fused into the step changes how it rounds.

    Args:
      held: what `load` gave; of these streams a batch has `index` and `valid` alone.
      mesh: the devices.
    """
    whole, rows = mesh_lib.replicated(mesh), mesh_lib.split(mesh)
    gather = jax.jit(gathered, in_shardings=(whole, rows), out_shardings=rows)

    def feed(host: Mapping[str, Any]) -> dict[str, Any]:
        batch = mesh_lib.feed(mesh, host)
        return {
            name: gather(held[name], each) if name in held else each
            for name, each in batch.items()
        }

    return feed


def gathered(
    columns: Mapping[str, jax.Array], rows: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """Rows of columns, bit for bit what `streams.load_batch` reads.

    Args:
      columns: with a leading axis of N examples.
      rows: `index` (B,) int32, N in padding, and `valid` (B,) bool.

    Returns:
      The columns (B, ...), zero in padding, with `index` and `valid`.
    """

    def take(column: jax.Array) -> jax.Array:
        # The index of padding is out of bounds, and filled.
        return jnp.take(column, rows["index"], axis=0, mode="fill", fill_value=0)

    return {key: take(column) for key, column in columns.items()} | dict(rows)
