"""Damaged checkpoints: noticed, named, and gone back from only when asked to."""

import itertools
import json
import os
import shutil
import time
from pathlib import Path

import contract_tasks
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import jaxfaces
from jaxfaces import evaluate, train
from jaxfaces.engine import assembly, logs, loop
from jaxfaces.engine.checkpoints import Checkpoints
from jaxfaces.engine.errors import CheckpointError

SETTINGS = {"log_every": 3, "eval_every": 4, "checkpoint_every": 5, "quiet": True}
TASK = contract_tasks.TwoNetworks


def run(workdir, steps=12, **changes):
    settings = SETTINGS | {"devices": 1, "keep": 5} | changes
    return loop.run(TASK(steps=steps), workdir, **settings)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 12 steps with checkpoints at 4, 5, 8, 10 and 12."""
    workdir = tmp_path_factory.mktemp("finished")
    run(workdir)
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=os.path.getsize)


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def replace(path):
    path.write_bytes(b"something else altogether")


DAMAGE = {"cut": cut_short, "flipped": flip, "missing": Path.unlink, "foreign": replace}
PLACES = {
    "arrays": lambda step: largest(step / "tree" / "d"),
    "manifest": lambda step: step / "tree" / "manifest.ocdbt",
    "structure": lambda step: step / "tree" / "_METADATA",
    "notes": lambda step: step / "meta" / "metadata",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", PLACES)
def test_a_damaged_newest_checkpoint_stops_the_run_and_is_named(
    copy, damage, place, capfd
):
    DAMAGE[damage](PLACES[place](copy / "checkpoints" / "12"))
    with pytest.raises(CheckpointError) as caught:
        run(copy, steps=20)
    said = str(caught.value)
    assert f"{copy / 'checkpoints' / '12'} (step 12) is damaged" in said
    assert "--resume=latest_good goes back, at most to step 10" in said
    if place == "arrays":
        assert "leaf " in said
    assert (copy / "checkpoints" / "12").exists()  # nothing was touched
    assert "Traceback" not in capfd.readouterr().err


def test_wrong_numbers_that_orbax_restores_silently_are_named_by_leaf(copy):
    # What a byte flipped on disk may become: another checkpoint, complete and readable.
    tree, meta = restored(copy, 12)
    tree["state"] = tree["state"].replace(
        second={**tree["state"].second, "w": tree["state"].second["w"] + 1}
    )
    other = copy.parent / "other"
    with Checkpoints(other) as checkpoints:
        checkpoints.save(12, tree, meta, best=None)
    shutil.rmtree(copy / "checkpoints" / "12" / "tree")
    shutil.copytree(other / "12" / "tree", copy / "checkpoints" / "12" / "tree")
    message = "leaf state.second.w is not what was saved"
    with pytest.raises(CheckpointError, match=message):
        run(copy, steps=20)


def restored(workdir, step):
    from jaxfaces.engine import assembly

    parts, _, _ = assembly.restore(workdir, task_class=TASK)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(step, parts.template()), checkpoints.meta(step)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize("damaged", [(12,), (10, 12), (5, 8, 10, 12)])
def test_latest_good_goes_on_from_the_one_before_and_says_so(
    finished, copy, damaged, capsys, tmp_path
):
    for step in damaged:
        flip(PLACES["arrays"](copy / "checkpoints" / str(step)))
    run(copy, steps=20, resume="latest_good", quiet=False)
    said = capsys.readouterr().out
    good = max({4, 5, 8, 10, 12} - set(damaged))
    assert f"resuming at step {good} of 20" in said
    for step in damaged:
        assert f"(step {step}) is damaged" in said
        # Moved, not removed.
        assert (copy / "damaged" / str(step) / "tree").exists()
    # As if nothing had happened.
    shutil.copytree(finished, tmp_path / "whole")
    run(tmp_path / "whole", steps=20)
    same(restored(copy, 20)[0], restored(tmp_path / "whole", 20)[0])
    records = [logs.read(d / "metrics.jsonl") for d in (copy, tmp_path / "whole")]
    assert records[0] == records[1]


def test_latest_good_with_nothing_damaged_changes_nothing(copy, capsys):
    run(copy, steps=20, resume="latest_good", quiet=False)
    assert "resuming at step 12 of 20" in capsys.readouterr().out
    assert not (copy / "damaged").exists()


def test_if_every_checkpoint_is_damaged_the_run_stops_and_keeps_them(copy):
    for step in (copy / "checkpoints").iterdir():
        flip(PLACES["arrays"](step))
    with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
        run(copy, steps=20, resume="latest_good")
    assert len(list((copy / "checkpoints").iterdir())) == 5


def test_an_empty_directory_in_place_of_a_checkpoint(copy):
    (copy / "checkpoints" / "15").mkdir()
    with pytest.raises(CheckpointError, match=r"15 \(step 15\) is damaged"):
        run(copy, steps=20)
    assert run(copy, steps=20, resume="latest_good")["steps"] == 20


def test_foreign_files_beside_checkpoints_are_left_alone(copy):
    (copy / "checkpoints" / "notes.txt").write_text("mine")
    (copy / "checkpoints" / "old").mkdir()
    assert run(copy, steps=20)["steps"] == 20
    assert (copy / "checkpoints" / "notes.txt").read_text() == "mine"


def test_a_half_written_checkpoint_is_not_seen(copy, capsys):
    shutil.copytree(
        copy / "checkpoints" / "12", copy / "checkpoints" / "15.orbax-checkpoint-tmp"
    )
    run(copy, steps=20, quiet=False)
    assert "resuming at step 12" in capsys.readouterr().out
    assert not (copy / "checkpoints" / "15.orbax-checkpoint-tmp").exists()


def test_flags_that_change_shapes_are_told_apart_from_damage(tmp_path):
    one = contract_tasks.Memory(steps=6)
    settings = SETTINGS | {"devices": 1}
    loop.run(one, tmp_path, **settings)
    (tmp_path / "flags.cfg").write_text(
        (tmp_path / "flags.cfg").read_text().replace("examples=20", "examples=21")
    )
    (tmp_path / "sizes.json").write_text(json.dumps({"train": [21, 0]}))
    message = r"of another program or other flags: state.memory was float32\[20\]"
    for resume in ("newest", "latest_good"):
        with pytest.raises(CheckpointError, match=message) as caught:
            task = contract_tasks.Memory(steps=9, examples=21)
            loop.run(task, tmp_path, resume=resume, **settings)
        assert "damaged" not in str(caught.value)
        assert "latest_good" not in str(caught.value)


def test_the_command_says_it_in_one_line(copy, capsys):
    flip(PLACES["arrays"](copy / "checkpoints" / "12"))
    words = ["--task=contract_tasks:TwoNetworks", f"--workdir={copy}", "--steps=20"]
    words += [f"--{name}={value}" for name, value in SETTINGS.items()]
    words = [*map(str, words), "--devices=1", "--keep=5"]
    words = [word.replace("True", "true") for word in words]
    assert train.main(words) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "leaf" in err and "(step 12)" in err
    assert train.main([*words, "--resume=latest_good"]) == 0


def test_evaluate_names_the_damage_and_reads_others(copy, capsys):
    flip(PLACES["arrays"](copy / "checkpoints" / "12"))
    assert evaluate.main([f"--workdir={copy}"]) == 1
    assert "(step 12) is damaged: leaf" in capsys.readouterr().err
    assert evaluate.main([f"--workdir={copy}", "--checkpoint=10"]) == 0


def test_empty_leaves_and_keys_in_a_state_come_back(tmp_path):
    tree = {"none": jax.numpy.zeros((0, 3)), "key": jax.random.key(4), "a/b": {"c": 1}}
    tree["a/b"]["c"] = jax.numpy.float32(2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree, {"note": [1.5, None]}, best=None)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        found = checkpoints.restore(1, jax.eval_shape(lambda: tree))
        assert checkpoints.meta(1) == {"note": [1.5, None]}
    assert found["none"].shape == (0, 3)
    assert found["a/b"]["c"] == 2
    assert jax.random.key_data(found["key"]).tolist() == [0, 4]


def test_a_loaded_run_needs_no_checkpoint(copy):
    shutil.rmtree(copy / "checkpoints")
    assert jaxfaces.load(copy, task_class=TASK).step == 12


def test_a_reader_follows_a_run_that_replaces_its_checkpoints(copy, monkeypatch):
    restore, tried = Checkpoints.restore, []

    def replaced_first(self, step, like):
        tried.append(step)
        if len(tried) < 4:
            shutil.rmtree(self.folder / str(step))
        return restore(self, step, like)

    monkeypatch.setattr(Checkpoints, "restore", replaced_first)
    _, _, step = assembly.restore(copy, task_class=TASK)
    assert tried == [12, 10, 8, 5]
    assert step == 5


def test_a_checkpoint_that_is_half_deleted_is_not_called_damaged(copy, monkeypatch):
    folder, restore = copy / "checkpoints" / "10", Checkpoints.restore

    def half_deleted(self, step, like):
        shutil.rmtree(folder / "tree")
        return restore(self, step, like)

    monkeypatch.setattr(Checkpoints, "restore", half_deleted)
    monkeypatch.setattr(time, "sleep", lambda _: shutil.rmtree(folder, True))
    with pytest.raises(CheckpointError, match=r"--checkpoint=10 must be last, best or"):
        assembly.restore(copy, checkpoint="10", task_class=TASK)


def test_a_run_that_is_always_ahead_of_its_reader_is_said_to_be(copy, monkeypatch):
    def damaged(self, step, like):
        raise CheckpointError("gone")

    ever = itertools.count()
    monkeypatch.setattr(Checkpoints, "restore", damaged)
    monkeypatch.setattr(Checkpoints, "steps", lambda self: [next(ever)])
    monkeypatch.setattr(assembly, "DELETION", 0)
    with pytest.raises(CheckpointError, match="faster than.*--checkpoint_every"):
        assembly.restore(copy, task_class=TASK)


@pytest.mark.parametrize("gone", [FileNotFoundError, NotADirectoryError])
def test_a_folder_is_listed_anew_when_an_entry_goes(copy, monkeypatch, gone):
    name, times = "_load_checkpoint_infos", []  # of the constructor and of reload
    load = getattr(ocp.CheckpointManager, name)

    def too_late_at_first(self, *args, **kwargs):
        times.append(1)
        if len(times) % 2:
            raise gone("10")
        return load(self, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, name, too_late_at_first)
    with Checkpoints(copy / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [4, 5, 8, 10, 12]
    assert len(times) == 4
