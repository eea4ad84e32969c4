"""Networks by flag: branches, colours, weights to start from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import metric
from jaxfaces import train
from jaxfaces.engine import assembly, config, starting, variables
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.models import torch_weights
from jaxfaces.tasks.image_network import Backbone, ImageNetwork
from jaxfaces.tasks.retrieval import Retrieval

TINY = {
    "dataset": "made_up",
    "image_size": 16,
    "validation_fraction": 0.0,
    "width": 4,
    "embedding_size": 8,
    "classes_per_batch": 4,
    "images_per_class": 2,
    "steps": 2,
    "optimizer": "sgd",
    "lr": 0.1,
    "cpu_conv": "off",  # compiles in a third of the time
}


def assembled(options=None, **changes):
    task = config.replace(Retrieval(), TINY | changes)
    return assembly.assemble(task, Options(devices=1, **(options or {})))


def test_each_branch_pays_its_own_loss_and_heads_have_a_rate_of_their_own():
    parts = assembled(branches=("L", "M", "H"), head_lr_multiplier=0.0)
    state, batch = parts.start()["state"], parts.first_batch()
    step = jax.jit(parts.timeline.phases[0].step)
    moved, metrics = step(state, batch, jax.random.key(0))
    images = jnp.asarray(batch["train"]["image"]).astype(jnp.float32) / 255
    embed = jax.jit(parts.task.network.net(4).apply, static_argnames="train")
    whole, _ = embed(state.params, state.rest, images, train=True)
    assert whole.shape == (8, 24)
    labels = batch["train"]["label"]
    for index, level in enumerate("HLM"):
        alone = metric.ranked_list_loss(whole[:, 8 * index : 8 * index + 8], labels)
        np.testing.assert_allclose(metrics[f"ranked_list_{level}"][0], alone, rtol=1e-4)
    total = sum(metrics[f"ranked_list_{level}"][0] for level in "HLM")
    np.testing.assert_allclose(metrics["loss"][0], total, rtol=1e-6)
    before, after = starting.named(state.params), starting.named(moved.params)
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert {name for name in before if "/head/" in f"/{name}"} <= still
    assert "L/block/fc/kernel" not in still


def test_a_prediction_lays_the_branches_side_by_side():
    parts = assembled(branches=("L", "M", "H"))
    task, state = parts.task, parts.start()["state"]
    batch = {"image": jnp.asarray(parts.first_batch()["train"]["image"])}
    found = jax.jit(task.predict)(task.inference(state), batch)
    assert found.shape == (8, 24)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"branches": ()}, "--branches are some of H,L,M, each once, got none"),
        ({"branches": ("H", "H")}, "each once, got H,H"),
        ({"branches": ("S",)}, "--branches='S' is none of: H, L, M"),
        ({"backbone": "bn_inception", "image_size": 200}, "images of 200 pixels"),
    ],
)
def test_settings_that_do_not_fit_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        config.replace(Retrieval(), TINY | flags)


PRETRAINED = {"backbone": "resnet18", "image_size": 32}


@pytest.fixture
def file(tmp_path):
    """Weights of a narrow ResNet-18 as torch would name them."""
    parts = assembled(**PRETRAINED)
    state = parts.start()["state"]
    backbone = parts.task.network.backbone.make()
    rng, weights = np.random.default_rng(0), {}
    for name, leaf in starting.named(parts.task.inference(state)).items():
        path = name.partition("/backbone/")[2]
        if path:
            shape = np.transpose(leaf, (3, 2, 0, 1) if leaf.ndim == 4 else None).shape
            value = rng.uniform(0.1, 1, shape).astype(np.float32)
            weights[torch_weights.key_of(backbone, path)] = value
    path = tmp_path / "resnet18.safetensors"
    save_file({**weights, "fc.bias": np.zeros(3, np.float32)}, path)
    return path, weights


def test_a_run_starts_from_the_weights_of_torch(file):
    path, weights = file
    parts = assembled(**PRETRAINED, pretrained=str(path))
    tree, origin = starting.first(parts)
    assert origin == {"file": str(path), "left_fresh": ["params/head/kernel"]}
    params, rest = tree["state"].params, tree["state"].rest
    kernel = params["backbone"]["BasicBlock_2"]["Conv_0"]["kernel"]
    want = weights["layer2.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, want)
    var = rest["batch_stats"]["backbone"]["BatchNorm_0"]["var"]
    np.testing.assert_array_equal(var, weights["bn1.running_var"])
    fresh = parts.start()["state"].params["head"]["kernel"]
    np.testing.assert_array_equal(params["head"]["kernel"], fresh)

    both = assembled({"init_from": str(path)}, **PRETRAINED, pretrained=str(path))
    with pytest.raises(RunError, match="start from --init_from=.*, not both"):
        starting.first(both)
    wide = assembled(**PRETRAINED | {"width": 8}, pretrained=str(path))
    with pytest.raises(RunError, match=r"bn1.bias is \[4\] in the file, \[8\]"):
        starting.first(wide)


def test_what_is_no_file_of_torchs_weights_is_named(tmp_path):
    network = Backbone(pretrained=str(tmp_path / "weights.pth"))
    with pytest.raises(RunError, match="is not a .safetensors file; docs/pretrained"):
        network.imported({})
    path = tmp_path / "run.safetensors"
    network = dataclasses.replace(network, pretrained=str(path))
    with pytest.raises(RunError, match="is not a file"):
        network.imported({})
    variables.save(path, {"w": np.ones(2)}, metadata={"task": "retrieval"})
    with pytest.raises(RunError, match="was written by a run; start with --init_from"):
        network.imported({})


def shapes_of(backbone):
    """The module of a backbone, and shapes of the variables of an embedder on it."""
    embedder = ImageNetwork(backbone=backbone).net(0)
    images = jnp.zeros((1, 32, 32, 3))
    params, rest = jax.eval_shape(lambda: embedder.init(jax.random.key(0), images))
    return backbone.make(), {"params": params, "rest": rest}


def test_weights_of_the_wider_bn_inception_are_recognised(tmp_path):
    wide = Backbone(backbone="bn_inception_torch", width=8)
    module, tree = shapes_of(wide)
    weights = {}
    for name, leaf in starting.named(tree).items():
        inner = name.partition("/backbone/")[2]
        if inner:
            shape = leaf.shape
            shape = (*shape[3:1:-1], *shape[:2]) if len(shape) == 4 else shape
            key = torch_weights.key_of(module, inner)
            weights[key] = np.zeros(shape, np.float32)
    path = tmp_path / "ported.safetensors"
    save_file(weights, path)
    network = Backbone(backbone="bn_inception", width=8, pretrained=str(path))
    fresh = starting.named(shapes_of(network)[1])
    with pytest.raises(RunError, match="it is --backbone=bn_inception_torch"):
        network.imported(fresh)
    found = dataclasses.replace(network, backbone="bn_inception_torch").imported(
        starting.named(tree)
    )
    assert len(found[1]) == len(weights)


def test_a_wrong_file_costs_one_line_on_the_terminal(tmp_path, capsys):
    words = [f"--{name}={value}" for name, value in TINY.items()]
    words += [f"--workdir={tmp_path}/run", "--pretrained=nowhere.safetensors"]
    assert train.main(["--task=retrieval", "--quiet", *words]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere.safetensors is not a file" in error
