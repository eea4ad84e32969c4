"""Data on the devices, gathered by the step: the bits of a run that is sent them."""

import contract_tasks
import jax
import numpy as np
import pytest

from jaxfaces.data import streams
from jaxfaces.engine import assembly, config, logs, loop, mesh, reader, resident
from jaxfaces.engine.checkpoints import Checkpoints
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
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


CASES = {
    **{task.__name__: (task(), {}) for task in contract_tasks.ALL},
    "microbatches": (contract_tasks.Linear(microbatch=2), {}),
    "seeds": (contract_tasks.Linear(), {"parallel_seeds": 3}),
    "images": (IMAGES, {}),
    "eight": (contract_tasks.Memory(), {"devices": 8}),
    "eight, images": (IMAGES, {"devices": 8, "shard_state": "full"}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_on_resident_data_is_the_same_to_the_bit(name, tmp_path, sent):
    # Sweeps of 8 + 8 + 4 rows: the last batch is padded.
    task, changes = CASES[name]
    summaries = [
        run(task, tmp_path / choice, resident=choice, **changes)
        for choice in ("off", "on")
    ]
    assert_same(task, tmp_path / "on", tmp_path / "off")
    whole, rows = sent[: task.steps], sent[task.steps :]
    assert len(whole) == len(rows) == task.steps
    assert all(len(columns) > 2 for batch in whole for columns in batch.values())
    for batch in rows:
        assert set(map(frozenset, batch.values())) == {frozenset({"index", "valid"})}
    off, on = summaries
    assert off["resident"] == []
    assert on["resident"] == sorted({name for batch in rows for name in batch})
    assert on["compilations"] == off["compilations"]
    assert on["examples"] == off["examples"]
