"""Two processes on the loopback: one run, one voice, one end."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import contract_tasks
import jax
import numpy as np
import pytest

import jaxfaces
from jaxfaces import evaluate, train
from jaxfaces.engine import assembly, distributed, logs, loop
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Cluster

LINEAR = "--task=contract_tasks:Linear"
SETTINGS = {"log_every": 4, "eval_every": 4, "checkpoint_every": 4}
# A schedule of the whole length, so that the first half is the same in every run.
HALF = {"steps": 8}, {"schedule_steps": 16}
WHOLE = {"steps": 16}, {"schedule_steps": 16}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(port, process, workdir, *flags):
    """One of two processes, which meet at a port."""
    cluster = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    return launch(*cluster, f"--process={process}", f"--workdir={workdir}", *flags)


def launch(*flags):
    """The train command with half of eight simulated devices."""
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "jaxfaces.train", *flags],
        env=os.environ | {"PYTHONPATH": path, "JAX_NUM_CPU_DEVICES": "4"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextlib.contextmanager
def two(workdir, *flags, other=()):
    """Both processes; `other` are further flags of the second."""
    port = free_port()
    pair = [
        start(port, 0, workdir, *flags),
        start(port, 1, workdir, *flags, *other),
    ]
    try:
        yield pair
    finally:
        for process in pair:
            if process.poll() is None:
                process.kill()
            process.communicate()


def end(pair, seconds=180):
    """Exit codes and texts of both."""
    texts = [process.communicate(timeout=seconds) for process in pair]
    return [process.returncode for process in pair], texts


def run_two(workdir, changes):
    task, options = changes
    given = SETTINGS | task | options
    flags = [f"--{name}={value}" for name, value in given.items()]
    with two(workdir, LINEAR, *flags) as pair:
        codes, texts = end(pair)
    assert codes == [0, 0], texts
    return texts


def run_one(workdir, changes):
    task, options = changes
    settings = SETTINGS | options | {"quiet": True}
    return loop.run(contract_tasks.Linear(**task), workdir, **settings)


def assert_same_run(a, b):
    """Equal parameters and logs, up to the order in which numbers were added."""
    trained = [
        jaxfaces.load(x, task_class=contract_tasks.Linear).variables for x in (a, b)
    ]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), *trained
    )
    first, second = (logs.read(x / "metrics.jsonl") for x in (a, b))
    keys = [[(r["step"], r["name"]) for r in records] for records in (first, second)]
    assert keys[0] == keys[1]
    values = [[r["value"] for r in records] for records in (first, second)]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)


def names(workdir):
    """Names of all files of a run, apart from those of checkpoints and of the clock."""
    found = {p.relative_to(workdir).parts for p in workdir.rglob("*") if p.is_file()}
    return sorted(
        parts
        for parts in found
        if parts[0] != "checkpoints" and not parts[-1].startswith("events")
    )


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The first half of a run, made by two processes and by one."""
    folder = tmp_path_factory.mktemp("halves")
    task, options = HALF
    texts = run_two(folder / "two", (task, options | {"resident": "on"}))
    run_one(folder / "one", HALF)
    return folder, texts


def test_two_processes_do_what_one_does_and_write_it_once(halves):
    folder, ((out, _), (silent, _)) = halves
    assert_same_run(folder / "two", folder / "one")
    assert names(folder / "two") == names(folder / "one")
    assert len(list((folder / "two").glob("events*"))) == 1
    assert "8 × cpu of 2 processes" in out
    assert "(resident)" in out  # as those of the one process are not
    # Gloo itself talks to stdout.
    assert "mse" not in silent and "Linear" not in silent
    summaries = [
        json.loads((folder / x / "summary.json").read_text()) for x in ("two", "one")
    ]
    assert summaries[0]["examples"] == summaries[1]["examples"]
    assert [s["hardware"]["processes"] for s in summaries] == [2, 1]


def test_a_checkpoint_of_two_processes_is_resumed_by_one_and_the_other_way_round(
    halves, tmp_path
):
    folder, _ = halves
    run_one(tmp_path / "whole", WHOLE)
    for first in ("one", "two"):
        shutil.copytree(folder / first, tmp_path / first)
    run_one(tmp_path / "two", WHOLE)
    (out, _), _ = run_two(tmp_path / "one", WHOLE)
    assert "resuming at step 8 of 16" in out
    assert_same_run(tmp_path / "one", tmp_path / "whole")
    assert_same_run(tmp_path / "two", tmp_path / "whole")


def wait_for(path, pair, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert all(p.poll() is None for p in pair), end(pair)
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


LONG = [LINEAR, "--steps=5000", "--pause=0.02", "--eval_every=0"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_signal_to_one_process_saves_and_stops_both(victim, tmp_path):
    with two(tmp_path, *LONG, "--checkpoint_every=20") as pair:
        wait_for(tmp_path / "checkpoints" / "20", pair)
        pair[victim].send_signal(signal.SIGTERM)
        codes, texts = end(pair, 60)
    assert codes == [143, 143], texts
    (step,) = {text[1].split("stopped at step ")[1].split()[0] for text in texts}
    assert (tmp_path / "checkpoints" / step).exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_leaves_whole_checkpoints(victim, tmp_path):
    limit = "--heartbeat_seconds=10"
    with two(tmp_path, *LONG, "--checkpoint_every=20", limit) as pair:
        wait_for(tmp_path / "checkpoints" / "20", pair)
        pair[victim].kill()
        begin = time.monotonic()
        codes, texts = end(pair, 90)
        took = time.monotonic() - begin
    assert codes[1 - victim] != 0
    assert "another task died" in texts[1 - victim][1]
    assert took < 60
    _, state, step = assembly.restore(tmp_path, task_class=contract_tasks.Linear)
    assert step >= 20
    assert state.step == step


@pytest.mark.slow
def test_an_error_in_one_process_ends_both_in_one_line(tmp_path):
    with two(tmp_path, LINEAR, other=["--lr=0.3"]) as pair:
        codes, ((_, main), (_, other)) = end(pair, 60)
    assert codes == [1, 1]
    said = "the processes of a run need the same flags: --lr is 0.3 in process 1"
    assert f"jaxfaces: {said}" in other
    assert f"jaxfaces: stopped, process 1: {said}" in main
    assert "Traceback" not in main + other
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").touch()
    with two(foreign, LINEAR) as pair:
        codes, ((_, main), (_, other)) = end(pair, 60)
    assert codes == [1, 1]
    assert "is not empty and holds no run" in main
    assert "jaxfaces: stopped, process 0: " in other
    visible = [p.name for p in foreign.iterdir() if not p.name.startswith(".")]
    assert visible == ["letter.txt"]


FAULTY = """
import dataclasses
import contract_tasks
import jax


class Faulty(contract_tasks.Linear):
    def streams(self, split, seed):
        stream = super().streams(split, seed)["train"]

        def read(rows):
            if split == "train" and jax.process_index() == 1 and 7 in rows:
                raise ValueError("row 7 cannot be read")
            return stream.read(rows)

        return {"train": dataclasses.replace(stream, read=read)}
"""


@pytest.mark.slow
def test_an_error_in_the_middle_of_a_run_ends_both_out_of_a_collective(
    tmp_path, monkeypatch
):
    (tmp_path / "faulty_task.py").write_text(FAULTY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    flags = ["--task=faulty_task:Faulty", "--eval_every=0", "--steps=50"]
    with two(tmp_path / "run", *flags) as pair:
        codes, ((_, main), (_, other)) = end(pair, 60)
    assert codes == [1, 1]
    assert "row 7 cannot be read" in other
    assert "jaxfaces: stopped, process 1: " in main
    assert "row 7 cannot be read" in main


@pytest.mark.slow
def test_slurm_is_found_by_its_variables(tmp_path, monkeypatch):
    port = free_port()
    pair = []
    for process in (0, 1):
        slurm = {"JOB_ID": 7, "STEP_NODELIST": "127.0.0.1", "NTASKS": 2}
        slurm |= {"PROCID": process, "LOCALID": process}
        for name, value in slurm.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))
        words = ["--distributed", LINEAR, f"--workdir={tmp_path / 'run'}"]
        pair.append(launch(*words, "--steps=4", "--eval_every=0"))
    codes, ((out, _), _) = end(pair)
    assert codes == [0, 0]
    assert "8 × cpu of 2 processes" in out


@pytest.mark.slow
def test_split_over_two_processes_a_run_is_the_same_and_can_be_measured(tmp_path):
    flags = ["--task=retrieval", "--dataset=made_up", "--image_size=16", "--width=8"]
    flags += ["--classes_per_batch=4", "--images_per_class=4", "--steps=4"]
    flags += ["--validation_fraction=0.25", "--eval_batch_size=16", "--eval_every=4"]
    flags += ["--optimizer=sgd", "--lr=0.01", "--clustering=false", "--workdir"]
    *flags, word = flags
    assert train.main([*flags, f"{word}={tmp_path / 'one'}", "--quiet"]) == 0
    split = [*flags, "--shard_state=full"]
    with two(tmp_path / "two", *split) as pair:
        codes, texts = end(pair)
    assert codes == [0, 0], texts
    one, both = (jaxfaces.load(tmp_path / name).variables for name in ("one", "two"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, both
    )
    assert evaluate.main([f"--workdir={tmp_path / 'two'}"]) == 0
    measured = json.loads(
        (tmp_path / "two" / "evaluations" / "validation_last.json").read_text()
    )
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert measured["measures"][0] == pytest.approx(
        summary["measures"]["validation"], abs=1e-4
    )


def test_a_process_that_stays_alone_gives_up_in_one_line(tmp_path):
    process = start(free_port(), 1, tmp_path / "x", LINEAR, "--join_seconds=1")
    codes, ((_, said),) = end([process], 60)
    assert codes == [1]
    assert "not all processes met through 127.0.0.1:" in said
    assert "Traceback" not in said
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"coordinator": "host:1"}, "belong together"),
        ({"processes": 2}, "belong together"),
        ({"process": 0, "processes": 2}, "belong together"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": ":1", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": "h:x", "processes": 2, "process": 0}, "must be HOST:PORT"),
        ({"coordinator": "h:1", "processes": 2, "process": 2}, "must be less than"),
    ],
)
def test_flags_of_a_process_are_checked_together(given, said):
    with pytest.raises(ValueError, match=said):
        Cluster(**given)


def test_processes_must_be_joined_before_jax_computes(tmp_path):
    jax.devices()
    cluster = Cluster(coordinator="127.0.0.1:1", processes=2, process=0)
    with (
        pytest.raises(RunError, match="joined before jax computes anything"),
        distributed.joined(cluster),
    ):
        raise AssertionError("not reached")


def test_one_process_shares_and_counts_with_itself():
    assert distributed.is_main()
    assert distributed.share((1, "a")) == (1, "a")
    assert distributed.total(3) == 3
    distributed.wait()
