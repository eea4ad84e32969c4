"""The examples in the documentation run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_the_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in re.findall(
        r"(?:configs|docs|tests)/[\w./-]+\.(?:cfg|md|json|png|py)", text
    ):
        assert (ROOT / path).exists(), path
