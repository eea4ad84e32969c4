"""A policy on a batch that is split over eight simulated devices."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from augment import image_ops, policy
from augment.image_ops import Operation

NAMES = ("Rotate", "Contrast", "Cutout", "Equalize")
PAIRS = policy.make_policy(
    [
        [("Rotate", 0.9, 0.7), ("Contrast", 0.9, 0.9)],
        [("Cutout", 0.9, 1.0), ("Equalize", 0.9, 0.3)],
    ],
    table=tuple(map(image_ops.operation, NAMES)),
)
KEY = jax.random.key(11)
COLLECTIVE = re.compile(
    r"= .* (?:all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)\b"
)


def mesh_of(devices, name="data"):
    chosen = np.asarray(jax.devices()[:devices])
    return Mesh(chosen, (name,), axis_types=(AxisType.Auto,))


def noise(count, side=8):
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def compiled(images, mesh=None, name="data", made=PAIRS, **options):
    """`policy.apply`, compiled for images that are split over a mesh."""
    apply = functools.partial(policy.apply, made, mesh=mesh, axis_name=name, **options)
    if mesh is None:
        return jax.jit(apply).lower(KEY, images).compile()
    whole, rows = (NamedSharding(mesh, PartitionSpec(*each)) for each in ((), (name,)))
    jitted = jax.jit(apply, in_shardings=(whole, rows), out_shardings=rows)
    return jitted.lower(KEY, images).compile()


@pytest.mark.parametrize(
    "batch, grouping, devices",
    [
        (32, 32, 8),  # a draw an image, as on CPU
        (32, 16, 8),  # as on accelerators
        (32, 4, 8),  # a group lies on two devices
        (24, 8, 6),  # a device has parts of two groups
    ],
)
def test_devices_change_their_own_images_as_one_would(batch, grouping, devices):
    images = noise(batch)
    one = compiled(images, grouping=grouping)(KEY, images)
    program = compiled(images, mesh_of(devices), grouping=grouping)
    many = program(KEY, images)
    assert many.dtype == jnp.uint8
    assert many.addressable_shards[0].data.shape[0] == batch // devices
    np.testing.assert_array_equal(many, one)
    assert not np.array_equal(many, images)
    assert not COLLECTIVE.findall(program.as_text())


def test_what_it_looks_for_is_found_where_the_batch_is_not_told_to_be_split():
    images, mesh = noise(32), mesh_of(8)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    apply = jax.jit(functools.partial(policy.apply, PAIRS, KEY), in_shardings=rows)
    assert COLLECTIVE.findall(apply.lower(images).compile().as_text())


def test_a_batch_that_does_not_divide_is_changed_as_by_one():
    images, mesh = noise(12), mesh_of(8)
    apply = jax.jit(functools.partial(policy.apply, PAIRS, mesh=mesh))
    expected = compiled(images)(KEY, images)
    np.testing.assert_array_equal(apply(KEY, images), expected)


def test_it_need_not_be_compiled_and_the_axis_may_have_another_name():
    images, mesh = noise(8), mesh_of(4, "rows")
    found = policy.apply(PAIRS, KEY, images, mesh=mesh, axis_name="rows")
    np.testing.assert_array_equal(found, compiled(images)(KEY, images))
    with pytest.raises(ValueError, match="no axis 'data', but rows; give axis_name"):
        policy.apply(PAIRS, KEY, images, mesh=mesh)


def test_several_keys_may_be_mapped_over():
    images, keys = noise(16), jax.random.split(KEY, 2)

    def each(mesh):
        apply = functools.partial(policy.apply, PAIRS, mesh=mesh)
        return jax.jit(jax.vmap(apply, (0, None)))(keys, images)

    np.testing.assert_array_equal(each(mesh_of(8)), each(None))


def test_derivatives_in_levels_are_those_of_one_device():
    images = jnp.asarray(noise(16) / 255, jnp.float32)
    draw = policy.sample(PAIRS, KEY, 16, grouping=4)

    def gradient(mesh):
        def total(levels):
            changed = policy.Draw(
                draw.sub_policies, draw.operations, levels, draw.applied, draw.table
            )
            out = policy.apply_draw(changed, images, KEY, mode="smooth", mesh=mesh)
            return jnp.sum(jnp.square(out))

        return jax.jit(jax.grad(total))(draw.levels)

    one = gradient(None)
    assert np.abs(one).max() > 0.1
    np.testing.assert_allclose(gradient(mesh_of(8)), one, rtol=1e-4, atol=1e-4)


def test_an_operation_of_ones_own_may_loop_from_a_constant():
    def brightest(image, v, key):
        def lighter(_, found):
            return jnp.maximum(found, image)

        return jax.lax.fori_loop(0, 2, lighter, jnp.zeros(image.shape, image.dtype))

    own = (Operation("Mine", 0, 1, None, brightest),)
    made = policy.make_policy([[("Mine", 1, 0.5)]], table=own)
    images = noise(8)
    found = policy.apply(made, KEY, images, mesh=mesh_of(8))
    np.testing.assert_array_equal(found, images)
