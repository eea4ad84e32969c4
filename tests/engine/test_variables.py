"""Inference variables on disk."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.engine import variables
from jaxfaces.engine.errors import RunError


def test_nested_dictionaries_come_back_empty_ones_and_scalars_too(tmp_path):
    tree = {
        "params": {"layer": {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.float32(2)}},
        "rest": {},
        "half": {"x": jnp.ones((2,), jnp.bfloat16), "none": {"deep": {}}},
        "count": jnp.int32(7),
    }
    variables.save(tmp_path / "v.safetensors", tree, metadata={"step": "3"})
    found, metadata = variables.load(tmp_path / "v.safetensors")
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
