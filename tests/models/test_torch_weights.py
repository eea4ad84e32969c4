"""Weights from torch: keys, shapes, and the same features."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.engine.starting import named
from jaxfaces.models import embedder, layers, resnet, torch_weights
from jaxfaces.models.bn_inception import BNInception


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("torch")
    path = Path(__file__).parent / "torch_networks.py"
    spec = importlib.util.spec_from_file_location("torch_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fresh(module, side=32):
    """Shapes of a backbone's variables, by path."""
    images = jnp.zeros((1, side, side, 3))
    variables = jax.eval_shape(
        lambda: module.init(jax.random.key(0), images, train=False)
    )
    return named(variables["params"]) | named(variables["batch_stats"])


def nested(flat):
    tree = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[leaf] = jnp.asarray(value)
    return tree


def variables_of(network, module):
    """The variables of our network from the state of torch's."""
    weights = {name: x.numpy() for name, x in network.state_dict().items()}
    found = torch_weights.convert(weights, module, fresh(module))
    kinds = {"params": ("kernel", "scale", "bias"), "batch_stats": ("mean", "var")}
    return {
        kind: nested({k: v for k, v in found.items() if k.endswith(leaves)})
        for kind, leaves in kinds.items()
    }


def tensor(images):
    """Standardised images as torch has them."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def applied(module, variables, images, *, train=False, **how):
    """`module.apply`, compiled: op by op it takes ten times as long."""

    def run(variables, images):
        return module.apply(variables, images, train=train, **how)

    return jax.jit(run)(variables, images)


def images_of(side, count=2):
    rng = np.random.default_rng(side)
    return rng.uniform(size=(count, side, side, 3)).astype(np.float32)


def caffe(images):
    mean = np.array([104, 117, 123], np.float32)
    return tensor(images[..., ::-1] * 255 - mean)


def imagenet(images):
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    return tensor((images - mean) / np.array([0.229, 0.224, 0.225], np.float32))


@pytest.mark.parametrize(("side", "projection"), [(227, 96), (224, 128)])
def test_bn_inception_has_the_maps_and_features_of_torch(networks, side, projection):
    import torch

    network = networks.randomize(networks.Inception(4, projection)).eval()
    module = BNInception(width=16, projection=projection)
    variables, images = variables_of(network, module), images_of(side)
    with torch.no_grad():
        wanted = [x.permute(0, 2, 3, 1).numpy() for x in network.maps(caffe(images))]
        features = network(caffe(images)).numpy()
    maps = applied(module, variables, images, method="maps")
    for found, want in zip(maps, wanted, strict=True):
        np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())
    found = layers.pooled(maps[-1], module.pool)
    np.testing.assert_allclose(found, features, atol=2e-5 * np.abs(features).max())


def test_training_ignores_the_biases_that_were_taken_off(networks):
    network = networks.randomize(networks.Inception(8)).train()
    module = BNInception(width=8)
    variables, images = variables_of(network, module), images_of(64, 6)
    out, state = applied(module, variables, images, train=True, mutable=["batch_stats"])
    want = network.maps(caffe(images))[-1].mean((2, 3)).detach().numpy()
    np.testing.assert_allclose(out, want, atol=1e-3 * np.abs(want).max())
    mean = state["batch_stats"]["conv1_7x7_s2_bn"]["mean"]
    want = network.conv1_7x7_s2_bn.running_mean - 1.0 * network.conv1_7x7_s2.bias
    np.testing.assert_allclose(mean, want.detach().numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "stages", "deep"),
    [("resnet50", (3, 4, 6, 3), True), ("resnet18", (2, 2, 2, 2), False)],
)
def test_resnets_have_the_features_of_torch(networks, name, stages, deep):
    import torch

    network = networks.randomize(networks.ResNet(stages, 8, deep)).eval()
    module = embedder.make_backbone(name, width=8)
    variables, images = variables_of(network, module), images_of(97)
    with torch.no_grad():
        want = network(imagenet(images)).numpy()
    found = applied(module, variables, images)
    np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())


def test_branches_and_auxiliary_blocks_are_those_of_torch(networks):
    import torch
    from torch import nn

    network = networks.randomize(networks.Inception(8)).eval()
    backbone = variables_of(network, BNInception(width=8))
    module = embedder.make(
        "bn_inception", size=6, width=8, dtype="float32", levels="HLM"
    )
    images = images_of(227)
    rng = np.random.default_rng(0)
    noisy = jax.tree.map(
        lambda x: rng.uniform(0.1, 1.0, x.shape).astype(np.float32),
        jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False)),
    )
    for kind in backbone:
        noisy[kind] = {**noisy[kind], "backbone": backbone[kind]}
    found = embedder.split(applied(module, noisy, images), "HLM")

    def put(layer, **values):
        for name, value in values.items():
            getattr(layer, name).data = torch.from_numpy(np.array(value))
        return layer.eval()

    def norm(level, name, kind):
        scale = noisy["params"][level]["block"][name]
        stats = noisy["batch_stats"][level]["block"][name]
        given = {"weight": scale["scale"], "bias": scale["bias"]}
        given |= {"running_mean": stats["mean"], "running_var": stats["var"]}
        return put(kind(len(scale["scale"])), **given)

    maps = network.maps(caffe(images))
    for level, x, side in (("L", maps[0], 4), ("M", maps[1], 2)):
        params = noisy["params"][level]
        x = nn.AvgPool2d(5, 3, ceil_mode=True)(x)
        assert x.shape[-1] == side
        kernel = np.array(params["block"]["conv"]["kernel"]).transpose(3, 2, 0, 1)
        x = nn.functional.conv2d(x, torch.from_numpy(kernel.copy()))
        x = torch.relu(norm(level, "conv_bn", nn.BatchNorm2d)(x))
        # Ours flattens rows, columns, features; which is free, nothing is imported.
        x = x.permute(0, 2, 3, 1).flatten(1)
        x = x @ torch.from_numpy(np.array(params["block"]["fc"]["kernel"]))
        x = torch.relu(norm(level, "fc_bn", nn.BatchNorm1d)(x))
        want = (x @ torch.from_numpy(np.array(params["head"]["kernel"]))).detach()
        atol = 2e-5 * float(want.abs().max())
        np.testing.assert_allclose(found[level], want.numpy(), atol=atol)
    head = np.array(noisy["params"]["head"]["kernel"])
    want = network(caffe(images)).detach().numpy() @ head
    np.testing.assert_allclose(found["H"], want, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    ("module", "path", "key"),
    [
        (BNInception(), "conv1_7x7_s2/kernel", "conv1_7x7_s2.weight"),
        (
            BNInception(),
            "inception_4e/double_3x3_2_bn/mean",
            "inception_4e_double_3x3_2_bn.running_mean",
        ),
        (resnet.resnet50(), "Conv_0/kernel", "conv1.weight"),
        (resnet.resnet50(), "BatchNorm_0/bias", "bn1.bias"),
        (
            resnet.resnet50(),
            "BottleneckBlock_0/shortcut/kernel",
            "layer1.0.downsample.0.weight",
        ),
        (
            resnet.resnet50(),
            "BottleneckBlock_7/shortcut_norm/var",
            "layer3.0.downsample.1.running_var",
        ),
        (
            resnet.resnet50(),
            "BottleneckBlock_15/Conv_2/kernel",
            "layer4.2.conv3.weight",
        ),
        (resnet.resnet18(), "BasicBlock_3/BatchNorm_1/scale", "layer2.1.bn2.weight"),
    ],
)
def test_keys_are_those_of_the_weight_files(module, path, key):
    assert torch_weights.key_of(module, path) == key


def state_of(module):
    """A state of torch's for a backbone, without torch, each value its number."""
    state = {}
    for number, (path, leaf) in enumerate(fresh(module).items()):
        shape = leaf.shape
        if len(shape) == 4:
            shape = (shape[3], shape[2], shape[0], shape[1])
        key = torch_weights.key_of(module, path)
        state[key] = np.full(shape, number, np.float16)
    return state


@pytest.mark.parametrize(
    "module", [BNInception(width=8), resnet.resnet50(width=4)], ids=["bn", "resnet"]
)
def test_every_variable_has_a_key_of_its_own(module):
    wanted = fresh(module)
    state = state_of(module)
    assert len(state) == len(wanted)
    more = {"fc.weight": np.ones(3), "bn1.num_batches_tracked": np.int64(7)}
    found = torch_weights.convert(state | more, module, wanted)
    for number, (path, leaf) in enumerate(wanted.items()):
        assert found[path].shape == leaf.shape
        assert found[path].dtype == np.float32
        assert np.all(found[path] == number)


def test_what_does_not_fit_is_named_by_its_key():
    module = BNInception(width=8)
    wanted, state = fresh(module), state_of(module)
    state["inception_3a_1x1.weight"] = np.zeros((8, 24, 3, 3))
    del state["conv1_7x7_s2_bn.bias"]
    state["extra.weight"] = np.zeros(2)
    with pytest.raises(ValueError) as caught:
        torch_weights.convert(state, module, wanted)
    message = str(caught.value)
    assert "conv1_7x7_s2_bn.bias is missing" in message
    assert "extra.weight is unexpected" in message
    assert (
        "inception_3a_1x1.weight is [8, 24, 3, 3] in the file, [8, 24, 1, 1]" in message
    )
    assert "\n" not in message
    with pytest.raises(ValueError, match="and [0-9]+ more"):
        torch_weights.convert({}, module, wanted)
