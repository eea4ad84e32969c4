"""Notebooks run from top to bottom in a short form, and are stored without outputs."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Unoptimised programs: two steps cost nothing, compiling well costs half a minute.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

each_notebook = pytest.mark.parametrize(
    "notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS]
)


def read(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))


def code_cells(notebook):
    return [cell for cell in read(notebook)["cells"] if cell["cell_type"] == "code"]


def execute(notebook, folder):
    """Runs all cells in a process of their own; pictures go to folder/pictures."""
    env = os.environ | {
        "JAXFACES_NOTEBOOK_STEPS": "2",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder),
        "XLA_FLAGS": FLAGS,
    }
    words = [sys.executable, "-P", ROOT / "tests" / "notebook_cells.py"]
    return subprocess.run(
        [*words, notebook, folder / "pictures"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )


def made_up(folder, *sources):
    """A notebook with a code cell for each source."""
    cells = [
        {"cell_type": "code", "id": f"number-{i}", "source": source.splitlines(True)}
        for i, source in enumerate(sources)
    ]
    path = folder / "made_up.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    return path


@each_notebook
def test_every_cell_runs_and_pictures_show_something(notebook, tmp_path):
    done = execute(notebook, tmp_path)
    assert done.returncode == 0, done.stderr
    pictures = sorted((tmp_path / "pictures").glob("*.png"))
    assert pictures
    for picture in pictures:
        with Image.open(picture) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 2, picture.name


@each_notebook
def test_a_notebook_is_stored_without_outputs(notebook):
    for cell in code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@each_notebook
def test_the_format_is_that_of_jupyter_and_names_every_cell(notebook):
    content = read(notebook)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    names = [cell["id"] for cell in content["cells"]]
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name), name


@each_notebook
def test_cells_are_plain_python_that_any_runner_takes(notebook):
    for cell in code_cells(notebook):
        ast.parse("".join(cell["source"]), cell["id"])  # magics are no Python


@each_notebook
def test_a_notebook_names_files_that_exist(notebook):
    for cell in read(notebook)["cells"]:
        for path in re.findall(r"docs/[\w./-]+\.md", "".join(cell["source"])):
            assert (ROOT / path).exists(), path


def test_the_readme_names_every_notebook():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    for notebook in NOTEBOOKS:
        assert f"](notebooks/{notebook.name})" in text, notebook.name


def test_a_cell_that_raises_fails_and_is_named(tmp_path):
    notebook = made_up(tmp_path, "a = 1\n", "b = a\n1 / 0\n", "print('later')\n")
    done = execute(notebook, tmp_path)
    assert done.returncode != 0
    assert "made_up.ipynb, cell number-1" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "later" not in done.stdout


@pytest.mark.parametrize("source", ["%pip install jax\n", "!ls\n"])
def test_a_magic_fails(tmp_path, source):
    done = execute(made_up(tmp_path, source), tmp_path)
    assert "SyntaxError" in done.stderr
    assert done.returncode != 0


def test_pictures_are_those_that_jupyter_would_show(tmp_path):
    notebook = made_up(
        tmp_path,
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n",
        "from PIL import Image\nImage.new('L', (4, 4))\n",
        "from matplotlib.figure import Figure\nfigure = Figure()\nfigure\n",
        "figure;\n'no picture'\n",
        "# nothing at all\n",
    )
    done = execute(notebook, tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["number-0-0.png", "number-1-0.png", "number-2-0.png"]
