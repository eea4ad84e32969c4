"""Contrastive loss by hand, against pair loops, and at its bad points."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from metric import contrastive

loss = contrastive.contrastive_loss


def _oracle(x, labels, pos_margin, neg_margin):
    f = [row / np.linalg.norm(row) for row in np.asarray(x, float)]
    paid = {True: [], False: []}
    for i, a in enumerate(f):
        for j, b in enumerate(f):
            same, d = labels[i] == labels[j], np.linalg.norm(a - b)
            hinge = d - pos_margin if same else neg_margin - d
            if i != j and hinge > 0:
                paid[bool(same)].append(hinge)
    return sum(np.mean(hinges) for hinges in paid.values() if hinges)


def _batch(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((10, 3)), np.arange(10) % 3


class HandTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_value_on_a_circle(self):
        angle = np.radians([0, 60, 90])
        x = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
        value = self.variant(loss)(x, jnp.array([0, 0, 1]))
        # The positive pair is 1 apart; of the negatives only chord 30 is within 1.
        wanted = 1 + 1 - 2 * math.sin(math.radians(15))
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("margins", [(0.0, 1.0), (0.3, 0.5), (0.9, 1.6)])
def test_value_equals_pair_loops_and_gradient_its_differences(seed, margins):
    x, labels = _batch(seed)
    options = dict(zip(("pos_margin", "neg_margin"), margins))
    with jax.enable_x64(True):
        f = jax.jit(functools.partial(loss, labels=labels, **options))
        assert f(jnp.asarray(x)) == pytest.approx(
            _oracle(x, labels, *margins), rel=1e-10
        )
        test_util.check_grads(f, (jnp.asarray(x),), order=1, modes=["rev"], eps=1e-7)
    value = loss(x.astype("f"), labels, **options)
    assert value == pytest.approx(_oracle(x, labels, *margins), rel=5e-6)


@pytest.mark.parametrize("filling", [0.0, np.nan])
def test_padding_rows_change_nothing(filling):
    x, labels = _batch(0)
    x = x.astype("f")
    padded = np.concatenate([x, np.full((3, 3), filling, "f")])
    names = np.concatenate([labels, [0, 1, 2]])
    valid = np.arange(13) < 10
    both = jax.jit(jax.value_and_grad(loss))
    value, slope = both(x, labels)
    same, longer = both(padded, names, valid=valid)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(longer[:10], slope, atol=1e-6)
    assert (longer[10:] == 0).all()


@pytest.mark.parametrize(
    ("x", "labels", "wanted"),
    [
        (np.eye(3), [0, 1, 2], 0.0),
        (np.ones((1, 3)), [0], 0.0),
        (np.ones((4, 3)), [1, 1, 1, 1], 0.0),
        (np.ones((4, 3)), [0, 1, 2, 3], 1.0),
        (np.zeros((2, 3)), [0, 0], None),
    ],
)
def test_bad_points_give_finite_values_and_zero_gradients(x, labels, wanted):
    value, slope = jax.jit(jax.value_and_grad(loss))(
        jnp.asarray(x, "f"), jnp.array(labels)
    )
    assert jnp.isfinite(value) and (slope == 0).all()
    assert wanted is None or value == wanted


def test_nan_in_a_row_that_counts_is_seen():
    x = jnp.eye(3).at[0, 0].set(jnp.nan)
    assert jnp.isnan(loss(x, jnp.array([0, 0, 1])))


def test_lengths_of_rows_get_no_gradient():
    x, labels = _batch(1)
    slope = jax.grad(loss)(jnp.asarray(x, "f"), labels)
    np.testing.assert_allclose(np.sum(x * slope, axis=1), 0, atol=1e-6)


def test_weights_are_differentiated_in_sums_and_in_counts():
    x, labels = _batch(2)
    with jax.enable_x64(True):
        weights = jnp.asarray(np.random.default_rng(3).uniform(0.5, 2, (10, 10)))
        f = functools.partial(loss, jnp.asarray(x), labels, neg_margin=1.6)
        test_util.check_grads(
            lambda w: f(weights=w), (weights,), order=1, modes=["rev"], eps=1e-6
        )
        # An average does not change when all weights grow alike.
        np.testing.assert_allclose(f(weights=3 * weights), f(weights=weights), 1e-12)
