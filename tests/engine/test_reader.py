"""Who reads the batches of a run: threads, or processes of their own."""

import dataclasses
import multiprocessing
import os

import numpy as np
import pytest

from jaxfaces.data import streams
from jaxfaces.engine import reader
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.task import Phase
from jaxfaces.engine.timeline import Timeline


def step(state, batch, key):
    raise NotImplementedError("only read here")


def stream(**changes):
    columns = {"x": np.arange(10, dtype=np.float32)}
    made = streams.from_columns(columns, streams.ordered_plan(10, 4), sweep=3)
    return dataclasses.replace(made, **changes)


def read(given, options):
    timeline = Timeline([Phase("train", None, step)], 4)
    with reader.batches(timeline, {"train": given}, 1, options) as batches:
        return [batch["train"]["index"].tolist() for batch in batches]


EXPECTED = [[4, 5, 6, 7], [8, 9, 10, 10], [0, 1, 2, 3]]


class ProcessWantedError(Exception):
    pass


@pytest.fixture
def no_processes(monkeypatch):
    def refuse(*_):
        raise ProcessWantedError

    monkeypatch.setattr(reader.grain, "MultiprocessingOptions", refuse)


def test_data_in_memory_are_read_by_threads_whatever_workers_says(no_processes):
    assert read(stream(), Options(workers=2)) == EXPECTED
    swept = [
        batch["x"].tolist() for batch in reader.Sweep(stream(), Options(workers=2))
    ]
    assert swept == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]


def test_other_data_are_read_by_processes_only_where_asked_to(no_processes):
    slow = stream(in_memory=False)
    assert read(slow, Options()) == EXPECTED
    with pytest.raises(ProcessWantedError):
        read(slow, Options(workers=1))


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_a_worker_that_dies_is_one_clear_error(end):
    def read_and_die(rows):
        # Never where threads of this process read.
        assert multiprocessing.parent_process() is not None
        if end == "exit":
            os._exit(7)
        os.kill(os.getpid(), 9)

    deadly = stream(read=read_and_die, in_memory=False)
    code = {"exit": "7", "kill": "-9"}[end]
    with pytest.raises(RunError, match=f"exit code {code}, .*--workers=0"):
        list(reader.Sweep(deadly, Options(workers=1)))


def test_other_errors_of_a_worker_stay_what_they_are():
    def refuse(rows):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug") as caught:
        list(reader.Sweep(stream(read=refuse, in_memory=False), Options(workers=1)))
    assert not isinstance(caught.value, RunError)
