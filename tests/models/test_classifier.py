"""Classifiers by name: parameters, types, derivatives, draws, colours, errors."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from plain_layers import drawn, drawn_for

from jaxfaces.engine import net
from jaxfaces.models import classifier, layers
from jaxfaces.models.classifier import Classifier
from jaxfaces.models.pyramidnet import PyramidBlock, PyramidNet
from jaxfaces.models.resnet import BottleneckBlock, ResNet
from jaxfaces.models.shake_shake import ShakeBlock, ShakeShake
from jaxfaces.models.wide_resnet import WideBlock, WideResNet

# One block a stage, a few features.
TINY = {
    "wide": functools.partial(WideResNet, 10, 1, width=2),
    "shake": functools.partial(ShakeShake, 2, depth=8),
    "pyramid": functools.partial(PyramidNet, depth=11, alpha=6.0, width=8),
    "resnet": functools.partial(ResNet, (1, 1), BottleneckBlock, 2, stem="plain"),
}
DRAWING = ("shake", "pyramid")
# Compiling is most of the time.
jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
IMAGES = jax.random.uniform(jax.random.key(9), (4, 8, 8, 3))
KEY = jax.random.key(4)


def tiny(name, **changes):
    """A classifier of three classes, as pure functions, and variables of it."""
    module = Classifier(TINY[name](**changes), 3)
    variables = drawn_for(module, IMAGES)
    return net.from_linen(module), variables["params"], variables["batch_stats"]


def loss(network, rest, params):
    logits, _ = network.apply(
        params, {"batch_stats": rest}, IMAGES, train=True, key=KEY
    )
    return jnp.sum(jnp.sin(logits))


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("wrn_40_2", 10, 2_246_474),
        ("wrn_16_4", 10, 2_751_146),  # 2.8 million with or without biases
        ("wrn_28_10", 10, 36_489_290),
        ("wrn_28_2", 10, 1_469_642),
        ("resnet50", 1000, 25_557_032),
        ("resnet200", 1000, 64_673_832),
    ],
)
def test_parameters_are_as_many_as_published(name, classes, count):
    module = classifier.make(name, classes)
    logits, variables = jax.eval_shape(
        lambda: module.init_with_output(
            jax.random.key(0), jnp.zeros((2, 64, 64, 3)), train=False
        )
    )
    chex.assert_shape(logits, (2, classes))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


class ClassifierTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_logits_are_the_linear_layer_of_the_features(self):
        module = Classifier(TINY["wide"](), 3)
        variables = drawn_for(module, IMAGES)
        found = self.variant(lambda v, x: module.apply(v, x, train=False))(
            variables, IMAGES
        )
        backbone = {kind: tree["backbone"] for kind, tree in variables.items()}
        features = TINY["wide"]().apply(backbone, IMAGES, train=False)
        head = variables["params"]["head"]
        wanted = np.asarray(features, np.float64) @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


class Given(nn.Module):
    """Images that are features already."""

    @nn.compact
    def __call__(self, images, *, train):
        return images


def test_the_linear_layer_is_drawn_as_torch_draws_it_but_for_shake_shake():
    for zero_bias in (False, True):
        module = Classifier(Given(), 50, zero_bias)
        head = module.init(KEY, jnp.zeros((1, 16)), train=False)["params"]["head"]
        for leaf in head.values():
            assert np.abs(leaf).max() <= 1 / 4
        assert np.abs(head["kernel"]).max() > 0.9 / 4
        assert np.any(head["bias"] != 0) != zero_bias
    names = [*classifier.NETWORKS, "wrn_10_1"]
    zero = {name for name in names if classifier.make(name, 2).zero_bias}
    assert zero == {name for name in names if name.startswith("shake_shake")}


BLOCKS = {
    "wide": lambda: WideBlock(3, 2, TINY["wide"]().parts(True)),
    "shake": lambda: ShakeBlock(4, 2, TINY["shake"]().parts(True)),
    "pyramid": lambda: PyramidBlock(2, 2, TINY["pyramid"]().parts(True), 1.0),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_modes_of_differentiation_agree_to_the_second_order(name):
    block = BLOCKS[name]()
    shapes = jax.eval_shape(lambda: block.init(KEY, IMAGES))
    params, rest = drawn(shapes)["params"], drawn(shapes)["batch_stats"]
    there = drawn(shapes, 1)["params"]

    def f(p):
        variables = {"params": p, "batch_stats": rest}
        how = {"rngs": {"dropout": KEY}, "mutable": ["batch_stats"]}
        return jnp.sum(jnp.sin(block.apply(variables, IMAGES, **how)[0]))

    def slope(p):
        return jax.jvp(f, (p,), (there,))[1]

    @jit
    def derivatives(p):
        gradient, change = jax.jvp(jax.grad(f), (p,), (there,))
        return gradient, slope(p), jax.grad(slope)(p), change

    gradient, tangent, of_slope, change = derivatives(params)
    inner = sum(
        np.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(there))
    )
    np.testing.assert_allclose(tangent, inner, rtol=1e-3, atol=1e-3)
    scale = max(np.abs(x).max() for x in jax.tree.leaves(change))
    assert np.isfinite(scale) and scale > 0
    for a, b in zip(jax.tree.leaves(of_slope), jax.tree.leaves(change), strict=True):
        np.testing.assert_allclose(a / scale, b / scale, atol=1e-3)


@pytest.mark.parametrize("name", ["wide", "shake", "pyramid", "resnet"])
def test_computing_blocks_twice_changes_no_gradient(name):
    found = []
    for remat in (False, True):
        network, params, rest = tiny(name, remat=remat)
        grad = jax.grad(functools.partial(loss, network, rest))
        found.append(jit(grad)(params))
        text = str(jax.make_jaxpr(grad)(params))
        assert ("remat" in text or "checkpoint" in text) == remat
    scale = max(np.abs(x).max() for x in jax.tree.leaves(found[0]))
    chex.assert_trees_all_close(*found, atol=1e-5 * scale)


@pytest.mark.parametrize("name", TINY)
def test_computing_blocks_twice_changes_no_name(name):
    one, other = (
        jax.eval_shape(functools.partial(m.init, train=False), KEY, IMAGES)
        for m in (TINY[name](), TINY[name](remat=True))
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(one, other)


@pytest.mark.parametrize("name", TINY)
def test_half_precision_stays_inside(name):
    backbone = TINY[name](dtype=jnp.bfloat16)
    module = Classifier(backbone, 3)

    def run(key):
        rngs = {"params": key, "dropout": key}
        variables = module.init(rngs, IMAGES, train=True)
        inner = {kind: tree["backbone"] for kind, tree in variables.items()}
        how = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        maps, _ = backbone.apply(inner, IMAGES, method="maps", **how)
        return variables, maps, *module.apply(variables, IMAGES, **how)

    variables, maps, logits, state = jax.eval_shape(run, KEY)
    assert {x.dtype for x in maps} == {jnp.dtype(jnp.bfloat16)}
    kept = jax.tree.leaves((variables, logits, state))
    assert {x.dtype for x in kept} == {jnp.dtype(jnp.float32)}


def test_half_precision_is_close():
    outs = []
    for dtype in (jnp.float32, jnp.bfloat16):
        network, params, rest = tiny("shake", dtype=dtype)
        run = functools.partial(network.apply, train=True, key=KEY)
        outs.append(jit(run)(params, {"batch_stats": rest}, IMAGES)[0])
    np.testing.assert_allclose(*outs, atol=0.05 * np.abs(outs[0]).max())


@pytest.mark.parametrize("name", TINY)
def test_only_networks_that_draw_need_a_key_and_only_in_training(name):
    network, params, rest = tiny(name)

    def run(train, key):
        apply = functools.partial(network.apply, train=train, key=key)
        return jax.eval_shape(apply, params, {"batch_stats": rest}, IMAGES)

    run(True, KEY)
    run(False, None)
    if name not in DRAWING:
        run(True, None)
        return
    with pytest.raises(ValueError, match="Classifier draws at random in training"):
        run(True, None)


@pytest.mark.parametrize("name", DRAWING)
def test_draws_are_those_of_the_key(name):
    network, params, rest = tiny(name)
    run = jit(
        lambda key: network.apply(
            params, {"batch_stats": rest}, IMAGES, train=True, key=key
        )[0]
    )
    np.testing.assert_array_equal(run(KEY), run(KEY))
    # A pyramid of three blocks seldom drops: of sixteen keys some differ.
    others = [run(jax.random.key(number)) for number in range(16)]
    assert any(np.any(other != others[0]) for other in others)


def test_neither_devices_nor_forms_for_a_cpu_change_a_step():
    network, params, rest = tiny("shake")
    ours, *_ = tiny("shake", cpu_conv="on")
    images = jax.random.uniform(KEY, (8, 8, 8, 3))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    apart = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    one, several, forms = (
        jit(functools.partial(f.apply, train=True, key=KEY))(
            params, {"batch_stats": rest}, x
        )
        for f, x in ((network, images), (network, apart), (ours, images))
    )
    chex.assert_trees_all_close(one, several, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(one, forms, rtol=1e-4, atol=1e-4)


def test_images_standardised_before_give_the_same():
    network, params, rest = tiny("wide")
    plain, *_ = tiny("wide", colours="none")
    given = layers.standardize(IMAGES, "cifar")
    outs = [
        jit(functools.partial(f.apply, train=False))(params, {"batch_stats": rest}, x)[
            0
        ]
        for f, x in ((network, IMAGES), (plain, given))
    ]
    np.testing.assert_allclose(*outs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("colours", layers.COLOURS)
def test_the_mean_colour_becomes_0_and_a_deviation_1(colours, channels):
    mean, deviation = layers.statistics(colours, channels)
    assert mean.shape == deviation.shape == (channels,)

    def standardized(colour):
        images = jnp.asarray(colour, jnp.float32).reshape(1, 1, 1, channels)
        return layers.standardize(images, colours)

    np.testing.assert_allclose(standardized(mean), 0, atol=1e-5)
    np.testing.assert_allclose(standardized(mean + deviation), 1, atol=1e-4)


@pytest.mark.parametrize("name", [*classifier.NETWORKS, "wrn_10_1", "wrn_16_4"])
def test_every_name_makes_a_narrow_network(name):
    module = classifier.make(name, 7, width=2, dtype="bfloat16", cpu_conv="auto")
    logits, variables = jax.eval_shape(
        lambda: module.init_with_output(KEY, jnp.zeros((2, 32, 32, 1)), train=False)
    )
    chex.assert_shape(logits, (2, 7))
    assert logits.dtype == jnp.float32
    # Of the published widths the narrowest has two million.
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) < 1_000_000


@pytest.mark.parametrize("name", ["wrn_12_1", "wrn_4_2", "wrn_41_2"])
def test_depths_that_do_not_exist_are_named(name):
    with pytest.raises(ValueError, match=rf"no network '{name}': .* 6n \+ 4"):
        classifier.known(name)


@pytest.mark.parametrize("name", ["", "wrn_40", "wrn_40_0", "wrn_-2_1", "resnet9"])
def test_names_that_do_not_exist_are_refused(name):
    with pytest.raises(ValueError, match=f"{name!r} is none of: resnet18, .* nor wrn"):
        classifier.make(name, 10)
