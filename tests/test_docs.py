"""The examples in the documentation run as they stand."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def example(tmp_path):
    text = (ROOT / "docs" / "adding_a_task.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "digits_task.py").write_text(code, encoding="utf-8")
    return tmp_path


def train(folder, *flags):
    env = dict(os.environ, PYTHONPATH=str(folder))
    words = [sys.executable, "-m", "jaxfaces.train", "--task=digits_task:Digits"]
    return subprocess.run(
        [*words, *flags],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def test_the_example_task_trains_from_the_command_line(example):
    done = train(example, "--workdir=run", "--steps=150", "--microbatch=16", "--test")
    assert done.returncode == 0, done.stderr
    summary = json.loads((example / "run" / "summary.json").read_text())
    assert summary["measures"]["test"]["accuracy"] > 0.8
    assert summary["measures"]["test_initial"]["accuracy"] < 0.4


def test_the_example_task_explains_its_flags(example):
    done = train(example, "--help")
    assert "--batch_size" in done.stdout
    assert "--clip_norm" in done.stdout


SMALL = (
    "--steps=1 --eval_every=0 --test=false --devices=1 --quiet --width=4 "
    "--classes_per_batch=2 --images_per_class=2 --loss=contrastive "
    "--rotated_classes=false --rotation=0 --scale=0 --translation=0"
).split()


def test_the_page_on_trained_runs_works_from_top_to_bottom(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "using_a_trained_run.md").read_text(encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    names, done = {"images": images}, []
    for kind, code in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        if kind == "python":
            exec(compile(code, "using_a_trained_run.md", "exec"), names)
            done.append(np.asarray(names["embeddings"]))
        elif not kind:
            _, _, module, *flags = shlex.split(code.replace("\\\n", ""))
            more = SMALL if module == "jaxfaces.train" else []
            assert importlib.import_module(module).main([*flags, *more]) == 0
        else:
            about = json.loads((tmp_path / "quickstart.jaxexport.json").read_text())
            shown = json.loads(f"{{{code}}}")
            assert shown == {name: about[name] for name in shown}
    assert len(done) == 4
    assert done[0].shape == (3, 32)
    largest = np.abs(done[0]).max()
    for embeddings in done[1:]:
        np.testing.assert_allclose(embeddings, done[0], rtol=0, atol=1e-6 * largest)


QUICK = "--eval_every=0 --devices=1 --quiet --width=4 --batch_size=16 --cpu_conv=off"


def test_the_page_on_searching_works_from_top_to_bottom(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "policy_search.md").read_text(encoding="utf-8")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    for path in re.findall(r"configs/[\w/]+\.cfg", text):
        assert (ROOT / path).exists(), path
    more = {
        "search": ["--steps=2", "--operations=Rotate,Invert,Color"],
        "digits": ["--steps=1", "--test=false"],
    }
    names: dict = {}
    for kind, code in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL):
        if kind == "python":
            exec(compile(code, "policy_search.md", "exec"), names)
            continue
        commands = code.replace("\\\n", "").splitlines()
        for command, flags in zip(commands, more.values(), strict=True):
            _, _, module, *given = shlex.split(command)
            main = importlib.import_module(module).main
            assert main([*given, *QUICK.split(), *flags]) == 0
    assert len(names["searched"].logits) == len(names["ten"].logits) == 3


def test_the_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(
        r"(?:configs|docs|tests)/[\w./-]+\.(?:cfg|md|json|png|py)", text
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"])
def test_no_page_has_a_gap_that_was_to_be_filled(page):
    assert not re.findall(r"^[A-Z]+_[A-Z_]+$", page.read_text(encoding="utf-8"), re.M)


def test_the_page_on_the_metric_wing_works_from_top_to_bottom():
    text = (ROOT / "docs" / "metric.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    exec("\n".join(blocks), names)  # the page is ours
    assert np.isfinite(names["value"])
    assert names["slope"].shape == names["embeddings"].shape


def test_the_page_on_the_metric_wing_names_what_there_is():
    import metric

    text = (ROOT / "docs" / "metric.md").read_text(encoding="utf-8")
    named = set(re.findall(r"metric\.(\w+)\(", text))
    named |= set(re.findall(r"`(\w+_(?:loss|measures|pairs))`", text))
    assert {name for name in named if not hasattr(metric, name)} == set()
    losses = {name for name in dir(metric) if name.endswith("_loss")}
    assert losses <= set(re.findall(r"\w+_loss", text))
