"""Confidence-weighted cross-entropy against loops, by hand, and at its bad points."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from metric import confidence

loss = confidence.confidence_weighted_cross_entropy


def _oracle(logits, labels, *, mean=0.5, sigma=0.18):
    """Terms and gradient, the weights being constants."""
    probabilities, weights = [], []
    for row, y in zip(np.asarray(logits, float), labels):
        raw = np.exp(row - row.max())
        probabilities.append(raw / raw.sum())
        weights.append(math.exp(-((probabilities[-1][y] - mean) ** 2) / 2 / sigma**2))
    terms, slope = [], np.array(probabilities)
    for i, y in enumerate(labels):
        share = weights[i] / sum(weights)
        terms.append(-share * math.log(probabilities[i][y]))
        slope[i, y] -= 1
        slope[i] *= share
    return np.array(terms), slope


def _batch(seed, n=10, classes=4):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (n, classes)), rng.integers(0, classes, n)


@pytest.mark.parametrize("settings", [{}, {"mean": 0.8, "sigma": 0.3}])
def test_value_terms_and_gradient_equal_the_equations(settings):
    f = jax.jit(functools.partial(loss, **settings))
    none = jax.jit(functools.partial(loss, reduction="none", **settings))
    for seed in range(3):
        logits, labels = _batch(seed)
        terms, slope = _oracle(logits, labels, **settings)
        for dtype, tolerance in (("float64", 1e-10), ("float32", 5e-6)):
            x = logits.astype(dtype)
            with jax.enable_x64(dtype == "float64"):
                value, got = map(np.asarray, jax.value_and_grad(f)(x, labels))
                values = np.asarray(none(x, labels))
            assert value.dtype == got.dtype == dtype
            np.testing.assert_allclose(value, terms.sum(), rtol=tolerance)
            np.testing.assert_allclose(values, terms, rtol=2 * tolerance)
            np.testing.assert_allclose(got, slope, atol=tolerance * np.abs(slope).max())


class HandTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_an_outlier_fades_against_a_middling_example(self):
        # Probabilities of the own class: 1/2 and 1/10.
        logits = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
        faded = math.exp(-(0.4**2) / 2 / 0.18**2)
        wanted = (math.log(2) + faded * math.log(10)) / (1 + faded)
        value = self.variant(loss)(logits, jnp.array([0, 1]))
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_wide_weights_give_plain_cross_entropy():
    logits, labels = _batch(3)
    with jax.enable_x64(True):
        value = loss(jnp.asarray(logits), labels, sigma=1e9)
        wanted = -jnp.mean(jax.nn.log_softmax(logits)[np.arange(10), labels])
    np.testing.assert_allclose(value, wanted, rtol=1e-12)


def test_narrow_weights_do_not_underflow_to_nothing():
    logits, labels = _batch(4)
    value, slope = jax.value_and_grad(loss)(logits.astype("f"), labels, sigma=1e-4)
    own = np.exp(jax.nn.log_softmax(logits))[np.arange(10), labels]
    nearest = own[np.argmin(np.abs(own - 0.5))]
    np.testing.assert_allclose(value, -np.log(nearest), rtol=1e-5)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("filling", [0.0, np.nan, np.inf])
def test_padding_rows_change_nothing(filling):
    logits, labels = _batch(5)
    padded, names = np.full((13, 4), filling, "f"), np.full(13, -1)
    valid = np.arange(13) % 4 != 1
    valid[12] = True
    padded[valid], names[valid] = logits, labels
    both = jax.jit(jax.value_and_grad(loss))
    value, slope = both(logits.astype("f"), labels)
    same, longer = both(padded, names, valid=valid)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(longer[valid], slope, atol=1e-6)
    assert (longer[~valid] == 0).all()
    assert (loss(padded, names, valid=valid, reduction="none")[~valid] == 0).all()


def test_batch_split_over_devices_equals_one():
    logits, labels = _batch(6, n=24)
    valid = np.arange(24) % 5 > 0
    rows, whole = PartitionSpec("data"), PartitionSpec()
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))

    def local(x, y, valid, reduction="mean"):
        return loss(x, y, valid=valid, axis_name="data", reduction=reduction)

    split = functools.partial(jax.shard_map, mesh=mesh, in_specs=(rows, rows, rows))
    outside = jax.value_and_grad(split(local, out_specs=whole))
    inside = split(jax.value_and_grad(local), out_specs=(whole, rows))
    none = split(functools.partial(local, reduction="none"), out_specs=rows)
    with jax.enable_x64(True):
        wanted = jax.value_and_grad(loss)(logits, labels, valid=valid)
        for f in (outside, inside):
            found = jax.jit(f)(logits, labels, valid)
            chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-14)
        chex.assert_trees_all_close(
            jax.jit(none)(logits, labels, valid),
            loss(logits, labels, valid=valid, reduction="none"),
            rtol=1e-10,
        )


@pytest.mark.parametrize(
    ("logits", "valid"),
    [
        (np.full((3, 2), np.nan), [False] * 3),
        (np.zeros((0, 2)), []),
        (np.ones((3, 1)), [True] * 3),
    ],
)
def test_batches_without_anything_to_learn_give_exact_zeros(logits, valid):
    labels, valid = jnp.zeros(len(logits), int), jnp.asarray(valid, bool)
    value, slope = jax.value_and_grad(loss)(logits.astype("f"), labels, valid=valid)
    assert value == 0 and (slope == 0).all()


def test_sure_and_hopeless_examples_have_finite_gradients():
    logits = jnp.array([[1e4, 0.0], [0.0, 1e4]])
    value, slope = jax.value_and_grad(loss)(logits, jnp.array([0, 0]))
    np.testing.assert_allclose(value, 5e3, rtol=1e-6)
    np.testing.assert_allclose(slope, [[0, 0], [-0.5, 0.5]], atol=1e-6)


def test_nan_and_unknown_labels_are_seen():
    logits = jnp.eye(3)
    assert jnp.isnan(loss(logits.at[1, 2].set(jnp.nan), jnp.array([0, 1, 2])))
    assert jnp.isnan(loss(logits, jnp.array([0, 3, 2])))
    assert jnp.isnan(loss(logits, jnp.array([0, -1, 2])))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"labels": jnp.zeros(3, int)}, AssertionError),
        ({"labels": jnp.zeros(2)}, AssertionError),
        ({"logits": jnp.zeros(2)}, AssertionError),
        ({"logits": jnp.zeros((2, 0))}, ValueError),
        ({"valid": jnp.ones(3, bool)}, AssertionError),
        ({"sigma": 0}, ValueError),
        ({"mean": 1.5}, ValueError),
        ({"reduction": "sum"}, ValueError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change, error):
    given = {"logits": jnp.eye(2), "labels": jnp.zeros(2, int)} | change
    with pytest.raises(error):
        loss(**given)
