"""Digests: equal for equal values however they are placed, different for any change."""

import hashlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.engine.digests import digests, other_shapes
from jaxfaces.engine.mesh import make, replicated

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint8", "int8", "bool")


def test_a_digest_is_blake2b_of_the_bytes_in_row_order():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = hashlib.blake2b(x.tobytes(), digest_size=16).hexdigest()
    assert digests({"w": jnp.asarray(x)}) == {"w": f"float32[2,3] {expected}"}
    # Column order on the way in does not matter.
    assert digests([jnp.asarray(np.asfortranarray(x))]) == digests([jnp.asarray(x)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_flipped_bit_changes_it(dtype):
    good = np.asarray(jnp.asarray([1, 0, 1], dtype))
    saved = digests([jnp.asarray(good)])
    for byte in range(good.nbytes):
        raw = bytearray(good.tobytes())
        raw[byte] ^= 1
        bad = np.frombuffer(bytes(raw), good.dtype)
        assert digests([jnp.asarray(bad)]) != saved


def test_shape_type_and_order_of_entries_count():
    x = jnp.arange(4.0)
    for other in (x.reshape(2, 2), x[::-1], x.astype(jnp.int32), x[:3]):
        assert digests([x]) != digests([other])
    assert digests([-jnp.zeros(2)]) != digests([jnp.zeros(2)])


def test_other_names_types_and_shapes_are_named():
    saved = digests({"w": jnp.ones(2), "k": jax.random.key(0)})
    like = {"w": jax.ShapeDtypeStruct((2,), jnp.float32), "k": jax.random.key(7)}
    assert other_shapes(saved, like) == []
    other = {"w": jnp.ones((2, 1)), "v": jnp.ones(2)}
    assert other_shapes(saved, other) == [
        "k was uint32[2], is absent",
        "w was float32[2], is float32[2,1]",
        "v was absent, is float32[2]",
    ]


def test_empty_leaves_scalars_keys_and_nan_have_digests():
    tree = {
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.float32(2),
        "key": jax.random.key(1),
        "nan": jnp.full((2,), jnp.nan),
    }
    found = digests(tree)
    assert found == digests(jax.tree.map(jnp.copy, tree))
    assert found["empty"].startswith("float32[0,3] ")
    assert digests({**tree, "key": jax.random.key(2)}) != found
    assert digests({}) == {}


def test_placement_does_not_matter():
    chex.assert_devices_available(8, "cpu")
    x = jnp.arange(32.0).reshape(16, 2)
    mesh = make()
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    expected = digests([x])
    assert digests([jax.device_put(x, replicated(mesh))]) == expected
    assert digests([jax.device_put(x, split)]) == expected
