"""Proxy-Anchor by hand, at its extremes and against the peer."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metric import proxy_anchor

loss = proxy_anchor.proxy_anchor_loss


def _circle(*degrees):
    angle = np.radians(degrees)
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)


class HandTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_value_on_a_circle(self):
        # Cosines with the proxies: 1, 0, -1 and 0, 1, 0; both examples are of class 0.
        x, v, y = _circle(0, 90), _circle(0, 90, 180), jnp.array([0, 0])
        f = self.variant(functools.partial(loss, margin=0.25, alpha=4.0))
        pull = math.log(1 + math.exp(-3) + math.exp(1))
        push = [0, math.log(1 + math.exp(1) + math.exp(5)),
                math.log(1 + math.exp(-3) + math.exp(1))]  # fmt: skip
        np.testing.assert_allclose(f(x, y, v), pull + sum(push) / 3, rtol=1e-6)

    @chex.all_variants(with_pmap=False)
    def test_shares_are_parts_of_each_sum_of_exponentials(self):
        x, v, y = _circle(0, 90), _circle(0, 90), jnp.array([0, 0])
        f = self.variant(
            functools.partial(loss, margin=0.25, alpha=4.0, reduction="none")
        )
        terms = np.exp([[-3, 1], [1, 5]])  # pulls of proxy 0, pushes of proxy 1
        log = np.log(1 + terms.sum(1, keepdims=True))
        wanted = terms / terms.sum(1, keepdims=True) * log / [[1], [2]]
        np.testing.assert_allclose(f(x, y, v), wanted.sum(0), rtol=1e-6)


@pytest.mark.parametrize("alpha", [32.0, 1e3, 1e5])
def test_large_scales_do_not_overflow(alpha):
    x, v, y = _circle(0, 90), _circle(0, 90, 180), jnp.array([1, 0])
    f = jax.value_and_grad(functools.partial(loss, alpha=alpha), argnums=(0, 2))
    value, slopes = f(x, y, v)
    # Far from 0 log(1 + sum exp) is the largest exponent.
    wanted = 0.1 * alpha + (1.1 * alpha + 1.1 * alpha + 0.1 * alpha) / 3
    np.testing.assert_allclose(value, wanted, rtol=0.02 if alpha == 32 else 1e-5)
    chex.assert_tree_all_finite(slopes)
    shares = functools.partial(loss, alpha=alpha, reduction="none")
    np.testing.assert_allclose(jnp.sum(shares(x, y, v)), value, rtol=1e-5)


def test_small_terms_keep_their_digits():
    x, v, y = _circle(0), _circle(0, 180), jnp.array([0])
    wanted = math.log1p(math.exp(-28.8)) + math.log1p(math.exp(-28.8)) / 2
    np.testing.assert_allclose(loss(x, y, v), wanted, rtol=1e-5)


def test_classes_that_a_batch_has_not_only_push():
    x, y, v = _circle(0, 10), jnp.array([0, 0]), _circle(0, 30, 60)
    slope = jax.grad(loss, argnums=2)(x, y, v)
    alone = jax.grad(loss, argnums=2)(x, y, v[:2])
    np.testing.assert_allclose(slope[1], 2 / 3 * alone[1], rtol=1e-5)


@pytest.mark.parametrize("options", [{"alpha": 0}, {"margin": 2.0}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        loss(jnp.eye(2), jnp.zeros(2, int), jnp.eye(2), **options)


def test_value_and_gradients_equal_the_peers():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, v = (rng.standard_normal((n, 6)).astype("f") for n in (24, 7))
    y = np.arange(24) % 5  # two classes have no example
    theirs = losses.ProxyAnchorLoss(num_classes=7, embedding_size=6)
    with torch.no_grad():
        theirs.proxies.copy_(torch.tensor(v))
    rows = torch.tensor(x, requires_grad=True)
    wanted = theirs(rows, torch.tensor(y))
    wanted.backward()
    value, slopes = jax.value_and_grad(loss, argnums=(0, 2))(x, y, v)
    np.testing.assert_allclose(value, wanted.item(), rtol=5e-6)
    for a, b in zip(slopes, (rows.grad.numpy(), theirs.proxies.grad.numpy())):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
