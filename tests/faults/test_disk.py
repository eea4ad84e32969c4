"""Full and read-only disks, two processes in one directory, clocks that go back."""

import os
import shutil
import signal
import subprocess
import time

import commands
import contract_tasks
import jax
import numpy as np
import pytest

import jaxfaces
from jaxfaces import evaluate
from jaxfaces.engine import assembly, loop
from jaxfaces.engine.errors import RunError

SETTINGS = {"log_every": 3, "eval_every": 4, "checkpoint_every": 5, "quiet": True}


def run(workdir, **changes):
    task = contract_tasks.Linear(steps=changes.pop("steps", 12))
    return loop.run(task, workdir, **(SETTINGS | {"devices": 1} | changes))


def mounted(folder, *options):
    """Mounts a small disk of memory on a folder, or skips."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if (
        not shutil.which("mount")
        or subprocess.run(words, capture_output=True).returncode
    ):
        pytest.skip("needs the right to mount a disk")


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    mounted(folder, "size=1200k")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_the_run_with_the_reason_and_loses_nothing(small_disk):
    workdir = small_disk / "run"
    # Enough small checkpoints to fill it, were they all kept.
    fill = ["--steps=200", "--keep=1000", "--eval_every=0"]
    every = ("--log_every=3", "--checkpoint_every=3")
    process = commands.start(workdir, *fill, every=every)
    _, err = commands.finish(process, code=1)
    assert "No space left on device" in err or "ENOSPC" in err or "full" in err, err
    assert err.strip().count("\n") == 0, err
    assert "give the same command to go on" in err
    (task, state, step) = assembly.restore(workdir)  # the last complete one is whole
    assert step >= 3 and np.all(np.isfinite(state.params["w"]))
    del task, state
    # With room again, it goes on to where an undisturbed run ends.
    for path in sorted((workdir / "checkpoints").iterdir(), key=os.path.getmtime)[:-2]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    resumed = commands.start(workdir, "--steps=200", "--eval_every=0", every=every)
    out, _ = commands.finish(resumed)
    assert "resuming at step" in out
    whole = small_disk.parent / "whole"
    commands.finish(commands.start(whole, "--steps=200", "--eval_every=0", every=every))
    same(workdir, whole)


def same(a, b):
    load = lambda d: jaxfaces.load(d, task_class=contract_tasks.Linear)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, load(a).variables, load(b).variables)


def test_a_read_only_disk_is_named_before_anything_is_computed(tmp_path):
    folder = tmp_path / "disk"
    mounted(folder, "size=1m", "ro")
    try:
        with pytest.raises(RunError, match="--workdir=.*cannot be written.*Read-only"):
            run(folder / "run")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_goes_away_stops_the_run_with_the_reason(tmp_path):
    folder = tmp_path / "disk"
    mounted(folder, "size=20m")
    try:
        process = commands.start(folder / "run", "--steps=2000", "--pause=0.02")
        commands.wait_for_step(folder / "run", 12, process)
        mounted(folder, "size=20m", "ro")  # hides the disk below it
        _, err = commands.finish(process, code=1)
        assert "cannot be written any more" in err or "could not be written" in err
        assert err.strip().count("\n") == 0, err
    finally:
        for _ in range(2):
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_readers_do_not_mind_a_running_one_and_a_second_trainer_is_told(tmp_path):
    workdir = tmp_path / "run"
    process = commands.start(workdir, "--steps=2000", "--pause=0.02")
    commands.wait_for_step(workdir, 12, process)
    flags = (workdir / "flags.cfg").read_text()
    _, err = commands.finish(commands.start(workdir, "--steps=9"), code=1)
    assert f"in use by process {process.pid} on" in err
    assert (workdir / "flags.cfg").read_text() == flags  # and the first undisturbed
    assert evaluate.main([f"--workdir={workdir}"]) == 0
    assert jaxfaces.load(workdir, task_class=contract_tasks.Linear).step >= 4
    process.send_signal(signal.SIGKILL)  # its lock dies with it
    process.wait(60)
    stopped = commands.start(workdir, "--steps=2000", "--pause=0.02")
    out = stopped.stdout.readline()
    assert "resuming at step" in out
    stopped.send_signal(signal.SIGTERM)
    commands.finish(stopped, code=128 + signal.SIGTERM)


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, monkeypatch):
    run(tmp_path / "whole")
    start, calls = time.time(), [0]

    def backwards():
        calls[0] += 1
        return start - 3600 * calls[0]

    for cut in (8, 12):
        monkeypatch.setattr(time, "time", backwards)
        summary = run(tmp_path / "back", steps=cut, schedule_steps=12)
        monkeypatch.undo()
    assert calls[0] > 0
    assert summary["seconds"] >= 0
    same(tmp_path / "back", tmp_path / "whole")
    # Files from the future are no obstacle either.
    for path in (tmp_path / "back").rglob("*"):
        os.utime(path, (start + 1e6, start + 1e6))
    assert run(tmp_path / "back", steps=15)["steps"] == 15


def test_what_a_killed_writer_left_behind_is_removed(tmp_path):
    run(tmp_path)
    (tmp_path / "figures").mkdir(exist_ok=True)
    for torn in (".tmp-99999-params.safetensors", "figures/.tmp-99999-curves.png"):
        (tmp_path / torn).write_bytes(b"half")
    run(tmp_path, steps=15)
    assert not list(tmp_path.rglob(".tmp-*"))
