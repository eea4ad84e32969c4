"""Data on the devices, gathered by the step: the bits of a run that is sent them."""

import dataclasses
import types

import contract_tasks
import jax
import numpy as np
import pytest

from jaxfaces.data import streams
from jaxfaces.engine import assembly, config, logs, loop, mesh, reader, resident
from jaxfaces.engine.checkpoints import Checkpoints
from jaxfaces.engine.errors import RunError
from jaxfaces.tasks.retrieval import Retrieval

SETTINGS = {"log_every": 3, "eval_every": 4, "checkpoint_every": 5, "quiet": True}
IMAGES = config.replace(
    Retrieval(),
    {
        "dataset": "made_up",
        "image_size": 16,
        "validation_fraction": 0.25,
        "width": 8,
        "embedding_size": 16,
        "classes_per_batch": 4,
        "images_per_class": 4,
        "eval_batch_size": 16,
        "clustering": False,
        "steps": 4,
        "cpu_conv": "off",  # compiles in a third of the time
        "rotated_classes": True,
    },
)


def run(task, workdir, **changes):
    return loop.run(task, workdir, **(SETTINGS | {"devices": 1} | changes))


def kept(workdir, task):
    """Everything in the newest checkpoint, and the log."""
    parts, _, step = assembly.restore(workdir, task_class=type(task))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        tree = jax.device_get(checkpoints.restore(step, parts.template()))
    return tree, logs.read(workdir / "metrics.jsonl")


def assert_same(task, one, other):
    (tree, log), (expected, expected_log) = kept(one, task), kept(other, task)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)
    assert log == expected_log


@pytest.fixture
def sent(monkeypatch):
    """Names of the columns that the host hands to the steps, by step and stream."""
    found = []
    batches = reader.batches

    class Spied:
        def __init__(self, *arguments):
            self.inner = batches(*arguments)

        def __enter__(self):
            return map(self.note, self.inner.__enter__())

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

        @staticmethod
        def note(batch):
            found.append({name: set(rows) for name, rows in batch.items()})
            return batch

    monkeypatch.setattr(reader, "batches", Spied)
    return found


MARK = " (resident)"
CASES = {
    "two streams": (contract_tasks.Bilevel(), {}),
    "phases": (contract_tasks.Alternate(), {}),
    "microbatches": (contract_tasks.Linear(microbatch=2), {}),
    "seeds": (contract_tasks.Linear(), {"parallel_seeds": 3}),
    "images": (IMAGES, {}),
    "eight": (contract_tasks.Memory(), {"devices": 8}),
    "eight, split": (IMAGES, {"devices": 8, "shard_state": "full"}),
}
SLOW = {"eight, split": pytest.mark.slow}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=SLOW.get(name, ())) for name in CASES]
)
def test_a_run_on_resident_data_is_the_same_to_the_bit(name, tmp_path, sent):
    # Of the contract's tasks, sweeps of 8 + 8 + 4 rows: the last batch is padded.
    task, changes = CASES[name]
    off, on = (
        run(task, tmp_path / choice, resident=choice, **changes)
        for choice in ("off", "on")
    )
    assert_same(task, tmp_path / "on", tmp_path / "off")
    whole, rows = sent[: task.steps], sent[task.steps :]
    assert len(whole) == len(rows) == task.steps
    assert all(len(columns) > 2 for batch in whole for columns in batch.values())
    for batch in rows:
        assert set(map(frozenset, batch.values())) == {frozenset({"index", "valid"})}
    assert off["resident"] == []
    assert on["resident"] == sorted({name for batch in rows for name in batch})
    assert on["compilations"] == off["compilations"]
    assert on["examples"] == off["examples"]


def test_parts_of_a_run_may_be_resident(tmp_path, capsys):
    every = dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), 4)
    same = {**every, "schedule_steps": 12, "quiet": False}
    run(contract_tasks.Relabel(), tmp_path / "whole", resident="off", **same)
    capsys.readouterr()
    data = "train: 20 examples{0}, ordered: 20 examples{0}\n"
    for steps, choice, word in ((4, "on", MARK), (8, "off", ""), (12, "on", MARK)):
        task = contract_tasks.Relabel(steps=steps)
        run(task, tmp_path / "cut", resident=choice, **same)
        assert data.format(word) in capsys.readouterr().out
    assert_same(task, tmp_path / "cut", tmp_path / "whole")


def test_only_data_in_memory_can_be_resident(tmp_path):
    task = contract_tasks.Linear(pause=0.001)
    with pytest.raises(RunError, match="--resident=on: the stream 'train' is decoded"):
        run(task, tmp_path, resident="on")
    assert run(task, tmp_path, resident="auto")["resident"] == []


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as the choice looks at."""

    platform: str
    limit: int | None = None

    def memory_stats(self):
        return None if self.limit is None else {"bytes_limit": self.limit}


@pytest.mark.parametrize(
    "device, expected",
    [
        (Device("cpu", 10**12), set()),
        (Device("gpu"), set()),  # does not tell
        (Device("gpu", 4 * 320 - 1), set()),
        (Device("gpu", 4 * 320), {"train"}),
    ],
)
def test_auto_is_a_quarter_of_an_accelerators_memory(device, expected):
    # 20 rows of four float32; what is not in memory is left out and not counted.
    given = {
        "train": contract_tasks.Linear().stream("train", 0),
        "other": contract_tasks.Linear(pause=0.001).stream("train", 0),
    }
    devices = types.SimpleNamespace(local_devices=[device])
    assert set(resident.chosen(given, "auto", devices)) == expected
    assert resident.chosen(given, "off", devices) == {}


def mixed(examples):
    """A stream with columns of several types."""
    rng = np.random.default_rng(0)
    columns = {
        "image": rng.integers(0, 256, (examples, 3, 2, 1), np.uint8),
        "label": np.arange(examples) + 1,
        "flag": np.ones(examples, bool),
        "value": rng.normal(size=examples) + 9,
    }
    plan = streams.ordered_plan(examples, 8)
    return streams.from_columns(columns, plan, sweep=-(-examples // 8))


@pytest.mark.parametrize("devices", [1, 8])
def test_gathered_rows_are_those_that_are_read(devices, monkeypatch):
    monkeypatch.setattr(resident, "PIECE", 60)  # pieces of 3 rows
    monkeypatch.setattr(resident, "PATIENCE", -1.0)
    said, stream, where = [], mixed(20), mesh.make(devices)
    held = resident.load({"train": stream}, where, say=said.append)
    assert said == ["putting 0.0 GB of data on every device"]
    feed = resident.feeder(held, where)
    bare = resident.planned({"train": stream}, held)["train"]
    for n in range(stream.sweep):
        found = feed({"train": streams.load_batch(bare, n)})
        expected = mesh.put(where, {"train": streams.load_batch(stream, n)})
        assert jax.tree.map(kind, found) == jax.tree.map(kind, expected)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def kind(x):
    return x.shape, x.dtype, x.sharding


def test_each_device_gathers_its_own_rows():
    where, stream = mesh.make(8), mixed(20)
    held = resident.load({"train": stream}, where)
    whole, split = mesh.replicated(where), mesh.split(where)
    rows = mesh.put(where, {"index": np.arange(16), "valid": np.ones(16, bool)})
    gather = jax.jit(
        resident.gathered, in_shardings=(whole, split), out_shardings=split
    )
    text = gather.lower(held["train"], rows).compile().as_text()
    assert "gather(" in text
    assert "all-" not in text and "collective" not in text
