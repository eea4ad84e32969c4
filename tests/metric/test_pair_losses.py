"""The losses on pairs and triplets, against float64 loops and at their bad points."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from pair_loops import BETAS, CASES, batch, compiled, loss, oracle

import metric

every_case = pytest.mark.parametrize("case", CASES)


def _given(kind, x, labels, rng):
    """Keywords for the loss, and what the loops make of them."""
    same = labels[:, None] == labels[None]
    n = len(x)
    if kind == "alone":
        return {}, {"same": same}
    if kind == "same":
        return {"same": same}, {"same": same}
    if kind == "weighed":
        weights = rng.uniform(0, 2, (n, n)) * (rng.random((n, n)) > 0.2)
        return {"weights": weights, "block_rows": 4}, {"same": same, "weights": weights}
    if kind == "mined":
        pairs = same & (rng.random((n, n)) > 0.3), ~same & (rng.random((n, n)) > 0.5)
        return {"pairs": pairs, "block_rows": 5}, {"pairs": pairs}
    ref, names = rng.standard_normal((7, x.shape[1])), rng.integers(0, 3, 7)
    same, weights = labels[:, None] == names[None], rng.uniform(0.5, 2, (n, 7))
    itself = np.r_[3, -1, 0, np.full(n - 3, -1)]
    found = itself[:, None] == np.arange(7)
    given = {"ref": ref, "ref_labels": names, "itself": itself, "block_rows": 4}
    looped = {"pairs": (same & ~found, ~same & ~found), "weights": weights}
    return given | {"weights": weights}, {"ref": ref} | looped


@pytest.mark.parametrize("kind", ["alone", "same", "weighed", "mined", "referred"])
@every_case
def test_value_and_gradient_equal_loops_over_pairs(case, kind):
    x, labels = batch(0)
    given, looped = _given(kind, x, labels, np.random.default_rng(1))
    wanted, slope = oracle(case, x, labels, **looped)
    assert wanted > 0.01 and np.abs(slope).max() > 1e-3
    dtype = "float32" if kind == "same" else "float64"
    labels = None if kind == "same" and case != "margin by class" else labels
    with jax.enable_x64(dtype == "float64"):
        found = compiled(case)(x.astype(dtype), labels, **given)
    (value, each), got = jax.tree.map(np.asarray, found)
    assert value.dtype == got.dtype == dtype
    tolerance = 1e-10 if dtype == "float64" else 5e-6
    assert abs(value - wanted) <= tolerance * wanted
    assert np.abs(got - slope).max() <= tolerance * np.abs(slope).max()
    together = np.mean if case == "multi_similarity" else np.sum
    np.testing.assert_allclose(together(each), wanted, rtol=tolerance)


@every_case
def test_bad_points_give_finite_values_and_zero_gradients(case):
    f = jax.jit(jax.value_and_grad(loss(case)))
    x = batch(6, n=4)[0].astype("f")
    one, each, two = (np.array(a) % 3 for a in ([1] * 4, [0, 1, 2, 0], [0, 0, 1, 1]))
    valid = np.ones(4, bool)
    value, slope = f(x, two, valid=~valid)
    assert value == 0 and (slope == 0).all()
    for labels, rows in ((one, np.ones_like(x)), (two, 0 * x), (one, 0 * x)):
        value, slope = f(rows, labels, valid=valid)
        assert np.isfinite(value)
        if case != "n_pair":  # raw products push, and lengths are regularised
            np.testing.assert_allclose(slope, 0, atol=1e-7)
        assert np.isfinite(slope).all()
    for labels, still in ((one, valid), (each, np.array([1, 1, 1, 0], bool))):
        value, slope = f(x, labels, valid=still)
        assert np.isfinite(value) and np.isfinite(slope).all()
        if case.split()[0] in ("triplet", "lifted_structure", "supcon"):
            assert value == 0 and (slope == 0).all()
    value, slope = f(np.zeros((0, 4), "f"), np.zeros(0, int), valid=np.zeros(0, bool))
    assert value == 0 and slope.shape == (0, 4)


@every_case
def test_nan_in_a_row_that_counts_is_seen(case):
    x, labels = batch(7)
    x[3, 1] = np.nan
    (value, each), _ = compiled(case)(x.astype("f"), labels)
    assert np.isnan(value) and np.isnan(each).any()


def _chord(degrees):
    return 2 * math.sin(math.radians(degrees) / 2)


def _nats(*exponents):
    return math.log(sum(math.exp(e) for e in exponents))


COS30 = math.cos(math.pi / 6)
NEAR, FAR = _chord(30), _chord(90)
BY_HAND = {  # at 0, 60 and 90 degrees; the first two are of one class
    "triplet": ({}, 1 - NEAR + 0.2),
    "triplet semihard": ({"kind": "semihard", "margin": 0.5}, 1 - FAR + 0.5),
    "triplet hard": ({"kind": "hard"}, 1 - NEAR + 0.2),
    "margin": (
        {"margin": 0.3},
        (2 * 0.1 + 2 * (1.5 - FAR) + 2 * (1.5 - NEAR)) / 6,
    ),
    "n_pair": ({}, (_nats(0, -0.5) + _nats(0, COS30 - 0.5)) / 2),
    "lifted_structure": ({}, (1 + _nats(1 - FAR, 1 - NEAR)) ** 2 / 2),
    "multi_similarity": (
        {"beta": 10.0},
        (2 * math.log(2) / 2 + (_nats(0, -5) + _nats(0, 10 * COS30 - 5)) / 10) / 3
        + _nats(0, -5, 10 * COS30 - 5) / 30,
    ),
    "supcon": (
        {"temperature": 0.5},
        (_nats(1, 0) - 1 + _nats(1, 2 * COS30) - 1) / 2,
    ),
}


class HandTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*BY_HAND)
    def test_value_on_a_circle(self, case):
        angle = np.radians([0, 60, 90])
        x = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
        options, wanted = BY_HAND[case]
        f = getattr(metric, case.split()[0] + "_loss")
        value = self.variant(functools.partial(f, **options))(x, jnp.array([0, 0, 1]))
        np.testing.assert_allclose(value, wanted, rtol=2e-6)


def test_n_pair_with_references_is_the_cross_entropy_of_anchors_and_positives():
    anchors, positives = np.random.default_rng(0).standard_normal((2, 5, 3), "f")
    classes = np.arange(5)
    value = metric.n_pair_loss(anchors, classes, ref=positives, ref_labels=classes)
    logits = jnp.asarray(anchors @ positives.T)
    wanted = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_boundaries_of_classes_are_learnt():
    x, labels = batch(10)

    @jax.jit
    def f(beta):
        return metric.margin_loss(x, labels, beta=beta)

    with jax.enable_x64(True):
        slope = jax.grad(f)(jnp.asarray(BETAS))
        for i, step in enumerate(1e-6 * np.eye(3)):
            wanted = (f(BETAS + step) - f(BETAS - step)) / 2e-6
            np.testing.assert_allclose(slope[i], wanted, atol=1e-8)
    assert (np.abs(slope) > 1e-3).all()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_without_a_boundary_is_seen(label):
    x, labels = batch(10)
    labels = jnp.asarray(labels).at[0].set(label)
    x, beta = jnp.asarray(x, "f"), jnp.asarray(BETAS, "f")
    assert np.isnan(metric.margin_loss(x, labels, beta=beta))


@pytest.mark.parametrize(
    ("f", "options"),
    [
        (metric.triplet_loss, {"kind": "easy"}),
        (metric.margin_loss, {"beta": BETAS, "labels": None, "same": np.eye(3) > 0}),
        (metric.triplet_loss, {"reduction": "sum"}),
        (metric.supcon_loss, {"temperature": 0.0}),
        (metric.lifted_structure_loss, {"ref": jnp.eye(3)}),
    ],
)
def test_values_that_make_no_sense_are_refused(f, options):
    with pytest.raises(ValueError):
        f(jnp.eye(3), **({"labels": jnp.zeros(3, int)} | options))
