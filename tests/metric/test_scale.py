"""Every loss over pairs: split over devices, by blocks, in bounded memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import metric

ROWS, WIDTH, CLASSES = 32, 5, 6
CONTEXT = np.random.default_rng(1).standard_normal((CLASSES, WIDTH))


def _osm_caa(x, labels, **options):
    context = jnp.asarray(CONTEXT, x.dtype)
    if x.shape[1] != WIDTH:
        context = jnp.zeros((1000, x.shape[1]), x.dtype)
    return metric.osm_caa_loss(x, labels, context_vectors=context, **options)


# One line a loss: everything below is asked of each.
LOSSES = {
    "contrastive": metric.contrastive_loss,
    **{
        f"ranked list, {gradient}, {weighting}": functools.partial(
            metric.ranked_list_loss, gradient=gradient, query_weighting=weighting
        )
        for gradient in ("query", "pair", "full")
        for weighting in ("uniform", "mass")
    },
    "osm caa": _osm_caa,
    "osm caa, full": functools.partial(_osm_caa, gradient="full"),
    "osm": functools.partial(metric.osm_caa_loss, attention="none"),
    "osm caa, legacy": functools.partial(_osm_caa, legacy_pair_scale=True),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def _batch(dtype="float32"):
    """A batch with padding, of which the last device has nothing else."""
    rng = np.random.default_rng(0)
    valid = np.arange(ROWS) % 7 != 3
    valid[-4:] = False
    x = rng.standard_normal((ROWS, WIDTH))
    x[~valid] = np.nan
    labels = rng.integers(0, CLASSES, ROWS)
    return jnp.asarray(x, dtype), jnp.asarray(labels), jnp.asarray(valid)


def _mesh(devices):
    kinds = (AxisType.Auto,)
    return jax.make_mesh((devices,), ("data",), kinds, devices=jax.devices()[:devices])


def _split(loss, devices, **options):
    """The loss of a batch whose rows lie on several devices."""

    def local(x, labels, valid):
        return loss(x, labels, valid=valid, axis_name="data", **options)

    rows = PartitionSpec("data")
    return jax.shard_map(
        local, mesh=_mesh(devices), in_specs=rows, out_specs=PartitionSpec()
    )


def _whole(loss, **options):
    return lambda x, labels, valid: loss(x, labels, valid=valid, **options)


def _value_and_grad(f, batch):
    return jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(f))(*batch))


def _assert_equal(got, wanted, tolerance):
    (value, slope), (one, steep) = got, wanted
    assert one > 0 and np.abs(steep).max() > 0
    assert abs(value - one) <= tolerance * abs(one)
    assert np.abs(slope - steep).max() <= tolerance * np.abs(steep).max()


@every_loss
def test_a_batch_split_over_devices_costs_and_pulls_the_same(loss):
    with jax.enable_x64(True):
        batch = _batch("float64")
        wanted = _value_and_grad(_whole(loss), batch)
        for devices in (1, 2, 4, 8):
            _assert_equal(_value_and_grad(_split(loss, devices), batch), wanted, 1e-10)
    batch = _batch("float32")
    _assert_equal(_value_and_grad(_split(loss, 8), batch), wanted, 1e-5)


@every_loss
def test_blocks_of_rows_cost_and_pull_the_same_also_on_devices(loss):
    with jax.enable_x64(True):
        batch = _batch("float64")
        wanted = _value_and_grad(_whole(loss), batch)
        for rows in (5, 32):  # 5 leaves a rest
            blocks = _whole(loss, block_rows=rows)
            _assert_equal(_value_and_grad(blocks, batch), wanted, 1e-10)
        both = _split(loss, 4, block_rows=3)
        _assert_equal(_value_and_grad(both, batch), wanted, 1e-10)


@every_loss
def test_the_gradient_may_be_taken_on_every_device_by_itself(loss):
    batch = _batch()
    rows = PartitionSpec("data")

    def local(x, labels, valid):
        return loss(x, labels, valid=valid, axis_name="data")

    inside = jax.shard_map(
        jax.value_and_grad(local),
        mesh=_mesh(4),
        in_specs=rows,
        out_specs=(PartitionSpec(), rows),
    )
    got = jax.tree.map(np.asarray, jax.jit(inside)(*batch))
    _assert_equal(got, _value_and_grad(_whole(loss), batch), 1e-5)


@every_loss
def test_values_of_items_stay_on_their_devices(loss):
    batch = _batch()
    rows = PartitionSpec("data")

    def local(x, labels, valid):
        return loss(x, labels, valid=valid, axis_name="data", reduction="none")

    split = jax.shard_map(local, mesh=_mesh(4), in_specs=rows, out_specs=rows)
    wanted = loss(batch[0], batch[1], valid=batch[2], reduction="none")
    np.testing.assert_allclose(jax.jit(split)(*batch), wanted, rtol=2e-5, atol=1e-7)


def test_context_vectors_on_every_device_get_the_whole_gradient():
    def loss(context, x, labels, valid, axis_name=None):
        return metric.osm_caa_loss(
            x, labels, valid=valid, context_vectors=context, gradient="full",
            axis_name=axis_name,
        )  # fmt: skip

    rows = PartitionSpec("data")
    split = jax.shard_map(
        functools.partial(loss, axis_name="data"),
        mesh=_mesh(8),
        in_specs=(PartitionSpec(), rows, rows, rows),
        out_specs=PartitionSpec(),
    )
    with jax.enable_x64(True):
        given = jnp.asarray(CONTEXT), *_batch("float64")
        _assert_equal(
            _value_and_grad(split, given), _value_and_grad(loss, given), 1e-10
        )


def _collectives(f):
    """How often each way for devices to talk occurs in a program."""
    text = jax.jit(f).lower(*_batch()).as_text()
    names = "all_gather|all_reduce|reduce_scatter|all_to_all|collective_permute"
    found = re.findall(rf'"stablehlo\.({names})"', text)
    return {name: found.count(name) for name in sorted(set(found))}


@pytest.mark.parametrize("block_rows", [None, 2])
@pytest.mark.parametrize("weighting", ["uniform", "mass"])
def test_query_gradients_need_no_word_from_other_devices(weighting, block_rows):
    for gradient in ("query", "pair"):
        loss = functools.partial(
            metric.ranked_list_loss, gradient=gradient, query_weighting=weighting
        )
        value = _split(loss, 8, block_rows=block_rows)
        forward, both = _collectives(value), _collectives(jax.value_and_grad(value))
        assert forward["all_gather"] == 3  # embeddings, labels, valid
        assert (forward == both) is (gradient == "query")


@every_loss
def test_sixteen_thousand_rows_fit_into_a_gigabyte(loss):
    def blocks(x, labels, valid):
        return loss(x, labels, valid=valid, block_rows=512)

    shapes = (
        jax.ShapeDtypeStruct((16_384, 128), jnp.float32),
        jax.ShapeDtypeStruct((16_384,), jnp.int32),
        jax.ShapeDtypeStruct((16_384,), jnp.bool_),
    )
    compiled = jax.jit(jax.value_and_grad(blocks)).lower(*shapes).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes
    print(f"{taken / 2**20:.0f} MiB")
    assert 0 < taken < 1e9
