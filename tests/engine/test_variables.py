"""Inference variables on disk."""

import importlib
import struct
import sys

import contract_tasks
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxfaces
from jaxfaces.engine import config, variables
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.tasks.retrieval import Retrieval


def test_nested_dictionaries_come_back_empty_ones_and_scalars_too(tmp_path):
    tree = {
        "params": {"layer": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.float32(2)}},
        "rest": {},
        "half": {"x": jnp.ones((2,), jnp.bfloat16), "none": {"deep": {}}},
        "count": jnp.int32(7),
    }
    variables.save(tmp_path / "v.safetensors", tree, metadata={"step": "3"})
    found, metadata = variables.load(tmp_path / "v.safetensors")
    assert len(metadata.pop("digest")) == 32
    assert metadata == {"step": "3"}
    assert found["rest"] == {}
    assert found["half"]["none"] == {"deep": {}}
    np.testing.assert_array_equal(
        found["params"]["layer"]["w"], np.arange(6.0).reshape(2, 3)
    )
    assert found["params"]["layer"]["b"].shape == ()
    assert found["half"]["x"].dtype == jnp.bfloat16
    assert found["count"] == 7


@pytest.mark.parametrize("tree", [{"a": [jnp.ones(2)]}, {"a/b": jnp.ones(2)}, (1, 2)])
def test_what_cannot_be_named_is_refused(tmp_path, tree):
    with pytest.raises(RunError, match="inference variables"):
        variables.save(tmp_path / "v.safetensors", tree, metadata={})
    assert not list(tmp_path.iterdir())


def saved(path, task, **leaves):
    about = variables.describe(task, Options(seed=4), step=9, seed=1)
    variables.save(path, leaves, metadata=about)
    return path


def test_a_flipped_bit_anywhere_is_noticed_and_the_file_named(tmp_path):
    leaves = {"w": jnp.ones((5, 3), jnp.bfloat16), "b": {"c": jnp.arange(7)}}
    path = saved(tmp_path / "v.safetensors", contract_tasks.Linear(), **leaves)
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = np.random.default_rng(0).integers(0, len(whole), 150).tolist()
    for place in [*places, 0, 7, 8, header - 1, header, len(whole) - 1]:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            found, metadata = variables.load(path)
        except RunError as error:
            assert "v.safetensors" in str(error)
            assert "again" in str(error)
        else:  # only the name of the digest itself may go unnoticed, which harms none
            assert "digest" not in metadata, place
            np.testing.assert_array_equal(found["b"]["c"], np.arange(7))
    path.write_bytes(whole[:-1])
    with pytest.raises(RunError, match="v.safetensors cannot be read"):
        variables.load(path)


def test_the_task_comes_back_from_the_file_alone(tmp_path):
    changes = {"embedding_size": 6, "recall_ks": (1, 3), "data_dir": "/secret/place"}
    task = config.replace(Retrieval(), changes)
    path = saved(tmp_path / "v.safetensors", task, w=jnp.ones(2))
    trained = jaxfaces.load(path)
    assert trained.task == config.replace(task, {"data_dir": ""})
    assert trained.step == 9
    assert b"secret" not in path.read_bytes()
    metadata = variables.load(path)[1]
    assert (metadata["task"], metadata["seed"]) == ("retrieval", "5")
    assert metadata["jaxfaces"] == jaxfaces.__version__
    with pytest.raises(RunError, match="is one file"):
        jaxfaces.load(path, best=True)


def test_a_task_of_a_notebook_is_given_by_its_class(tmp_path):
    class Local(contract_tasks.Linear):
        pass

    path = saved(tmp_path / "v.safetensors", Local(noise=0.5), w=jnp.ones(3))
    with pytest.raises(RunError, match="v.safetensors.*cannot be read"):
        jaxfaces.load(path)
    assert jaxfaces.load(path, task_class=Local).task == Local(noise=0.5)


def test_a_file_imports_nothing(tmp_path, monkeypatch):
    source = "import contract_tasks\nclass Evil(contract_tasks.Linear):\n    pass\n"
    (tmp_path / "evil_task.py").write_text(source)
    (tmp_path / "a.cfg").write_text("--task=evil_task:Evil\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "v.safetensors"
    about = variables.describe(contract_tasks.Linear(), Options(), step=1, seed=0)
    for line in ("--task=evil_task:Evil", f"--flagfile={tmp_path / 'a.cfg'}"):
        flags = f"{about['flags']}\n{line}"
        variables.save(path, {"w": jnp.ones(3)}, metadata=about | {"flags": flags})
        with pytest.raises(RunError, match="v.safetensors"):
            jaxfaces.load(path)
        assert "evil_task" not in sys.modules
    variables.save(
        path,
        {"w": jnp.ones(3)},
        metadata=about | {"flags": "--task=evil_task:Evil"},
    )
    with pytest.raises(RunError, match="import evil_task or give task_class="):
        jaxfaces.load(path)
    evil = importlib.import_module("evil_task")
    assert isinstance(jaxfaces.load(path).task, evil.Evil)
    del sys.modules["evil_task"]


def test_files_of_other_programs_are_read_but_name_no_task(tmp_path):
    path = tmp_path / "v.safetensors"
    save_file({"a/b": np.ones(2, np.float32)}, path)
    found, metadata = variables.load(path)
    assert metadata == {}
    np.testing.assert_array_equal(found["a"]["b"], [1, 1])
    with pytest.raises(RunError, match="does not say which task"):
        jaxfaces.load(path)
    save_file({"a": np.ones(1), "a/b": np.ones(2)}, path)
    with pytest.raises(RunError, match="'a' in 'a/b' is an array too"):
        variables.load(path)
    for empty in ("{", "7"):
        save_file({"a": np.ones(1)}, path, {"empty": empty})
        with pytest.raises(RunError, match="v.safetensors"):
            variables.load(path)
