"""A task's predictions for a user's own files."""

import collections
import contextlib
import hashlib
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import tqdm
from flax.errors import FlaxError

from jaxfaces.data import images
from jaxfaces.data.errors import DataError
from jaxfaces.data.files import Input
from jaxfaces.data.streams import Stream
from jaxfaces.engine import digests
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.loading import Trained
from jaxfaces.engine.task import Predicted

THREADS = min(os.cpu_count() or 1, 16)

Columns = Mapping[str, np.ndarray]


def predict(
    trained: Trained,
    inputs: Sequence[Input],
    *,
    batch_size: int = 0,
    max_pixels: int = images.MAX_PIXELS,
    skip: bool = True,
    progress: bool = False,
) -> tuple[Predicted, list[Input]]:
    """Reads files and predicts them batch by batch; one batch shape is compiled.

    Args:
      trained: what `load` gave.
      inputs: what `files.collect` found.
      batch_size: files at once; 0 is the task's own number.
      max_pixels: largest width times height of an image, checked before decoding.
      skip: leave out what cannot be used; else the first such file raises.
      progress: show a bar, on a terminal.

    Returns:
      The predictions for the good files, and all inputs, the bad ones with the reason.

    Raises:
      DataError: no file can be used, or one cannot and `skip` is False.
      RunError: the task does not read files, or the network does not take them.
    """
    check(trained.task)
    inputs = list(inputs)
    if not skip:
        _refuse(each for each in inputs if not each.passed_over)
    rows = [row for row, each in enumerate(inputs) if not each.problem]
    if not rows:
        raise _nothing(inputs)
    paths = [inputs[row].path for row in rows]
    stream = trained.task.read_files(paths, max_pixels=max_pixels)
    batches = _Batches(trained, min(batch_size or len(stream.plan(0)), len(rows)))
    bar = tqdm.tqdm(total=len(rows), unit="file", disable=None if progress else True)
    with bar, contextlib.closing(_read(stream, 2 * batches.size)) as results:
        for position, result in enumerate(results):
            bar.update()
            problem = batches.add(position, result)
            if problem:
                bad = inputs[rows[position]] = inputs[rows[position]].because(problem)
                if not skip:
                    _refuse([bad])
    if not batches.kept:
        raise _nothing(inputs)
    kept = np.array(batches.kept)
    predicted = Predicted(
        names=[inputs[rows[position]].name for position in batches.kept],
        outputs=batches.finish(),
        read=lambda which: stream.read(kept[which]),
        model=digest(trained.variables),
        classes=trained.classes,
    )
    return predicted, inputs


def check(task: Any, *, gallery: bool = False) -> None:
    """Raises `RunError` where a task lacks a method that serving files takes.

    Args:
      task: the task.
      gallery: earlier outputs or other files shall be searched.
    """
    missing = [name for name in ("read_files", "write") if not hasattr(task, name)]
    if missing:
        raise RunError(
            f"the task {type(task).__name__} cannot read files: it has no "
            f"{', '.join(missing)} (docs/adding_a_task.md)"
        )
    if gallery and not hasattr(task, "read_outputs"):
        raise RunError(
            f"the task {type(task).__name__} searches nothing; leave --gallery out"
        )


def digest(variables: Any) -> str:
    """A short name for the values of variables: the same for equal ones alone."""
    found = digests.digests(jax.tree.map(jax.numpy.asarray, variables))
    return hashlib.blake2b(repr(found).encode(), digest_size=16).hexdigest()


def _refuse(inputs: Iterable[Input]) -> None:
    for each in inputs:
        if each.problem:
            raise DataError(
                f"{each.name}: {each.problem}; "
                "--on_bad_example=skip leaves such files out"
            )


def _nothing(inputs: Sequence[Input]) -> DataError:
    each = inputs[0]
    if len(inputs) == 1:
        return DataError(f"there is no image to read: {each.name}: {each.problem}")
    return DataError(
        f"none of {len(inputs)} files can be used, the first being "
        f"{each.name}: {each.problem}"
    )


def _read(stream: Stream, window: int) -> Generator[Columns | DataError, None, None]:
    """The columns of each row in order, or what is wrong with it.

    Threads read up to `window` rows ahead, so that files wait for no device.
    """

    def attempt(row: int) -> Columns | DataError:
        try:
            return stream.read(np.array([row]))
        except DataError as error:
            return error

    ahead: collections.deque = collections.deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for row in range(stream.examples):
            ahead.append(pool.submit(attempt, row))
            if len(ahead) > window:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Batches:
    """Fills batches of one shape with good rows, and predicts each that is full."""

    def __init__(self, trained: Trained, size: int):
        self.size = size
        self.kept: list[int] = []
        self._trained, self._apply = trained, jax.jit(trained.apply)
        self._shapes: dict[str, tuple] = {}
        self._waiting: list[Columns] = []
        self._outputs: list[Any] = []

    def add(self, position: int, result: Columns | DataError) -> str:
        """Takes a row, or says why it cannot."""
        if isinstance(result, DataError):
            return str(result)
        shapes = {name: column.shape[1:] for name, column in result.items()}
        self._shapes = self._shapes or shapes
        for name, shape in shapes.items():
            if shape != self._shapes[name]:
                return (
                    f"is {_by(shape)}, the first file {_by(self._shapes[name])}; only "
                    "a run trained with --image_size fits all to one size"
                )
        self.kept.append(position)
        self._waiting.append(result)
        if len(self._waiting) == self.size:
            self._run()
        return ""

    def finish(self) -> Any:
        """The outputs of all rows that were taken."""
        if self._waiting:
            self._run()
        self._fetch()
        return jax.tree.map(lambda *parts: np.concatenate(parts), *self._outputs)

    def _run(self) -> None:
        batch = self._stacked()
        if not self._outputs:
            self._try(batch)
        # Fetched one batch behind, so that device and host work at the same time.
        self._fetch()
        self._outputs.append(self._apply(self._trained.variables, batch))
        self._waiting = []

    def _fetch(self) -> None:
        good = len(self.kept) - len(self._waiting)
        if self._outputs:
            rows = good - self.size * (len(self._outputs) - 1)
            self._outputs[-1] = jax.tree.map(
                lambda x: np.asarray(x)[:rows], self._outputs[-1]
            )

    def _stacked(self) -> dict[str, np.ndarray]:
        """The rows that wait as a batch, padded as `streams.load_batch` pads."""
        good = len(self._waiting)
        batch = {
            name: np.zeros((self.size, *shape), self._waiting[0][name].dtype)
            for name, shape in self._shapes.items()
        }
        for name, column in batch.items():
            column[:good] = np.concatenate([each[name] for each in self._waiting])
        first = len(self.kept) - good
        index = np.arange(first, first + self.size, dtype=np.int32)
        return batch | {"index": index, "valid": np.arange(self.size) < good}

    def _try(self, batch: Mapping[str, np.ndarray]) -> None:
        try:
            jax.eval_shape(self._trained.apply, self._trained.variables, batch)
        except (ValueError, TypeError, FlaxError) as error:
            reason = str(error).partition("\n")[0]
            shapes = ", ".join(_by(shape) for shape in self._shapes.values())
            raise RunError(f"the network does not take {shapes}: {reason}") from error


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
