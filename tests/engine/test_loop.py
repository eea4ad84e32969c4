"""Runs that are killed, lengthened, refused, profiled; what their directory holds."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import contract_tasks
import jax
import numpy as np
import pytest
from commands import wait_for_step
from tensorboardX.proto import event_pb2

import jaxfaces
from jaxfaces import evaluate, train
from jaxfaces.engine import logs, loop
from jaxfaces.engine.config import knob
from jaxfaces.engine.errors import DivergedError, RunError

SETTINGS = {"log_every": 3, "eval_every": 4, "checkpoint_every": 5, "quiet": True}
TASK = "--task=contract_tasks:Linear"


def run(task, workdir, **changes):
    return loop.run(task, workdir, **(SETTINGS | {"devices": 1} | changes))


def params(workdir):
    return jaxfaces.load(workdir, task_class=contract_tasks.Linear).variables


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, params(a), params(b))


def command(workdir, *flags):
    words = [sys.executable, "-m", "jaxfaces.train", TASK, f"--workdir={workdir}"]
    words += ["--devices=1", "--log_every=3", "--eval_every=4", "--checkpoint_every=5"]
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    # The parent's simulated devices would change the compiled program.
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [*words, *flags],
        env=env | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_9_in_the_middle_loses_nothing(tmp_path):
    whole = command(tmp_path / "whole", "--steps=40")
    assert whole.wait(240) == 0
    for step in (3, 16):
        process = command(tmp_path / "cut", "--steps=40", "--pause=0.05")
        wait_for_step(tmp_path / "cut", step, process)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    resumed = command(tmp_path / "cut", "--steps=40")
    out, err = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, err
    assert "resuming at step" in out
    assert_same(tmp_path / "cut", tmp_path / "whole")
    records = [logs.read(tmp_path / n / "metrics.jsonl") for n in ("cut", "whole")]
    assert records[0] == records[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_saves_and_says_how_to_go_on(tmp_path, number):
    process = command(tmp_path, "--steps=400", "--pause=0.05")
    wait_for_step(tmp_path, 6, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "the state is saved. Give the same command to go on" in err
    assert "Traceback" not in err
    saved = max(int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert saved >= 6


def test_more_steps_lengthen_a_finished_run(tmp_path):
    task = contract_tasks.Linear
    run(task(), tmp_path / "long")
    run(task(steps=30), tmp_path / "long")
    # The same from the start: 30 steps with the schedules of 12.
    run(task(steps=30), tmp_path / "once", schedule_steps=12)
    assert_same(tmp_path / "long", tmp_path / "once")
    # The flagfile it leaves repeats the run.
    flags = (tmp_path / "long" / "flags.cfg").read_text()
    assert "--steps=30" in flags
    assert "--schedule_steps=12" in flags
    # And it can be lengthened again.
    assert run(task(steps=32), tmp_path / "long")["steps"] == 32


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first = run(contract_tasks.Linear(), tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert run(contract_tasks.Linear(), tmp_path) == first
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@dataclasses.dataclass(frozen=True)
class Other(contract_tasks.Linear):
    """With a flag of its own."""

    reach: int = knob(1, "Of nothing.", lower=1)


def test_the_folder_of_another_task_is_refused_by_its_name(tmp_path):
    run(Other(), tmp_path)
    with pytest.raises(
        RunError, match="a run of another task, --task=.*test_loop:Other"
    ):
        run(contract_tasks.Linear(), tmp_path)


def test_another_flag_is_refused_by_name(tmp_path):
    run(contract_tasks.Linear(), tmp_path)
    with pytest.raises(RunError, match="--batch_size was 8, is 4"):
        run(contract_tasks.Linear(batch_size=4), tmp_path)
    with pytest.raises(RunError, match="--seed was 0, is 1"):
        run(contract_tasks.Linear(), tmp_path, seed=1)
    with pytest.raises(RunError, match="--steps was 12, is 6"):
        run(contract_tasks.Linear(steps=6), tmp_path)


def test_a_flag_that_changes_no_result_may_change(tmp_path):
    run(contract_tasks.Linear(), tmp_path)
    run(contract_tasks.Linear(pause=0.001), tmp_path, log_every=2, threads=1)


def test_a_start_that_failed_does_not_block_its_folder(tmp_path):
    with pytest.raises(ValueError, match="--devices=99"):
        run(contract_tasks.Linear(), tmp_path, devices=99)
    with pytest.raises(ValueError, match="cannot be split"):
        run(contract_tasks.Linear(batch_size=6), tmp_path, devices=4)
    assert run(contract_tasks.Linear(), tmp_path)["steps"] == 12


def test_killed_after_its_last_checkpoint_logs_nothing_twice(tmp_path, monkeypatch):
    task = contract_tasks.Relabel()  # enters a phase right after a checkpoint, too
    run(task, tmp_path / "whole", test=True, checkpoint_every=3)
    with monkeypatch.context() as patch:
        patch.setattr(loop.report, "summarize", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(task, tmp_path / "cut", test=True, checkpoint_every=3)
    run(task, tmp_path / "cut", test=True, checkpoint_every=3)
    records = [logs.read(tmp_path / n / "metrics.jsonl") for n in ("cut", "whole")]
    assert records[0] == records[1]


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no run"):
        run(contract_tasks.Linear(), tmp_path)
    with pytest.raises(RunError, match="cannot be written"):
        run(contract_tasks.Linear(), tmp_path / "thesis.tex")


def test_changed_data_are_noticed(tmp_path):
    run(contract_tasks.Linear(), tmp_path)
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert sizes == {"train": [20, 0]}
    (tmp_path / "sizes.json").write_text(json.dumps({"train": [21, 0]}))
    with pytest.raises(RunError, match="data changed"):
        run(contract_tasks.Linear(steps=20), tmp_path)


@pytest.mark.parametrize("nan_at", [0, 7])
def test_nan_stops_the_run_and_names_step_metric_and_checkpoint(tmp_path, nan_at):
    task = contract_tasks.Linear(nan_at=nan_at)
    good = 0 if nan_at == 0 else 5
    message = f"step {nan_at + 1}: train/loss is not finite.*step {good} in"
    with pytest.raises(DivergedError, match=message):
        run(task, tmp_path, eval_every=0 if nan_at else 4)
    names = {int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")}
    assert max(names, default=0) <= nan_at


def test_a_second_compilation_is_counted_and_warned_of():
    said = []
    task = contract_tasks.Linear()
    from jaxfaces.engine import assembly

    parts = assembly.assemble(task, loop.Options(devices=1), warn=said.append)
    phase, batch = parts.timeline.phases[0], parts.first_batch()
    tree, _ = parts.program.step(phase, parts.start(), batch, 0)
    parts.program.step(phase, tree, jax.tree.map(lambda x: x[:4], batch), 1)
    assert parts.program.compilations == 2
    assert "phase 'train' was compiled 2 times" in said[0]
    assert "['batch']['train']['x'] was float32[8, 3], is float32[4, 3]" in said[0]


def test_best_and_newest_checkpoints_are_kept(tmp_path):
    # A rate that overshoots: the measure is best before the end.
    task = contract_tasks.Linear(steps=40, noise=1.0)
    summary = run(task, tmp_path, eval_every=4, checkpoint_every=4, keep=2)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")}
    assert kept == {36, 40} | {summary["best"]["step"]}
    best = jaxfaces.load(tmp_path, best=True, task_class=type(task))
    assert best.step == summary["best"]["step"]


def test_loaded_variables_predict_as_the_run_did(tmp_path):
    task = contract_tasks.Linear()
    summary = run(task, tmp_path)
    loaded = jaxfaces.load(tmp_path)
    assert loaded.task == task
    columns = task.columns("validation")
    error = np.asarray(jax.jit(loaded.apply)(loaded.variables, columns)) - columns["y"]
    expected = summary["measures"]["validation"]["mse"]
    assert np.mean(error**2) == pytest.approx(expected, rel=1e-5)


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        jaxfaces.load(tmp_path)
    run(contract_tasks.Linear(), tmp_path / "run")
    (tmp_path / "run" / "params.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(RunError, match="params.safetensors cannot be read"):
        jaxfaces.load(tmp_path / "run")


def test_evaluate_measures_any_split_and_checkpoint(tmp_path, capsys):
    summary = run(contract_tasks.Linear(), tmp_path, test=True)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    for split, checkpoint in (
        ("validation", "last"),
        ("test", "last"),
        ("train", "10"),
    ):
        words = [f"--workdir={tmp_path}", f"--split={split}"]
        assert evaluate.main([*words, f"--checkpoint={checkpoint}"]) == 0
        path = tmp_path / "evaluations" / f"{split}_{checkpoint}.json"
        found = json.loads(path.read_text())["measures"][0]["mse"]
        if split != "train":
            expected = summary["measures"][split]["mse"]
            assert found == pytest.approx(expected, rel=1e-6)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before
    capsys.readouterr()
    assert evaluate.main([f"--workdir={tmp_path}", "--checkpoint=7"]) == 1
    assert "must be last, best or one of" in capsys.readouterr().err


def test_the_log_is_cut_back_and_survives_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with logs.Log(tmp_path, step=0, lines=0) as log:
        for step in (1, 2, 3):
            log.write(step, {"a": float(step), "bad": float("nan")})
    path.write_text(path.read_text() + '{"step": 4, "na')
    with logs.Log(tmp_path, step=2, lines=4) as log:
        log.write(3, {"a": 30.0})
        values = [(r["step"], r["value"]) for r in log.records()]
    assert values == [(1, 1.0), (1, None), (2, 2.0), (2, None), (3, 30.0)]


def test_tensorboard_gets_the_same_values(tmp_path):
    run(contract_tasks.Linear(), tmp_path)
    events = b"".join(p.read_bytes() for p in tmp_path.glob("events*"))
    found, position = {}, 0
    while position < len(events):  # length, crc, event, crc
        length = int.from_bytes(events[position : position + 8], "little")
        data = events[position + 12 : position + 12 + length]
        for value in event_pb2.Event.FromString(data).summary.value:
            event = event_pb2.Event.FromString(data)
            found[event.step, value.tag] = value.simple_value
        position += 16 + length
    for record in logs.read(tmp_path / "metrics.jsonl"):
        key = (record["step"], record["name"])
        assert found[key] == pytest.approx(record["value"], rel=1e-6)


def test_a_profile_is_written(tmp_path):
    for start in (0, 3):
        run(contract_tasks.Linear(), tmp_path / str(start), profile=f"{start}:2")
        assert list((tmp_path / str(start) / "profile").rglob("*.xplane.pb"))


def test_worker_processes_read_the_same_batches(tmp_path):
    run(contract_tasks.Linear(), tmp_path / "threads")
    # What takes time to read is not in memory, so that a process of its own reads it.
    process = command(tmp_path / "workers", "--workers=1", "--pause=0.001")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert_same(tmp_path / "threads", tmp_path / "workers")


def test_a_batch_that_does_not_divide_among_devices_is_named(tmp_path):
    with pytest.raises(ValueError, match="8 rows cannot be split over 3 devices"):
        run(contract_tasks.Linear(), tmp_path, devices=3)
    with pytest.raises(ValueError, match="--devices=99"):
        run(contract_tasks.Linear(), tmp_path / "b", devices=99)


def test_smoke_runs_two_steps(tmp_path, capsys):
    words = [TASK, f"--workdir={tmp_path}", "--smoke", "--devices=1"]
    assert train.main(words) == 0
    assert "2 steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["steps"] == 2
