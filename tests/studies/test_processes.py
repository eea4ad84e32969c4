"""Studies as processes that are killed, stopped, and share a folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
STUDY = """--task=contract_tasks:Linear --devices=1 --steps=20 --eval_every=5
--checkpoint_every=5 --nopercent --seeds=0,1 --arm=a""".split()


def start(folder, *words):
    path = [str(ROOT / "tests/engine"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    places = [f"--workdir={folder / 'study'}", f"--out={folder / 'out'}"]
    return subprocess.Popen(
        [sys.executable, "-m", "jaxfaces.study", *STUDY, *places, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, code=0):
    out, err = process.communicate(timeout=580)
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    assert condition()


def begun(folder):
    return any(each.name.isdigit() for each in (folder / "checkpoints").glob("*"))


def owner(folder):
    """The training process of a run."""
    return int((folder / ".lock").read_text().split()[1])


def finished_once(out, label):
    return out.count(f"{label}: finished in") == 1


def test_two_processes_do_each_run_once_and_write_the_same(tmp_path):
    arm = "--arm=b --lr=0.1"
    first, second = start(tmp_path, arm), start(tmp_path, arm)
    said = finish(first) + finish(second)
    for label in ("a/seed_0", "a/seed_1", "b/seed_0", "b/seed_1"):
        assert finished_once(said, label), said
    found = json.loads((tmp_path / "out/study.json").read_text())
    assert all(r["status"] == "finished" for r in found["arms"]["b"]["runs"])


def test_a_killed_study_leaves_a_run_that_the_next_one_waits_for(tmp_path):
    slowly = ("--seeds=0", "--pause=0.4")
    study, run = start(tmp_path, *slowly), tmp_path / "study/a/seed_0"
    wait_for(lambda: begun(run), study)
    study.kill()
    study.wait()
    said = finish(start(tmp_path, *slowly))
    assert "waiting for 1 runs of other processes" in said
    assert "finished in" not in said  # the orphan did it
    assert (tmp_path / "out/study.md").exists()


def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path):
    slowly = ("--seeds=0", "--pause=0.2")
    study, run = start(tmp_path, *slowly), tmp_path / "study/a/seed_0"
    wait_for(lambda: (run / "checkpoints/5").exists(), study)
    os.kill(owner(run), signal.SIGKILL)
    said = finish(study)
    assert "a/seed_0: killed by signal 9" in said
    assert finished_once(said, "a/seed_0")
    assert not (tmp_path / "study/a/seed_0.seconds").exists()  # it was resumed
    whole = tmp_path / "whole"
    finish(start(whole, "--seeds=0"))
    cut, straight = (
        json.loads((folder / "out/study.json").read_text())["arms"]["a"]["measures"]
        for folder in (tmp_path, whole)
    )
    assert cut == straight


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stopped_study_saves_and_goes_on(tmp_path, number, code):
    slowly = ("--seeds=0", "--pause=0.3")
    study, run = start(tmp_path, *slowly), tmp_path / "study/a/seed_0"
    wait_for(lambda: begun(run), study)
    study.send_signal(getattr(signal, number))
    _, err = study.communicate(timeout=300)
    assert study.returncode == code and "1 of 1 runs left" in err
    assert not (tmp_path / "study/a/seed_0.failed.json").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(owner(run), 0)
    assert finished_once(finish(start(tmp_path, "--seeds=0")), "a/seed_0")


def test_a_dry_run_probes_where_nothing_was_done(tmp_path):
    said = finish(start(tmp_path, "--dry_run"))
    assert "from a probe of a" in said and "predicted time" in said
    assert not (tmp_path / "study").exists()
