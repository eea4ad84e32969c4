"""Exported runs: equal outputs in a process without this library, damage is named."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import namedtuple

import contract_tasks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfaces
from jaxfaces import export
from jaxfaces.engine import commandline, config, exporting, variables
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.rundir import RunDir
from jaxfaces.tasks.retrieval import Retrieval

# Flags, the shape of an image, numbers of rows (each is compiled twice).
NETWORKS = {
    "small": ({"pool": "flatten", "crop_size": 16}, (18, 18, 1), (1, 3, 8)),
    "half": ({"dtype": "bfloat16"}, (16, 16, 3), (1, 3, 8)),
    "resnet18": ({"backbone": "resnet18"}, (32, 32, 3), (3,)),
    "resnet50": ({"backbone": "resnet50", "dtype": "bfloat16"}, (32, 32, 3), (3,)),
}
# What a user writes who has jax alone.
ALONE = """
import sys
for name in ("jaxfaces", "metric", "augment", "flax", "optax", "orbax", "safetensors"):
    sys.modules[name] = None
import jax, numpy as np
for name in sys.argv[2:]:
    given = np.load(f"{sys.argv[1]}/{name}.npz")
    with open(f"{sys.argv[1]}/{name}.jaxexport", "rb") as file:
        predict = jax.jit(jax.export.deserialize(file.read()).call)
    found = {rows: predict({"image": images}) for rows, images in given.items()}
    np.savez(f"{sys.argv[1]}/{name}_found.npz", **found)
"""


def write_run(folder, task, columns, values):
    """A run directory as training leaves it, without training."""
    folder.mkdir()
    run, options = RunDir(folder), Options(seed=5)
    commandline.write_flagfile(run.flags, "made by a test", task, options)
    types = {
        name: {"dtype": np.dtype(dtype).name, "shape": list(shape)}
        for name, (dtype, shape) in columns.items()
    }
    run.columns.write_text(json.dumps(types))
    about = variables.describe(task, options, step=7, seed=0)
    variables.save(run.params(), values, metadata=about)
    return folder


def network_run(folder, changes, shape):
    task = config.replace(Retrieval(), {"embedding_size": 8, "width": 4, **changes})
    columns = {"image": (np.uint8, shape), "label": (np.int32, ())}
    batch = {"train": {"image": np.zeros((1, *shape), np.uint8)}}
    kinds = jax.eval_shape(
        lambda key: task.inference(task.init(key, batch, {"train": (1, 1)})),
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)
    # Positive, because variances are among them.
    values = jax.tree.map(lambda x: rng.uniform(0.5, 1, x.shape).astype(x.dtype), kinds)
    values["params"] = jax.tree.map(lambda x: (x - 0.75) / 4, values["params"])
    return write_run(folder, task, columns, values)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every network exported, and what it predicts here and in a bare process."""
    folder = tmp_path_factory.mktemp("exported")
    wanted = {}
    for name, (changes, shape, rows) in NETWORKS.items():
        workdir = network_run(folder / name, changes, shape)
        rng = np.random.default_rng(1)
        given = {str(n): rng.integers(0, 256, (n, *shape), np.uint8) for n in rows}
        np.savez(folder / f"{name}.npz", **given)
        exporting.export(workdir, folder / f"{name}.jaxexport")
        trained = jaxfaces.load(workdir)
        apply = jax.jit(trained.apply)
        wanted[name] = {
            rows: np.asarray(apply(trained.variables, {"image": images}))
            for rows, images in given.items()
        }
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    words = [sys.executable, "-c", ALONE, str(folder), *NETWORKS]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, wanted


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_equal_without_the_library_for_any_number_of_rows(exported, name):
    folder, wanted = exported
    with np.load(folder / f"{name}_found.npz") as found:
        for rows, outputs in wanted[name].items():
            assert outputs.shape == (int(rows), 8)
            assert np.ptp(outputs) > 1e-3
            np.testing.assert_allclose(found[rows], outputs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_holds_a_program_for_each_platform_and_says_what_it_takes(exported, name):
    folder, _ = exported
    about = json.loads((folder / f"{name}.jaxexport.json").read_text())
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    shape = ["b", *NETWORKS[name][1]]
    assert about["inputs"] == {"image": {"dtype": "uint8", "shape": shape}}
    assert about["outputs"] == {"": {"dtype": "float32", "shape": ["b", 8]}}
    assert (about["task"], about["step"], about["seed"]) == ("retrieval", 7, 5)
    assert "--embedding_size=8" in about["flags"]
    assert not [line for line in about["flags"] if line.startswith("--data_dir")]


def test_our_loader_gives_the_same_and_explains_a_wrong_batch(exported):
    folder, wanted = exported
    model = jaxfaces.load_exported(folder / "small.jaxexport")
    with np.load(folder / "small.npz") as given:
        images = given["3"]
    outputs = model({"image": images})
    np.testing.assert_allclose(outputs, wanted["small"]["3"], rtol=0, atol=1e-6)
    assert model.metadata["step"] == 7
    for batch, words in {
        "picture": ({"picture": images}, r"a batch has \['image'\]"),
        "float": ({"image": images / 255}, r"uint8 \(b, 18, 18, 1\).* got float32"),
        "size": ({"image": images[:, :9]}, r"got uint8 \(3, 9, 18, 1\)"),
        "one": ({"image": images[0]}, r"got uint8 \(18, 18, 1\)"),
        "none": ({"image": images[:0]}, "b >= 1"),
    }.values():
        with pytest.raises(ValueError, match=words):
            model(batch)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.999])
def test_a_flipped_byte_is_noticed(exported, tmp_path, part):
    folder, _ = exported
    content = bytearray((folder / "small.jaxexport").read_bytes())
    content[int(part * len(content))] ^= 4
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "x.json").write_text((folder / "small.jaxexport.json").read_text())
    with pytest.raises(RunError, match="x is damaged.*export the run again"):
        jaxfaces.load_exported(tmp_path / "x")


def test_foreign_and_missing_files_are_named(exported, tmp_path):
    folder, _ = exported
    path = tmp_path / "x"
    with pytest.raises(RunError, match="x.json is missing"):
        jaxfaces.load_exported(path)
    (tmp_path / "x.json").write_text((folder / "small.jaxexport.json").read_text())
    with pytest.raises(RunError, match="x cannot be read"):
        jaxfaces.load_exported(path)
    path.write_bytes(b"not an exported run")
    with pytest.raises(RunError, match="x is damaged"):
        jaxfaces.load_exported(path)
    for text in ("", "[1, 2]", "{}", '{"format": "other"}', "\x00"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(RunError, match="does not describe an exported run"):
            jaxfaces.load_exported(path)


Outputs = namedtuple("Outputs", ["y"])


@dataclasses.dataclass(frozen=True)
class Masked(contract_tasks.Linear):
    """Reads two columns and gives a dictionary back."""

    def predict(self, variables, batch):
        y = super().predict(variables, batch)
        return {"y": jnp.where(batch["valid"], y, 0), "x": [batch["x"]]}


@dataclasses.dataclass(frozen=True)
class Custom(contract_tasks.Linear):
    def predict(self, variables, batch):
        return Outputs(super().predict(variables, batch))


@dataclasses.dataclass(frozen=True)
class Astray(contract_tasks.Linear):
    def predict(self, variables, batch):
        return batch["z"]


@dataclasses.dataclass(frozen=True)
class Static(contract_tasks.Linear):
    def predict(self, variables, batch):
        return jnp.zeros(int(batch["x"].shape[0]))


def linear_run(folder, cls):
    values = {"w": jnp.arange(3.0), "b": jnp.float32(1)}
    columns = {"x": (np.float32, (3,)), "y": (np.float32, ()), "valid": (bool, ())}
    return write_run(folder, cls(), columns, values)


def test_the_columns_that_predict_reads_are_the_inputs(tmp_path):
    workdir = linear_run(tmp_path / "run", Masked)
    about = exporting.export(workdir, tmp_path / "e", task_class=Masked)
    assert set(about["inputs"]) == {"x", "valid"}
    assert set(about["outputs"]) == {"y", "x/0"}
    batch = {"x": np.eye(3, dtype=np.float32), "valid": np.array([True, True, False])}
    outputs = jaxfaces.load_exported(tmp_path / "e")(batch)
    np.testing.assert_array_equal(outputs["y"], [1.0, 2.0, 0.0])


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Custom, "what the task's predict returns cannot be exported"),
        (Astray, "reads the column 'z', which the run's data do not have"),
        (Static, "cannot be exported for any number of rows"),
    ],
)
def test_a_task_that_cannot_be_exported_is_told_why(tmp_path, cls, words):
    workdir = linear_run(tmp_path / "run", cls)
    with pytest.raises(RunError, match=words):
        exporting.export(workdir, tmp_path / "e", task_class=cls)
    assert not (tmp_path / "e").exists()


def test_the_command_exports_a_run_that_was_trained(tmp_path, capsys):
    workdir, path = tmp_path / "run", tmp_path / "new" / "x.jaxexport"
    jaxfaces.run(contract_tasks.Linear(steps=4), workdir, devices=1, quiet=True)
    flags = [f"--workdir={workdir}", f"--output={path}", "--checkpoint=best"]
    assert export.main([*flags, "--platforms=cpu"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["inputs"] == {"x": {"dtype": "float32", "shape": ["b", 3]}}
    assert printed["platforms"] == ["cpu"]
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    trained = jaxfaces.load(workdir, best=True)
    np.testing.assert_allclose(
        jaxfaces.load_exported(path)({"x": x}),
        trained.apply(trained.variables, {"x": x}),
        rtol=0,
        atol=1e-6,
    )


def test_the_command_answers_in_one_line(tmp_path, capsys):
    assert export.main([]) == 2
    assert export.main([f"--workdir={tmp_path}", "--platforms="]) == 2
    assert export.main([f"--workdir={tmp_path}", "--platforms=vax"]) == 2
    assert export.main([f"--workdir={tmp_path}"]) == 1
    workdir = linear_run(tmp_path / "run", contract_tasks.Linear)
    (workdir / "columns.json").write_text("[]")
    assert export.main([f"--workdir={workdir}"]) == 1
    (workdir / "columns.json").unlink()
    assert export.main([f"--workdir={workdir}"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    for line, words in zip(
        lines,
        [
            "--workdir=FOLDER is missing",
            "--platforms must name",
            "none of: cpu",
            "holds no run",
            "columns.json is damaged",
            "begun by an older version",
        ],
        strict=True,
    ):
        assert words in line
