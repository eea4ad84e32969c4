"""PyramidNet and ShakeDrop: expectations, blocks, networks, parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_layers import Plain, close, drawn, drawn_for, moved_alike, relu

from jaxfaces.models import classifier, layers, shaking
from jaxfaces.models.pyramidnet import PyramidBlock, PyramidNet


def scales(keys, drop, images=4):
    """What ShakeDrop multiplies by, (keys, images): in the value, the derivative."""

    def one(key):
        x = jnp.ones((images, 2, 1, 3))
        value, pull = jax.vjp(lambda x: shaking.shake_drop(key, x, drop), x)
        return value, pull(x)[0]

    found = [np.asarray(x) for x in jax.jit(jax.vmap(one))(keys)]
    for each in found:
        assert (each == each[:, :, :1, :, :1]).all()
    return [each[:, :, 0, 0, 0] for each in found]


def test_shake_drop_gates_a_batch_scales_an_image_and_keeps_the_expectation():
    drop, count = 0.4, 4000
    value, slope = scales(jax.random.split(jax.random.key(0), count), drop)
    kept = (value == 1).all(1)
    assert (value[~kept] != 1).all() and (slope[kept] == 1).all()
    assert abs(kept.mean() - (1 - drop)) < 4 * (drop * (1 - drop) / count) ** 0.5
    a, b = value[~kept], slope[~kept]
    assert -1 <= a.min() < -0.99 and 0.99 < a.max() <= 1
    assert 0 <= b.min() < 0.01 and 0.99 < b.max() <= 1
    for each, low in ((a, -1), (b, 0)):
        spread = (1 - low) / 12**0.5
        assert abs(each.mean() - (low + 1) / 2) < 4 * spread / each.size**0.5
        assert abs(each.std() / spread - 1) < 0.05
        assert abs(np.corrcoef(each[:, 0], each[:, 1])[0, 1]) < 4 / len(each) ** 0.5
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / a.size**0.5
    # The expectation, to four standard errors of independent batches.
    error = value[:, 0].std() / count**0.5
    assert abs(value[:, 0].mean() - (1 - drop)) < 4 * error


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_shake_drop_never_and_always(drop):
    value, slope = scales(jax.random.split(jax.random.key(1), 20), drop)
    assert ((value == 1) & (slope == 1)).all() == (drop == 0)
    assert (value != 1).all() == (drop == 1)


def branch(plain, x, at="", stride=1):
    y = plain.conv(f"{at}Conv_0", plain.norm(f"{at}BatchNorm_0", x))
    y = plain.conv(f"{at}Conv_1", relu(plain.norm(f"{at}BatchNorm_1", y)), stride)
    y = plain.conv(f"{at}Conv_2", relu(plain.norm(f"{at}BatchNorm_2", y)))
    return plain.norm(f"{at}BatchNorm_3", y)


def shortcut(x, features, stride):
    if stride > 1:
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    return np.pad(x, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_in_training_is_in_expectation_its_definition(stride):
    x = jax.random.normal(jax.random.key(2), (3, 4, 4, 5))
    drop, count = 0.5, 2000

    def block(train):
        return PyramidBlock(2, stride, PyramidNet().parts(train), drop)

    variables = drawn(
        jax.eval_shape(lambda x: block(False).init(jax.random.key(0), x), x)
    )

    def train(key):
        how = {"rngs": {"dropout": key}, "mutable": ["batch_stats"]}
        return block(True).apply(variables, x, **how)

    keys = jax.random.split(jax.random.key(3), count)
    outs, state = jax.jit(jax.vmap(train))(keys)
    plain = Plain(variables, train=True, keep=0.9)
    read = np.asarray(x, np.float64)
    y = branch(plain, read, stride=stride)
    rest = shortcut(read, 8, stride)
    moved_alike(jax.tree.map(lambda s: s[0], state["batch_stats"]), plain)
    found = np.asarray(outs, np.float64)
    # Each draw is the branch by one number an image, beside the shortcut.
    scale = ((found - rest) * y).sum((2, 3, 4)) / (y**2).sum((1, 2, 3))
    close(found, rest + scale[..., None, None, None] * y)
    # The scale's variance is p (1/3 + 1 - p).
    bound = 4 * (drop * (1 / 3 + 1 - drop) / count) ** 0.5
    assert np.abs(found.mean(0) - rest - (1 - drop) * y).max() < bound * np.abs(y).max()
    # At test the same with the running statistics, exactly.
    out = jax.jit(block(False).apply)(variables, x)
    y = branch(Plain(variables, train=False, keep=0.9), read, stride=stride)
    close(out, rest + (1 - drop) * y)


def test_a_network_is_its_definition_at_test():
    module = PyramidNet(depth=20, alpha=9.0, width=16)
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    variables = drawn_for(module, images)
    found = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    plain = Plain(variables, train=False, keep=0.9)
    x = np.asarray(images, np.float64)
    x = (x - np.array(layers.CIFAR_MEAN)) / np.array(layers.CIFAR_STD)
    x = plain.norm("BatchNorm_0", plain.conv("Conv_0", x))
    # 16 + 1.5, 3, 4.5, ... rounded to even at one half.
    for number, inner in enumerate((18, 19, 20, 22, 24, 25), 1):
        stage, index = divmod(number - 1, 2)
        stride = 2 if stage and not index else 1
        y = branch(plain, x, f"stage{stage + 1}_block{index + 1}/", stride)
        x = (1 - 0.5 * number / 6) * y + shortcut(x, 4 * inner, stride)
    close(found, relu(plain.norm("BatchNorm_1", x)).mean((1, 2)))


def test_it_has_as_many_parameters_as_counted_by_hand():
    count, inputs = 27 * 16 + 2 * 16, 16
    for number in range(1, 91):
        inner = int(16 + 200 * number / 90 + 0.5)
        outputs = 4 * inner
        count += inputs * inner + 9 * inner**2 + inner * outputs
        count += 2 * (inputs + 2 * inner + outputs)
        inputs = outputs
    assert inputs == 864
    count += 2 * inputs + 10 * (inputs + 1)
    module = classifier.make("pyramidnet_272_200", 10)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), images, train=False)["params"]
    )
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count == 26_210_842
    # Published as 26.0 million.
    assert abs(count / 26.0e6 - 1) < 0.01
