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
# These programs run once: half the time to compile them is worth more.
QUICKLY = {"xla_backend_optimization_level": 0}


def _vectors(like, classes=CLASSES):
    """Class vectors as wide as the embeddings."""
    shape = classes, like.shape[1]
    return jnp.sin(jnp.arange(shape[0] * shape[1], dtype=like.dtype)).reshape(shape)


def _osm_caa(x, labels, *, classes=CLASSES, **options):
    return metric.osm_caa_loss(
        x, labels, context_vectors=_vectors(x, classes), **options
    )


def _of_classes(loss):
    return lambda x, labels, **options: loss(x, labels, _vectors(x), **options)


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
    "osm caa, legacy": functools.partial(_osm_caa, legacy_pair_scale=True),
    "osm": functools.partial(metric.osm_caa_loss, attention="none"),
    "triplet, all": functools.partial(metric.triplet_loss, kind="all"),
    "triplet, semihard": functools.partial(metric.triplet_loss, kind="semihard"),
    "triplet, hard": functools.partial(metric.triplet_loss, kind="hard"),
    "margin": metric.margin_loss,
    "n-pair": metric.n_pair_loss,
    "lifted structure": metric.lifted_structure_loss,
    "multi-similarity": metric.multi_similarity_loss,
    "supcon": metric.supcon_loss,
}
# Their own tests split these over devices, so the default suite does not again.
OF_CLASSES = {
    "normalised softmax": _of_classes(metric.normalized_softmax_loss),
    "arcface": _of_classes(metric.arcface_loss),
    "cosface": _of_classes(metric.cosface_loss),
    "proxy-nca": _of_classes(metric.proxy_nca_loss),
    "proxy-anchor": _of_classes(metric.proxy_anchor_loss),
}
ALL = LOSSES | OF_CLASSES
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

    return _shard(local, devices, PartitionSpec())


def _shard(f, devices, out_specs):
    rows = PartitionSpec("data")
    return jax.shard_map(f, mesh=_mesh(devices), in_specs=rows, out_specs=out_specs)


def _whole(loss, **options):
    return lambda x, labels, valid: loss(x, labels, valid=valid, **options)


def _run(f, batch):
    return jax.tree.map(np.asarray, jax.jit(f, compiler_options=QUICKLY)(*batch))


def _assert_equal(got, wanted, tolerance):
    (value, slope), (one, steep) = got, wanted
    assert one > 0 and np.abs(steep).max() > 0
    assert abs(value - one) <= tolerance * abs(one)
    assert np.abs(slope - steep).max() <= tolerance * np.abs(steep).max()


def _check(loss, dtype, *others):
    """Other forms of a loss have the value and gradient of the plain one in float64."""
    with jax.enable_x64(True):
        wanted = _run(jax.value_and_grad(_whole(loss)), _batch("float64"))
    with jax.enable_x64(dtype == "float64"):
        for f in others:
            got = _run(jax.value_and_grad(f), _batch(dtype))
            _assert_equal(got, wanted, 1e-10 if dtype == "float64" else 1e-5)


@every_loss
def test_devices_and_blocks_cost_and_pull_the_same(loss):
    both = _split(loss, 2, block_rows=5)  # which leaves a rest
    _check(loss, "float64", both, _split(loss, 8))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ALL)
def test_any_number_of_devices_costs_and_pulls_the_same(name, dtype):
    loss = ALL[name]
    blocks = [_whole(loss, block_rows=rows) for rows in (1, 5, 31, 32)]
    _check(loss, dtype, *[_split(loss, n) for n in (1, 2, 4, 8)], *blocks)


KINDS = ["contrastive", "ranked list, query, mass", "osm caa, full"]


@pytest.mark.parametrize("name", KINDS)
def test_float32_on_four_devices_costs_and_pulls_the_same(name):
    _check(LOSSES[name], "float32", _split(LOSSES[name], 4))


def test_a_batch_without_padding_is_split_too():
    def full(x, labels, valid, **options):
        return metric.ranked_list_loss(jnp.nan_to_num(x), labels, **options)

    _check(full, "float32", _split(full, 4))


@pytest.mark.parametrize("name", KINDS)
def test_the_gradient_may_be_taken_on_every_device_by_itself(name):
    loss, rows = LOSSES[name], PartitionSpec("data")

    def local(x, labels, valid):
        return loss(x, labels, valid=valid, axis_name="data")

    inside = _shard(jax.value_and_grad(local), 4, (PartitionSpec(), rows))
    wanted = _run(jax.value_and_grad(_whole(loss)), _batch())
    _assert_equal(_run(inside, _batch()), wanted, 1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_values_of_items_are_those_of_one_device(name):
    loss = LOSSES[name]

    def items(x, labels, valid, axis_name=None):
        options = {"valid": valid, "axis_name": axis_name, "reduction": "none"}
        return loss(x, labels, **options)

    batch = _batch()
    local = functools.partial(items, axis_name="data")
    values = _run(_shard(local, 4, PartitionSpec("data")), batch)
    assert (values[~np.asarray(batch[2])] == 0).all()
    np.testing.assert_allclose(values, _run(items, batch), rtol=2e-5, atol=1e-7)


def test_context_vectors_on_every_device_get_the_whole_gradient():
    def loss(context, x, labels, valid, axis_name=None):
        options = {"context_vectors": context, "gradient": "full"}
        return metric.osm_caa_loss(
            x, labels, valid=valid, axis_name=axis_name, **options
        )

    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    split = jax.shard_map(
        functools.partial(loss, axis_name="data"),
        mesh=_mesh(8), in_specs=(everywhere, rows, rows, rows), out_specs=everywhere,
    )  # fmt: skip
    with jax.enable_x64(True):
        x, *others = _batch("float64")
        given = _vectors(x), x, *others
        got, wanted = (_run(jax.value_and_grad(f), given) for f in (split, loss))
    _assert_equal(got, wanted, 1e-10)


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


MANY = {"osm caa, many classes": functools.partial(_osm_caa, classes=11_318)}


@pytest.mark.parametrize("name", ["proxy-anchor", *LOSSES, *MANY])
def test_sixteen_thousand_rows_fit_into_a_gigabyte(name):
    loss = (ALL | MANY)[name]

    def blocks(x, labels, valid):
        return loss(x, labels, valid=valid, block_rows=512)

    shapes = (
        jax.ShapeDtypeStruct((16_384, 128), jnp.float32),
        jax.ShapeDtypeStruct((16_384,), jnp.int32),
        jax.ShapeDtypeStruct((16_384,), jnp.bool_),
    )
    f = jax.jit(jax.value_and_grad(blocks), compiler_options=QUICKLY)
    compiled = f.lower(*shapes).compile()
    taken = compiled.memory_analysis().temp_size_in_bytes
    print(name, f"{taken / 2**20:.0f} MiB")
    assert 0 < taken < 1e9
