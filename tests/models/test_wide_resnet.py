"""Wide residual networks: parameters, values, statistics, beginnings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_layers import Plain, close, drawn_for, moved_alike, relu

from jaxfaces.models import layers
from jaxfaces.models.wide_resnet import WideBlock, WideResNet


def images_of(side=8, batch=3):
    return jax.random.uniform(jax.random.key(5), (batch, side, side, 3))


def read(plain, x, blocks):
    """Features of a wide residual network by its definition."""
    x = (x - np.array(layers.CIFAR_MEAN)) / np.array(layers.CIFAR_STD)
    x = plain.conv("Conv_0", x)
    for stage in (1, 2, 3):
        for block in range(1, blocks + 1):
            at, stride = f"stage{stage}_block{block}", 1 + (stage > 1 and block == 1)
            y = plain.conv(f"{at}/Conv_0", relu(plain.norm(f"{at}/BatchNorm_0", x)))
            y = relu(plain.norm(f"{at}/BatchNorm_1", y))
            y = plain.conv(f"{at}/Conv_1", y, stride)
            x = y + (plain.conv(f"{at}/Conv_2", x, stride) if block == 1 else x)
    return relu(plain.norm("BatchNorm_0", x)).mean((1, 2))


@pytest.mark.parametrize("train", [False, True])
def test_it_is_its_definition_and_moves_statistics_by_nine_tenths(train):
    module, images = WideResNet(16, 2, width=2), images_of()
    variables = drawn_for(module, images)
    found, state = jax.jit(
        lambda v, x: module.apply(v, x, train=train, mutable=["batch_stats"])
    )(variables, images)
    plain = Plain(variables, train=train, keep=0.1)
    close(found, read(plain, np.asarray(images, np.float64), 2))
    if train:
        moved_alike(state["batch_stats"], plain)
    else:
        jax.tree.map(
            np.testing.assert_array_equal,
            state["batch_stats"],
            variables["batch_stats"],
        )


def test_all_is_drawn_as_torch_draws_it():
    parts = WideResNet(10, 1).parts(train=False)
    block = WideBlock(32, 2, parts)
    params = block.init(jax.random.key(0), jnp.zeros((1, 2, 2, 16)))["params"]
    for name, fan_in in (("Conv_0", 9 * 16), ("Conv_1", 9 * 32), ("Conv_2", 16)):
        reach = fan_in**-0.5
        for leaf in params[name].values():
            assert 0.8 * reach < np.abs(leaf).max() <= reach
        assert abs(np.std(params[name]["kernel"]) * 3**0.5 / reach - 1) < 0.1
    np.testing.assert_array_equal(params["BatchNorm_0"]["scale"], 1)
    np.testing.assert_array_equal(params["BatchNorm_0"]["bias"], 0)


def test_maps_are_those_of_the_stages():
    module = WideResNet(10, 1)
    maps = jax.eval_shape(
        lambda: module.init_with_output(
            jax.random.key(0), jnp.zeros((2, 32, 32, 3)), train=False, method="maps"
        )[0]
    )
    shapes = [x.shape for x in maps]
    assert shapes == [(2, 32, 32, 16), (2, 16, 16, 32), (2, 8, 8, 64)]


@pytest.mark.parametrize("depth", [4, 12, 27])
def test_a_depth_that_is_not_6n_plus_4_is_refused(depth):
    with pytest.raises(ValueError, match=rf"must be 6n \+ 4 with n >= 1, got {depth}"):
        WideResNet(depth, 1).plan()
