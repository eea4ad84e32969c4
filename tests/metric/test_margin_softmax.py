"""Softmax losses with margins by hand, at their bad points and against the peer."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric
from metric import margin_softmax

LOSSES = (metric.normalized_softmax_loss, metric.arcface_loss, metric.cosface_loss)


def _circle(*degrees):
    angle = np.radians(degrees)
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)


class HandTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_values_on_a_circle(self):
        # One example 60 degrees from its class vector and 90 from the other one.
        x, v, y = _circle(0), _circle(60, 90), jnp.array([0])
        for f, lead in (
            (functools.partial(LOSSES[0], temperature=0.5), 1.0),
            (functools.partial(LOSSES[1], margin=math.pi / 6, scale=4.0), 0.0),
            (functools.partial(LOSSES[2], margin=0.75, scale=4.0), -1.0),
            (functools.partial(metric.proxy_nca_loss, temperature=0.5), 2.0),
        ):
            value = self.variant(f)(x, y, v)
            wanted = math.log(1 + math.exp(-lead))
            np.testing.assert_allclose(value, wanted, rtol=2e-6)


def test_without_margins_all_are_the_normalized_softmax():
    rng = np.random.default_rng(0)
    x, v, y = rng.standard_normal((8, 5)), rng.standard_normal((3, 5)), np.arange(8) % 3
    with jax.enable_x64(True):
        values = [
            metric.normalized_softmax_loss(x, y, v, temperature=1 / 16),
            metric.arcface_loss(x, y, v, margin=0.0, scale=16.0),
            metric.cosface_loss(x, y, v, margin=0.0, scale=16.0),
            metric.proxy_nca_loss(x, y, v, temperature=1 / 8),
        ]
    np.testing.assert_allclose(values, values[0], rtol=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.0, math.pi / 2])
def test_the_score_with_an_angle_added_falls_all_the_way(margin):
    angle = np.linspace(0, math.pi, 1001)
    with jax.enable_x64(True):
        scores = margin_softmax.add_angle(jnp.cos(angle), margin)
    assert (np.diff(scores) < 0).all()
    inside = angle < math.pi - margin
    np.testing.assert_allclose(
        scores[inside], np.cos(angle + margin)[inside], atol=1e-12
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_arcface_at_its_class_vector_and_opposite_has_a_finite_gradient(dtype, kind):
    rng = np.random.default_rng(1)
    v = rng.standard_normal((6, 7))
    x = np.concatenate([v[:3], -v[3:]]) * rng.uniform(0.1, 9, (6, 1))
    y = np.arange(6) if kind == "labels" else np.eye(6)
    with jax.enable_x64(dtype == "float64"):
        f = jax.jit(jax.value_and_grad(metric.arcface_loss, argnums=(0, 2)))
        value, slopes = f(x.astype(dtype), y, v.astype(dtype))
        chex.assert_tree_all_finite((value, slopes))
        exact = jax.grad(lambda c: jnp.sum(margin_softmax.add_angle(c, 0.5)))
        ends = np.asarray(exact(jnp.array([1.0, -1.0, 1 + 1e-7, -1 - 1e-7], dtype)))
    np.testing.assert_allclose(ends, [math.cos(0.5), 1] * 2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_losses_keep_their_digits_where_they_are_small_and_where_they_are_large(kind):
    # Class 0 is 0 or 180 degrees away, the others are at 90: leads of 64 and -64.
    x, v = jnp.eye(3), jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    f = functools.partial(metric.normalized_softmax_loss, temperature=1 / 64)
    y = jnp.zeros(1, int) if kind == "labels" else jnp.eye(3)[:1]
    np.testing.assert_allclose(f(x[:1], y, v), 2 * math.exp(-64), rtol=5e-6)
    wanted = 64 + math.log(2)
    np.testing.assert_allclose(f(-x[:1], y, v), wanted, rtol=1e-6)


def test_leaving_each_score_out_of_a_row_equals_summing_the_others():
    scores = np.random.default_rng(2).normal(0, 30, (20, 6))
    scores[0], scores[1, :2] = 3, scores[1].max() + 5  # all alike, two largest
    wanted = [
        [np.logaddexp.reduce(np.delete(row, k)) for k in range(6)] for row in scores
    ]
    for dtype, tolerance in (("float64", 1e-13), ("float32", 2e-6)):
        with jax.enable_x64(dtype == "float64"):
            found = margin_softmax.all_rests(jnp.asarray(scores, dtype))
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (LOSSES[0], {"temperature": 0}),
        (LOSSES[1], {"margin": 28.6}),
        (LOSSES[1], {"margin": -0.1}),
        (LOSSES[1], {"scale": 0}),
        (LOSSES[2], {"margin": -0.1}),
        (LOSSES[2], {"scale": -1}),
        (metric.proxy_nca_loss, {"temperature": -1.0}),
    ],
)
def test_settings_that_make_no_sense_are_refused(loss, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        loss(jnp.eye(2), jnp.zeros(2, int), jnp.eye(2), **options)


def test_settings_may_be_traced():
    x, y, v = _circle(0, 20), jnp.array([0, 1]), _circle(10, 50)
    for loss, name, value in (
        (LOSSES[0], "temperature", 0.3),
        (LOSSES[1], "margin", 0.3),
        (LOSSES[2], "scale", 3.0),
        (metric.proxy_anchor_loss, "alpha", 3.0),
    ):
        f = jax.jit(lambda number, f=loss, n=name: f(x, y, v, **{n: number}))
        np.testing.assert_allclose(f(value), loss(x, y, v, **{name: value}), rtol=1e-5)


# The peer's ArcFace margin is in degrees. Its ProxyNCALoss is ProxyNCA++ where
# softmax_scale is 1 / temperature.
@pytest.mark.parametrize(
    ("loss", "peer", "options"),
    [
        (LOSSES[0], "NormalizedSoftmaxLoss", {}),
        (LOSSES[1], "ArcFaceLoss", {"margin": math.degrees(0.5)}),
        (LOSSES[2], "CosFaceLoss", {}),
        (metric.proxy_nca_loss, "ProxyNCALoss", {"softmax_scale": 9}),
    ],
)
def test_values_and_gradients_equal_the_peers(loss, peer, options):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    x, v = (rng.standard_normal((n, 6)).astype("f") for n in (24, 5))
    y = np.arange(24) % 5
    x[0] = 0.1 * x[0] - 3 * v[0]  # beyond pi - margin from its class vector
    theirs = getattr(losses, peer)(num_classes=5, embedding_size=6, **options)
    vectors = next(theirs.parameters())
    across = vectors.shape == (6, 5)
    with torch.no_grad():
        vectors.copy_(torch.tensor(v.T if across else v))
    rows = torch.tensor(x, requires_grad=True)
    wanted = theirs(rows, torch.tensor(y))
    wanted.backward()
    there = vectors.grad.numpy()
    value, slopes = jax.value_and_grad(loss, argnums=(0, 2))(x, y, v)
    np.testing.assert_allclose(value, wanted.item(), rtol=5e-6)
    for a, b in zip(slopes, (rows.grad.numpy(), there.T if across else there)):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())


def test_the_hardest_examples_count_where_the_peer_drops_them():
    # Its ProxyNCALoss leaves out an example whose own probability underflows.
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch = pytest.importorskip("torch")
    x, v, y = np.eye(2, dtype="f"), np.eye(2, dtype="f"), np.array([0, 0])
    theirs = losses.ProxyNCALoss(num_classes=2, embedding_size=2, softmax_scale=60)
    with torch.no_grad():
        theirs.proxies.copy_(torch.tensor(v))
    assert theirs(torch.tensor(x), torch.tensor(y)).item() == 0
    value = metric.proxy_nca_loss(x, y, v, temperature=1 / 60)
    np.testing.assert_allclose(value, 120 / 2, rtol=1e-6)
