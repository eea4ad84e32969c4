"""Nothing that is read from disk is unpickled or run: in the source, and when tried."""

import ast
import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxfaces import evaluate, train
from jaxfaces.data import images, listings, sources
from jaxfaces.data.errors import DataError
from jaxfaces.engine import variables
from jaxfaces.engine.errors import RunError

ROOT = Path(__file__).parents[2]
PACKAGES = ("jaxfaces", "augment", "metric", "finance")
MODULES = {
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "jsonpickle",
    "klepto",
    "marshal",
    "pickle",
    "_pickle",
    "shelve",
    "tensorflow",
    "torch",
}
# Functions by their last name, wherever they come from.
CALLS = {
    "eval",
    "exec",
    "__import__",
    "execfile",
    "full_load",
    "read_hdf",
    "read_pickle",
    "unsafe_load",
    "run_path",
}


def offences(tree):
    """What a module does that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [node.module or ""]
        else:
            found = []
        yield from (name for name in found if name.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from called(node)


def called(node):
    name = ast.unparse(node.func)
    owner, _, last = name.rpartition(".")
    words = {word.arg: word.value for word in node.keywords}
    if last in CALLS or name == "compile":
        yield name
    # numpy's readers unpickle unless told not to; yaml's builds any object.
    loads = last == "load" and owner in ("np", "numpy", "jnp", "jax.numpy")
    if loads or last == "read_array":
        if getattr(words.get("allow_pickle"), "value", None) is not False:
            yield f"{name} without allow_pickle=False"
    if "allow_pickle" in words and ast.unparse(words["allow_pickle"]) != "False":
        yield f"{name} with allow_pickle"
    if name in ("yaml.load", "yaml.load_all"):
        yield name
    if last == "import_module":
        yield last


def allowed(name, what):
    """A task is named by its user; packages load their own modules late."""
    late = name == "jaxfaces.registry" or name.endswith(".__init__")
    return late and what == "import_module"


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def test_the_source_neither_unpickles_nor_evaluates():
    found = [(name, what) for name, tree in modules() for what in offences(tree)]
    assert [each for each in found if not allowed(*each)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch.nn",
        "import numpy as np; np.load('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "import numpy as np; np.load('x', allow_pickle=flag)",
        "numpy.lib.format.read_array(f)",
        "import yaml; yaml.load(f)",
        "pandas.read_pickle('x')",
        "eval('1')",
        "compile('1', 'x', 'eval')",
        "importlib.import_module(name)",
    ],
)
def test_the_search_finds_what_it_looks_for(code):
    assert list(offences(ast.parse(code)))


def test_the_search_lets_the_rest_pass():
    code = "import re; re.compile('x'); np.load('x', allow_pickle=False); json.load(f)"
    assert list(offences(ast.parse(code))) == []


class Bait:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """What exists once something was unpickled; checked at the end of every test."""
    path = tmp_path / "unpickled"
    yield path
    assert not path.exists()


@pytest.fixture
def bait(marker):
    return pickle.dumps(Bait(marker))


def test_the_bait_works(tmp_path):
    path = tmp_path / "taken"
    pickle.loads(pickle.dumps(Bait(path)))
    assert path.exists()
    np.savez(tmp_path / "x.npz", image=np.array([Bait(tmp_path / "too")], object))
    with np.load(tmp_path / "x.npz", allow_pickle=True) as file:
        file["image"]
    assert (tmp_path / "too").exists()


GOOD = {
    "image": np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8),
    "label": np.arange(16) // 4,
    "class_names": np.array(list("abcd")),
    "split": np.array(["train", "test"] * 8),
}


@pytest.mark.parametrize("name", GOOD)
def test_objects_in_an_npz_are_refused_by_name(tmp_path, marker, capsys, name):
    arrays = GOOD | {name: np.array([Bait(marker)] * 16, object)}
    np.savez(tmp_path / "x.npz", **arrays)
    words = ["--task=retrieval", f"--dataset=npz:{tmp_path / 'x.npz'}"]
    assert train.main([*words, f"--workdir={tmp_path / 'run'}"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"x.npz: the array {name!r} holds Python objects" in err


def test_objects_that_nobody_asks_for_stay_where_they_are(tmp_path, marker):
    np.savez(tmp_path / "x.npz", other=np.array([Bait(marker)], object), **GOOD)
    assert len(sources.load(f"npz:{tmp_path / 'x.npz'}", "all")) == 16


def test_a_header_that_lies_about_objects_is_refused(tmp_path, marker, bait):
    """The array says uint8, what follows is a pickle."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, GOOD["image"])
    data = stream.getvalue()[: -GOOD["image"].nbytes] + bait
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("image.npy", data)
        file.writestr("label.npy", data)
    with pytest.raises(DataError, match="the array 'image' is damaged"):
        sources.load(f"npz:{tmp_path / 'x.npz'}", "all")


@pytest.mark.parametrize("inside", [False, True])
def test_a_pickle_by_the_name_of_an_npz_is_refused(tmp_path, bait, inside):
    path = tmp_path / "x.npz"
    path.write_bytes(bait)
    if inside:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("image.npy", bait)
            file.writestr("label.npy", bait)
    with pytest.raises(DataError, match="x.npz: (no .npz file|the array 'image' is)"):
        sources.load(f"npz:{path}", "all")


def test_a_pickle_by_the_name_of_an_image_is_refused(bait):
    with pytest.raises(images.ImageError, match="not an image"):
        images.decode(bait)


def test_a_pickle_by_the_name_of_a_matlab_file_is_refused(tmp_path, bait):
    (tmp_path / "cars_annos.mat").write_bytes(bait + bytes(1000))
    with pytest.raises(DataError, match="is not a MATLAB file"):
        listings.matlab(tmp_path / "cars_annos.mat")


def test_a_pickle_by_the_name_of_a_safetensors_file_is_refused(tmp_path, bait):
    (tmp_path / "params.safetensors").write_bytes(bait)
    with pytest.raises(RunError, match="params.safetensors cannot be read"):
        variables.load(tmp_path / "params.safetensors")


def test_a_pickle_anywhere_in_a_prepared_data_set_is_refused(tmp_path, bait):
    from jaxfaces.data import builders, layouts

    root = tmp_path / "images"
    for name in "abcd":
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "0.png")
    builders.write(layouts.folder(root), root, name="made", data_dir=tmp_path)
    folder = tmp_path / "made" / "1.0.0"
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(bait)
        if "test" not in path.name:
            with pytest.raises(DataError):
                sources.load("made", "train", data_dir=str(tmp_path))
        path.write_bytes(whole)
    assert len(sources.load("made", "train", data_dir=str(tmp_path))) == 2


def test_a_pickle_anywhere_in_a_run_directory_is_not_unpickled(
    tmp_path, bait, marker, capsys
):
    words = ["--task=contract_tasks:Linear", "--steps=2", "--eval_every=2", "--quiet"]
    assert train.main([*words, f"--workdir={tmp_path / 'whole'}"]) == 0
    whole = tmp_path / "whole"
    files = [path.relative_to(whole) for path in whole.rglob("*") if path.is_file()]
    # Every file of the run itself, and of its checkpoint, becomes a pickle at once.
    for chosen in ({"flags.cfg"}, {"checkpoints"}, {str(f.parts[0]) for f in files}):
        run = tmp_path / "run"
        shutil.copytree(whole, run)
        for file in files:
            if file.parts[0] in chosen:
                (run / file).write_bytes(bait)
        capsys.readouterr()
        place = f"--workdir={run}"
        for command, given in (
            (train.main, [words[0], "--steps=3", "--quiet", place]),
            (evaluate.main, [place]),
        ):
            assert command(given) == 1
            err = capsys.readouterr().err
            assert len(err.splitlines()) == 1, err
            assert not marker.exists()
        shutil.rmtree(run)
