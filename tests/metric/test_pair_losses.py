"""The losses on pairs and triplets, against float64 loops and at their bad points."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from jax.sharding import PartitionSpec

import metric
from metric import triplet

BETAS = np.array([1.1, 1.25, 1.4])


class Loops:
    """Oracles in plain loops, which also take complex rows.

    The derivative of such a function f is the imaginary part of f(x + 1e-30 i) / 1e-30,
    to the last digit.
    """

    def __init__(self, x, refs, positive, negative, weights, own, labels, unit):
        def rows(every):
            return [r / np.sqrt(np.sum(r * r)) if unit else r for r in every]

        self.x, self.refs, self.labels = rows(x), rows(refs), labels
        self.w, self.own = weights, own
        self.n, self.g = len(x), len(refs)
        self.p = [[j for j in range(self.g) if m[j]] for m in positive & (weights > 0)]
        self.k = [[j for j in range(self.g) if m[j]] for m in negative & (weights > 0)]

    def d(self, i, j):
        return np.sqrt(np.sum((self.x[i] - self.refs[j]) ** 2))

    def s(self, i, j):
        return np.sum(self.x[i] * self.refs[j])

    def triplet(self, *, margin=0.2, kind="all"):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            near, far = self.p[i], self.k[i]
            if kind == "hard" and near and far:
                near = [max(near, key=lambda j, i=i: self.d(i, j).real)]
                far = [min(far, key=lambda j, i=i: self.d(i, j).real)]
            for j, k in ((j, k) for j in near for k in far):
                hinge = self.d(i, j) - self.d(i, k) + margin
                beyond = self.d(i, k).real > self.d(i, j).real
                if hinge.real > 0 and (kind != "semihard" or beyond):
                    paid += self.w[i, j] * self.w[i, k] * hinge
                    number += self.w[i, j] * self.w[i, k]
        return paid / number if number else 0.0

    def margin(self, *, beta=1.2, margin=0.2):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            b = beta[self.labels[i]] if np.ndim(beta) else beta
            hinges = [(j, self.d(i, j) - b + margin) for j in self.p[i]]
            hinges += [(j, b - self.d(i, j) + margin) for j in self.k[i]]
            for j, hinge in hinges:
                if hinge.real > 0:
                    paid, number = paid + self.w[i, j] * hinge, number + self.w[i, j]
        return paid / number if number else 0.0

    def n_pair(self, *, l2=0.0):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            for j in self.p[i]:
                crowd = [
                    self.w[i, k] * np.exp(self.s(i, k) - self.s(i, j))
                    for k in self.k[i]
                ]
                squares = np.sum(self.x[i] ** 2) + np.sum(self.refs[j] ** 2)
                paid += self.w[i, j] * (np.log(1 + sum(crowd)) + l2 / 2 * squares)
                number += self.w[i, j]
        return paid / number if number else 0.0

    def lifted_structure(self, *, neg_margin=1.0, pos_margin=0.0):
        paid, number = 0.0, 0.0
        for i in range(self.n):
            for j in self.p[i]:
                touching = [(i, k) for k in self.k[i]]
                if self.own:
                    touching += [(j, k) for k in self.k[j]]
                else:
                    touching += [(k, j) for k in range(self.n) if j in self.k[k]]
                crowd = sum(
                    self.w[pair] * np.exp(neg_margin - self.d(*pair))
                    for pair in touching
                )
                number += self.w[i, j]
                if crowd != 0:
                    hinge = np.log(crowd) + self.d(i, j) - pos_margin
                    paid += self.w[i, j] * hinge**2 / 2 if hinge.real > 0 else 0
        return paid / number if number else 0.0

    def multi_similarity(self, *, alpha=2.0, beta=50.0, base=0.5):
        value = 0.0
        for i in range(self.n):
            for t, those in ((-alpha, self.p[i]), (beta, self.k[i])):
                crowd = [
                    self.w[i, j] * np.exp(t * (self.s(i, j) - base)) for j in those
                ]
                value += np.log(1 + sum(crowd)) / abs(t)
        return value / self.n

    def supcon(self, *, temperature=0.1):
        paid = []
        for i in range(self.n):
            if not (self.p[i] and self.k[i]):
                continue
            crowd = sum(
                self.w[i, j] * np.exp(self.s(i, j) / temperature)
                for j in self.p[i] + self.k[i]
            )
            logs = [
                self.w[i, j] * np.log(np.exp(self.s(i, j) / temperature) / crowd)
                for j in self.p[i]
            ]
            paid.append(-sum(logs) / sum(self.w[i, j] for j in self.p[i]))
        return sum(paid) / len(paid) if paid else 0.0


CASES = {
    "triplet": {},
    "triplet semihard": {"kind": "semihard", "margin": 0.4},
    "triplet hard": {"kind": "hard"},
    "margin": {},
    "margin by class": {"beta": BETAS},
    "n_pair": {"l2": 0.1},
    "lifted_structure": {"pos_margin": 0.1},
    "multi_similarity": {},
    "supcon": {},
}
every_case = pytest.mark.parametrize("case", CASES)


def _loss(case, **more):
    f = getattr(metric, case.split()[0] + "_loss")
    return functools.partial(f, **CASES[case], **more)


def _oracle(case, x, labels, *, ref=None, same=None, pairs=None, weights=None):
    """Value and gradient; of `ref` the loops know no gradient."""
    refs = x if ref is None else ref
    if pairs is None:
        pairs = (same, ~same)
    if ref is None:
        pairs = [mask & ~np.eye(len(x), dtype=bool) for mask in pairs]
    weights = np.ones(pairs[0].shape) if weights is None else weights
    name = case.split()[0]

    def value(x):
        refs_ = x if ref is None else refs
        unit = name != "n_pair"
        loops = Loops(x, refs_, *pairs, weights, ref is None, labels, unit)
        return getattr(loops, name)(**CASES[case])

    slope = np.zeros(x.shape)
    for i in np.ndindex(*x.shape):
        moved = x.astype(complex)
        moved[i] += 1e-30j
        slope[i] = np.imag(value(moved)) / 1e-30
    return float(np.real(value(x))), slope


def _batch(seed, n=10, width=4):
    """Three classes, one of them with a single item."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, width)), np.r_[2, np.arange(1, n) % 2]


def _given(kind, x, labels, rng):
    """Keywords for the loss, and what the loops make of them."""
    same = labels[:, None] == labels[None]
    n = len(x)
    if kind == "alone":
        return {}, {"same": same}
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


def _both(case, **more):
    """Compiled: the loss, its gradient, and the values that add up to it."""

    def f(x, labels, **given):
        each = _loss(case, reduction="none", **more)(x, labels, **given)
        return _loss(case, **more)(x, labels, **given), each

    static = ("block_rows",)
    return jax.jit(jax.value_and_grad(f, has_aux=True), static_argnames=static)


@pytest.mark.parametrize("kind", ["alone", "weighed", "mined", "referred"])
@every_case
def test_value_and_gradient_equal_loops_over_pairs(case, kind):
    x, labels = _batch(0)
    given, looped = _given(kind, x, labels, np.random.default_rng(1))
    wanted, slope = _oracle(case, x, labels, **looped)
    assert wanted > 0.01 and np.abs(slope).max() > 1e-3
    kinds = ("float32", "float64") if kind == "alone" else ("float64",)
    for dtype in kinds:
        with jax.enable_x64(dtype == "float64"):
            (value, each), got = _both(case)(x.astype(dtype), labels, **given)
        assert value.dtype == got.dtype == dtype
        tolerance = 1e-10 if dtype == "float64" else 5e-6
        assert abs(value - wanted) <= tolerance * wanted
        assert np.abs(got - slope).max() <= tolerance * np.abs(slope).max()
        together = np.mean if case == "multi_similarity" else np.sum
        np.testing.assert_allclose(together(np.asarray(each)), wanted, rtol=tolerance)


@every_case
def test_same_and_mined_pairs_stand_for_labels(case):
    if case == "margin by class":
        with pytest.raises(ValueError, match="labels"):
            _loss(case)(jnp.eye(3), same=jnp.eye(3, dtype=bool))
        return
    x, labels = _batch(2)
    same = labels[:, None] == labels
    wanted, slope = jax.jit(jax.value_and_grad(_loss(case)))(x, labels)
    f = jax.jit(jax.value_and_grad(lambda x, **given: _loss(case)(x, **given)))
    for given in ({"same": same}, {"pairs": (same, ~same)}):
        value, got = f(x, **given)
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        np.testing.assert_allclose(got, slope, atol=2e-6 * np.abs(slope).max())


@pytest.mark.parametrize("kind", ["all", "semihard"])
def test_sorting_counts_the_triplets_that_walking_does(kind, monkeypatch):
    x, labels = _batch(3)
    x[4:7] = x[4]  # distances that are equal
    labels[4:7] = 0, 1, 1
    weights = np.random.default_rng(4).uniform(0, 2, (10, 10))
    results = []
    for few in (0, 32):
        monkeypatch.setattr(triplet, "FEW", few)
        f = functools.partial(metric.triplet_loss, kind=kind)
        for given in ({}, {"weights": weights}):
            with jax.enable_x64(True):
                results.append(jax.jit(jax.value_and_grad(f))(x, labels, **given))
    chex.assert_trees_all_close(results[:2], results[2:], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("filling", [0.0, np.nan])
@every_case
def test_padding_rows_change_nothing(case, filling):
    x, labels = (np.asarray(a, t) for a, t in zip(_batch(5), "fi"))
    padded = np.full((13, 4), filling, "f")
    rows, names, valid = np.delete(np.arange(13), [0, 5, 12]), np.zeros(13, int), False
    padded[rows], names[rows] = x, labels
    valid = np.isin(np.arange(13), rows)
    (value, _), slope = _both(case)(x, labels)
    (same, each), longer = _both(case)(padded, names, valid=valid, block_rows=4)
    np.testing.assert_allclose(same, value, rtol=2e-6)
    np.testing.assert_allclose(longer[rows], slope, atol=5e-6 * np.abs(slope).max())
    assert (longer[~valid] == 0).all() and (each[~valid] == 0).all()


@every_case
def test_bad_points_give_finite_values_and_zero_gradients(case):
    f = jax.jit(jax.value_and_grad(_loss(case)))
    x = _batch(6, n=4)[0].astype("f")
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
    x, labels = _batch(7)
    x[3, 1] = np.nan
    (value, each), _ = _both(case)(x.astype("f"), labels)
    assert np.isnan(value) and np.isnan(each).any()


@every_case
def test_batch_split_over_devices_is_the_whole_batch(case):
    x, labels = _batch(8, n=16)
    weights = np.random.default_rng(9).uniform(0.5, 2, (16, 16))
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    rows, alike = PartitionSpec("data"), PartitionSpec()

    def split(x, labels, weights):
        given = {"weights": weights, "axis_name": "data", "block_rows": 3}
        each = _loss(case, reduction="none")(x, labels, **given)
        return _loss(case)(x, labels, **given), each

    f = jax.shard_map(split, mesh=mesh, in_specs=(rows,) * 3, out_specs=(alike, rows))
    with jax.enable_x64(True):
        wanted = _both(case)(x, labels, weights=weights)
        found = jax.jit(jax.value_and_grad(f, has_aux=True))(x, labels, weights)
    chex.assert_trees_all_close(found, wanted, rtol=1e-10, atol=1e-12)


@every_case
def test_references_are_shared_by_the_devices(case):
    x, labels = _batch(8, n=16)
    ref, names = _batch(9, n=5)
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    rows, alike = PartitionSpec("data"), PartitionSpec()

    def split(x, labels, ref, names):
        return _loss(case, axis_name="data")(x, labels, ref=ref, ref_labels=names)

    specs = (rows, rows, alike, alike)
    f = jax.shard_map(split, mesh=mesh, in_specs=specs, out_specs=alike)
    with jax.enable_x64(True):
        alone = functools.partial(_loss(case), ref_labels=names)
        both = jax.jit(jax.value_and_grad(lambda x, r: alone(x, labels, ref=r), (0, 1)))
        shared = jax.jit(jax.value_and_grad(f, (0, 2)))(x, labels, ref, names)
        chex.assert_trees_all_close(shared, both(x, ref), rtol=1e-10, atol=1e-12)


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
    @chex.all_variants(with_pmap=False)
    @parameterized.parameters(*BY_HAND)
    def test_value_on_a_circle(self, case):
        angle = np.radians([0, 60, 90])
        x = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
        options, wanted = BY_HAND[case]
        f = getattr(metric, case.split()[0] + "_loss")
        value = self.variant(functools.partial(f, **options))(x, jnp.array([0, 0, 1]))
        np.testing.assert_allclose(value, wanted, rtol=2e-6)


def test_n_pair_with_references_is_the_cross_entropy_of_anchors_and_positives():
    anchors, positives = np.random.default_rng(0).standard_normal((2, 5, 3))
    classes = np.arange(5)
    value = metric.n_pair_loss(anchors, classes, ref=positives, ref_labels=classes)
    logits = jnp.asarray(anchors @ positives.T)
    wanted = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_boundaries_of_classes_are_learnt():
    x, labels = _batch(10)

    def f(beta):
        return metric.margin_loss(x, labels, beta=beta)

    with jax.enable_x64(True):
        slope = jax.grad(f)(jnp.asarray(BETAS))
        for i, step in enumerate(1e-6 * np.eye(3)):
            wanted = (f(BETAS + step) - f(BETAS - step)) / 2e-6
            np.testing.assert_allclose(slope[i], wanted, atol=1e-8)
    assert (np.abs(slope) > 1e-3).all()


@pytest.mark.parametrize(
    ("f", "options"),
    [
        (metric.triplet_loss, {"kind": "easy"}),
        (metric.triplet_loss, {"reduction": "sum"}),
        (metric.supcon_loss, {"temperature": 0.0}),
        (metric.lifted_structure_loss, {"ref": jnp.eye(3)}),
    ],
)
def test_values_that_make_no_sense_are_refused(f, options):
    with pytest.raises(ValueError):
        f(jnp.eye(3), jnp.zeros(3, int), **options)
