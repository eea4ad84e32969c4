"""Pooling as Caffe and torch count windows and padding."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.models import pooling

# side, size, stride, padding, ceil, windows along the side
CASES = [
    (14, 5, 3, 0, True, 4),  # branch L
    (7, 5, 3, 0, True, 2),  # branch M: the last window hangs over
    (2, 5, 3, 0, True, 1),  # the window is larger than the map
    (7, 3, 1, 1, False, 7),
    (28, 3, 2, 0, True, 14),
    (114, 3, 2, 0, True, 57),
    (56, 3, 2, 0, False, 27),
    (9, 3, 2, 1, True, 5),
    (4, 2, 2, 1, True, 3),  # a fourth would begin behind the padding
    (7, 2, 3, 0, False, 2),  # lines are left over
    (8, 1, 3, 0, False, 3),
]


def windows(x, size, stride, padding, count, fill):
    """Every window, cut off behind the padding."""
    x = np.pad(
        x, [(0, 0), (padding,) * 2, (padding,) * 2, (0, 0)], constant_values=fill
    )
    places = range(0, count * stride, stride)
    for i in places:
        for j in places:
            yield x[:, i : i + size, j : j + size]


@pytest.mark.parametrize(("side", "size", "stride", "padding", "ceil", "count"), CASES)
def test_pooling_is_that_of_every_window(side, size, stride, padding, ceil, count):
    x = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    how = {"size": size, "stride": stride, "padding": padding, "ceil": ceil}
    assert pooling.output_side(side, size, stride, padding, ceil) == count
    shape = (2, count, count, 3)
    means = [w.mean((1, 2)) for w in windows(x, size, stride, padding, count, 0)]
    means = np.stack(means, 1).reshape(shape)
    np.testing.assert_allclose(pooling.average_pool(x, **how), means, atol=1e-6)
    tops = [w.max((1, 2)) for w in windows(x, size, stride, padding, count, -np.inf)]
    tops = np.stack(tops, 1).reshape(shape)
    for native in (False, True):
        found = pooling.max_pool(jnp.asarray(x), **how, native=native)
        np.testing.assert_array_equal(found, tops)


class PoolingTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_gradients_of_maxima_are_xlas_and_those_of_means_add_up(self):
        x = jax.random.normal(jax.random.key(0), (2, 7, 7, 2))

        def gradient(pool, **how):
            return self.variant(jax.grad(lambda x: jnp.sum(jnp.sin(pool(x, **how)))))(x)

        how = {"size": 3, "stride": 2, "ceil": True}
        ours, native = (
            gradient(pooling.max_pool, **how, native=native) for native in (False, True)
        )
        np.testing.assert_allclose(ours, native, rtol=1e-6)
        whole = self.variant(
            jax.grad(
                lambda x: jnp.sum(pooling.average_pool(x, size=5, stride=3, ceil=True))
            )
        )(x)
        np.testing.assert_allclose(jnp.sum(whole), 2 * 2 * 2 * 2, rtol=1e-5)


def test_means_of_half_precision_are_summed_in_single():
    x = jnp.full((1, 64, 64, 1), 1.01, jnp.bfloat16)
    found = pooling.average_pool(x, size=64, stride=1)
    assert found.dtype == jnp.bfloat16
    assert found[0, 0, 0, 0] == x[0, 0, 0, 0]
