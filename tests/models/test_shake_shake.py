"""Shake-Shake: its coefficients, its derivatives, blocks and networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_layers import Plain, close, drawn, drawn_for, moved_alike, relu

from jaxfaces.models import classifier, layers, shaking
from jaxfaces.models.shake_shake import ShakeBlock, ShakeShake


def coefficients(key, images):
    """What shake multiplies the first branch by: in the value, in the derivative."""
    one, other = jnp.ones((images, 2, 2, 3)), jnp.zeros((images, 2, 2, 3))
    value, pull = jax.vjp(lambda a, b: shaking.shake(key, a, b), one, other)
    return value, *pull(jnp.ones_like(value))


def test_coefficients_are_uniform_one_an_image_and_independent_backwards():
    value, first, second = (
        np.asarray(x) for x in coefficients(jax.random.key(0), 4096)
    )
    for each in (value, first):
        assert (each == each[:, :1, :1, :1]).all()
        a = np.sort(each[:, 0, 0, 0])
        assert a[0] >= 0 and a[-1] <= 1
        # Kolmogorov's distance, at a level of 0.1 %.
        assert np.abs(a - np.arange(len(a)) / len(a)).max() < 1.95 / len(a) ** 0.5
    np.testing.assert_allclose(first + second, 1, rtol=1e-6)
    pairs = value[:, 0, 0, 0], first[:, 0, 0, 0]
    assert abs(np.corrcoef(*pairs)[0, 1]) < 4 / 4096**0.5


def test_scaled_has_the_value_of_one_and_the_derivatives_of_the_other_coefficient():
    x = jnp.linspace(-2, 2, 5)
    a, b = jnp.float32(0.3), jnp.float32(0.8)

    def f(x):
        return shaking.scaled(x, a, b)

    np.testing.assert_array_equal(f(x), a * x)
    np.testing.assert_array_equal(jax.jit(f)(x), a * x)
    np.testing.assert_allclose(jax.jvp(f, (x,), (x,))[1], b * x, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: f(x).sum())(x), 0 * x + b, rtol=1e-6)
    # Of y^2 with y = a x, dy = b: first 2 y b, then 2 b^2.
    square = jax.grad(lambda x: f(x) ** 2)
    np.testing.assert_allclose(square(x[0]), 2 * a * x[0] * b, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(square)(x[0]), 2 * b * b, rtol=1e-6)
    forward = jax.grad(lambda x: jax.jvp(lambda x: f(x) ** 2, (x,), (1.0,))[1])
    np.testing.assert_allclose(forward(x[0]), 2 * b * b, rtol=1e-6)
    half = shaking.scaled(x.astype(jnp.bfloat16), a, b)
    assert half.dtype == jnp.bfloat16


def branches(plain, x, at, stride):
    found = []
    for first in (0, 2):
        y = plain.conv(f"{at}Conv_{first}", relu(x), stride)
        y = plain.norm(f"{at}BatchNorm_{first}", y)
        y = plain.conv(f"{at}Conv_{first + 1}", relu(y))
        found.append(plain.norm(f"{at}BatchNorm_{first + 1}", y))
    return found


def shortcut(plain, x, at, stride):
    x = relu(x)
    shifted = np.zeros_like(x)
    shifted[:, :-1, :-1] = x[:, 1:, 1:]
    paths = [
        plain.conv(f"{at}Conv_{number}", each[:, ::stride, ::stride])
        for number, each in ((4, x), (5, shifted))
    ]
    return plain.norm(f"{at}BatchNorm_4", np.concatenate(paths, -1))


@pytest.mark.parametrize("side", [6, 5])
@pytest.mark.parametrize("train", [False, True])
def test_a_block_is_its_definition(train, side):
    x = jax.random.normal(jax.random.key(2), (3, side, side, 4))
    parts = ShakeShake(4).parts(train)
    block = ShakeBlock(6, 2, parts)
    still = ShakeBlock(6, 2, ShakeShake(4).parts(False))
    shapes = jax.eval_shape(lambda x: still.init(jax.random.key(0), x), x)
    variables = drawn(shapes)
    key = jax.random.key(7)

    def apply(v, x):
        return block.apply(v, x, rngs={"dropout": key}, mutable=["batch_stats"])

    found, state = jax.jit(apply)(variables, x)
    plain = Plain(variables, train=train, keep=0.9)
    read = np.asarray(x, np.float64)
    one, other = branches(plain, read, "", 2)
    rest = shortcut(plain, read, "", 2)
    mixed = np.asarray(found, np.float64) - rest
    if train:
        # One coefficient an image explains all its pixels.
        apart = one - other
        a = ((mixed - other) * apart).sum((1, 2, 3)) / (apart**2).sum((1, 2, 3))
        assert ((a >= 0) & (a <= 1)).all() and np.ptp(a) > 0.01
        close(mixed, other + a[:, None, None, None] * apart)
        moved_alike(state["batch_stats"], plain)
    else:
        close(mixed, (one + other) / 2)


def test_a_network_is_its_definition_at_test():
    module = ShakeShake(4, depth=14)
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3))
    variables = drawn_for(module, images)
    found = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    plain = Plain(variables, train=False, keep=0.9)
    x = np.asarray(images, np.float64)
    x = (x - np.array(layers.CIFAR_MEAN)) / np.array(layers.CIFAR_STD)
    x = plain.conv("Conv_0", x)
    for stage in (1, 2, 3):
        for number in (1, 2):
            at, stride = f"stage{stage}_block{number}/", 1 + (stage > 1 and number == 1)
            y = sum(branches(plain, x, at, stride)) / 2
            x = y + (shortcut(plain, x, at, stride) if number == 1 else x)
    close(found, relu(x).mean((1, 2)))


def test_convolutions_are_drawn_by_their_outputs():
    x = jnp.zeros((1, 4, 4, 16))
    block = ShakeBlock(32, 1, ShakeShake(4).parts(False))
    params = block.init(jax.random.key(0), x)["params"]
    for name, fan_out in (("Conv_0", 9 * 32), ("Conv_1", 9 * 32), ("Conv_4", 16)):
        kernel = np.asarray(params[name]["kernel"])
        assert list(params[name]) == ["kernel"]
        assert abs(kernel.std() / (2 / fan_out) ** 0.5 - 1) < 0.15
    # Not cut off at two deviations.
    assert np.abs(params["Conv_1"]["kernel"]).max() > 3 * (2 / 288) ** 0.5


def by_hand(width):
    """Parameters of Shake-Shake 26 2x(width)d with ten classes, counted apart."""
    count, inputs = 27 * 16 + 16, 16
    for stage in range(3):
        outputs = width * 2**stage
        for _ in range(4):
            branch = 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs
            count += 2 * branch
            if inputs != outputs:
                count += inputs * outputs + 2 * outputs
            inputs = outputs
    return count + 10 * (inputs + 1)


@pytest.mark.parametrize(("width", "millions"), [(32, 2.9), (96, 26.2), (112, 35.6)])
def test_it_has_as_many_parameters_as_counted_by_hand(width, millions):
    module = classifier.make(f"shake_shake_{width}", 10)
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), images, train=False)["params"]
    )
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count == by_hand(width)
    assert round(count / 1e6, 1) == millions


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="width must be even, got 5"):
        ShakeShake(5).plan()
