"""Losses on pairs and triplets with padding rows, in blocks and over devices."""

import functools

import chex
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from pair_loops import CASES, batch, compiled, loss

every_case = pytest.mark.parametrize("case", CASES)


@pytest.mark.parametrize("filling", [0.0, np.nan])
@every_case
def test_padding_rows_change_nothing(case, filling):
    x, labels = (np.asarray(a, t) for a, t in zip(batch(5), "fi"))
    padded = np.full((13, 4), filling, "f")
    rows, names, valid = np.delete(np.arange(13), [0, 5, 12]), np.zeros(13, int), False
    padded[rows], names[rows] = x, labels
    valid = np.isin(np.arange(13), rows)
    (value, _), slope = compiled(case)(x, labels)
    (same, each), longer = compiled(case)(padded, names, valid=valid, block_rows=4)
    np.testing.assert_allclose(same, value, rtol=2e-6)
    np.testing.assert_allclose(longer[rows], slope, atol=5e-6 * np.abs(slope).max())
    assert (longer[~valid] == 0).all() and (each[~valid] == 0).all()


@every_case
def test_batch_split_over_devices_is_the_whole_batch(case):
    x, labels = batch(8, n=16)
    weights = np.random.default_rng(9).uniform(0.5, 2, (16, 16))
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    rows, alike = PartitionSpec("data"), PartitionSpec()

    def split(x, labels, weights):
        given = {"weights": weights, "axis_name": "data", "block_rows": 3}
        each = loss(case, reduction="none")(x, labels, **given)
        return loss(case)(x, labels, **given), each

    f = jax.shard_map(split, mesh=mesh, in_specs=(rows,) * 3, out_specs=(alike, rows))
    with jax.enable_x64(True):
        wanted = compiled(case)(x, labels, weights=weights)
        found = jax.jit(jax.value_and_grad(f, has_aux=True))(x, labels, weights)
    chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", ["triplet", "lifted_structure"])
def test_references_are_shared_by_the_devices(case):
    x, labels = batch(8, n=16)
    ref, names = batch(9, n=5)
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    rows, alike = PartitionSpec("data"), PartitionSpec()

    def split(x, labels, ref, names):
        return loss(case, axis_name="data")(x, labels, ref=ref, ref_labels=names)

    specs = (rows, rows, alike, alike)
    f = jax.shard_map(split, mesh=mesh, in_specs=specs, out_specs=alike)
    with jax.enable_x64(True):
        alone = functools.partial(loss(case), ref_labels=names)
        both = jax.jit(jax.value_and_grad(lambda x, r: alone(x, labels, ref=r), (0, 1)))
        shared = jax.jit(jax.value_and_grad(f, (0, 2)))(x, labels, ref, names)
        chex.assert_trees_all_close(shared, both(x, ref), rtol=1e-10, atol=1e-12)
