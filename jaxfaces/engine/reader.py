"""Batches for every step of a run, and sweeps over a split, read ahead by grain."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import grain.python as grain
import jax
import numpy as np
from absl import flags

from jaxfaces.data.streams import Stream, load_batch
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.timeline import Timeline

# What grain says; it has no class for it.
DIED = re.compile(r"Worker process was terminated unexpectedly with exit code (-?\d+)")


def read_step(
    timeline: Timeline, streams: Mapping[str, Stream], step: int, part: int, parts: int
) -> dict[str, dict[str, np.ndarray]]:
    """One process's rows of the batches that step number `step` reads, by stream."""
    phase, _ = timeline.at(step)
    reads = timeline.reads(step)
    return {
        name: load_batch(streams[name], reads[name], part=part, parts=parts)
        for name in phase.streams
    }


def first_batch(
    timeline: Timeline, streams: Mapping[str, Stream]
) -> dict[str, dict[str, np.ndarray]]:
    """The first batch of every stream that any phase reads."""
    part, parts = jax.process_index(), jax.process_count()
    names = timeline.reads(0)
    return {n: load_batch(streams[n], 0, part=part, parts=parts) for n in names}


@contextlib.contextmanager
def batches(
    timeline: Timeline, streams: Mapping[str, Stream], start: int, options: Options
) -> Iterator[Iterator[Any]]:
    """Iterates over the batches of steps `start` … `timeline.steps` - 1."""
    # Asked here: a worker that asked jax would take hold of the accelerators.
    part, parts = jax.process_index(), jax.process_count()
    bare = timeline.bare()
    dataset = grain.MapDataset.range(start, timeline.steps).map(
        lambda step: read_step(bare, streams, int(step), part, parts)
    )
    with _ahead(dataset, options, streams.values()) as iterator:
        yield iterator


class Sweep:
    """All host batches of a stream, once and in the order of its plan.

    Attributes:
      examples: number of rows.
      classes: number of classes among them.
      names: of the classes, by label; () where they have none.
    """

    def __init__(self, stream: Stream, options: Options):
        self.examples, self.classes = stream.examples, stream.classes
        self.names = stream.names
        self._stream, self._options = stream, options

    def __len__(self) -> int:
        return self._stream.sweep

    def read(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        """The columns of single rows, for pictures of a few."""
        return self._stream.read(rows)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        stream = self._stream
        dataset = grain.MapDataset.range(stream.sweep).map(
            lambda n: load_batch(stream, int(n))
        )
        with _ahead(dataset, self._options, [stream]) as iterator:
            yield from iterator


@contextlib.contextmanager
def _ahead(
    dataset: grain.MapDataset, options: Options, streams: Iterable[Stream]
) -> Iterator[Iterator[Any]]:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain asks absl for debug options
    ahead = dataset.to_iter_dataset(
        grain.ReadOptions(
            num_threads=options.threads, prefetch_buffer_size=options.prefetch
        )
    )
    if options.workers and not all(stream.in_memory for stream in streams):
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(options.workers))
    iterator = iter(ahead)
    try:
        yield iterator
    except RuntimeError as error:
        died = DIED.match(str(error))
        if died is None:
            raise
        raise RunError(
            f"a process that reads the data ended with exit code {died[1]}, perhaps "
            "for want of memory; give fewer --workers, or --workers=0 for none"
        ) from error
    finally:
        iterator.close()
