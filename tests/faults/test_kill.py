"""kill -9 at any moment: the resumed run ends with the same bits."""

import signal
import time

import commands
import contract_tasks
import jax
import numpy as np
import pytest

from jaxfaces.engine import assembly, logs
from jaxfaces.engine.checkpoints import Checkpoints


def tree(workdir, task_class):
    """Everything in the newest checkpoint."""
    parts, _, step = assembly.restore(workdir, task_class=task_class)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return step, jax.device_get(checkpoints.restore(step, parts.template()))


def compare(workdir, whole, task_class):
    step, expected = tree(whole, task_class)
    found_step, found = tree(workdir, task_class)
    assert found_step == step
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    records = [logs.read(d / "metrics.jsonl") for d in (workdir, whole)]
    assert records[0] == records[1]


def killed(workdir, *flags, after, task="Linear"):
    """Starts a run and kills it so many seconds after its first line of output."""
    process = commands.start(workdir, *flags, task=task)
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL  # it was still running


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Relabel", "Alternate"])
def test_ten_kills_at_random_moments(tmp_path, task):
    flags = ("--steps=400", "--pause=0.02")
    commands.finish(commands.start(tmp_path / "whole", *flags, task=task))
    rng = np.random.default_rng(0)
    for _ in range(10):
        killed(tmp_path / "cut", *flags, after=rng.uniform(0, 1.2), task=task)
    commands.finish(commands.start(tmp_path / "cut", *flags, task=task))
    compare(tmp_path / "cut", tmp_path / "whole", getattr(contract_tasks, task))


@pytest.mark.slow
def test_kills_in_the_middle_of_a_save(tmp_path):
    flags = ("--steps=60", "--pause=0.01")
    commands.finish(commands.start(tmp_path / "whole", *flags))
    hits = 0
    for _ in range(10):
        process = commands.start(tmp_path / "cut", *flags)
        folder, deadline = tmp_path / "cut" / "checkpoints", time.monotonic() + 60
        # A temporary directory is there while orbax writes.
        while process.poll() is None and time.monotonic() < deadline:
            if folder.exists() and list(folder.glob("*orbax-checkpoint-tmp*")):
                process.send_signal(signal.SIGKILL)
                hits += 1
                break
        process.wait(60)
        if hits and process.returncode == 0:
            break
    assert hits >= 3
    commands.finish(commands.start(tmp_path / "cut", *flags))
    compare(tmp_path / "cut", tmp_path / "whole", contract_tasks.Linear)
