"""Ranked list loss against its equations in float64 loops, and at its bad points."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from jax import test_util
from jax.sharding import NamedSharding, PartitionSpec

from metric import ranked_list

loss = ranked_list.ranked_list_loss
MODES = ("query", "pair", "full")


def _oracle(
    x, labels, *, alpha=1.2, margin=0.4, temperature=10.0, positive_temperature=0.0,
    pos_weight=0.5, neg_weight=0.5, gradient="query", query_weighting="uniform",
):  # fmt: skip
    """Value and gradient by the equations, one pair at a time."""
    alpha = 1 + margin / 2 if alpha is None else alpha
    n, inner = len(x), alpha - margin
    f = [row / math.sqrt(sum(v * v for v in row)) for row in np.asarray(x, float)]
    d = [[math.sqrt(np.sum((a - b) ** 2)) for b in f] for a in f]
    value, masses, c = [], [], np.zeros((n, n))
    for i in range(n):
        value.append(0.0)
        masses.append(0.0)
        for sign, weight, t, hinges in (
            (1, pos_weight, positive_temperature,
             {j: d[i][j] - inner for j in range(n) if labels[j] == labels[i]}),
            (-1, neg_weight, temperature,
             {j: alpha - d[i][j] for j in range(n) if labels[j] != labels[i]}),
        ):  # fmt: skip
            active = {j: h for j, h in hinges.items() if h > 0 and j != i}
            raw = {j: math.exp(t * h) for j, h in active.items()}
            total = sum(raw.values())
            mean = sum(raw[j] / total * active[j] for j in active)
            value[i] += weight * mean
            masses[i] += total
            for j, h in active.items():
                slope = 1 + t * (h - mean) if gradient == "full" else 1
                c[i, j] = sign * weight * raw[j] / total * slope
    if query_weighting == "uniform":
        share = [1 / n] * n
    else:
        share = [m / sum(masses) if sum(masses) else 0.0 for m in masses]
    g = np.zeros_like(np.asarray(x, float))
    for i in range(n):
        for j in range(n):
            if d[i][j] > 0:
                pull = share[i] * c[i, j] * (f[i] - f[j]) / d[i][j]
                g[i] += pull
                g[j] -= pull if gradient != "query" else 0
    for i in range(n):
        g[i] = (g[i] - f[i] * np.dot(f[i], g[i])) / np.linalg.norm(x[i])
    return sum(s * v for s, v in zip(share, value)), g


def _batch(seed, *, n=12, width=4, classes=4, boundaries=(1.2, 0.8, 1.15, 0.85)):
    """Rows of any length whose distances keep away from 0 and from the boundaries."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    rows = []
    while len(rows) < n:
        row = rng.standard_normal(width)
        row /= np.linalg.norm(row)
        d = np.array([np.linalg.norm(row - other) for other in rows])
        if (d > 0.3).all() and (np.abs(d[:, None] - boundaries) > 2e-3).all():
            rows.append(row)
    return np.array(rows) * rng.uniform(0.5, 2, (n, 1)), labels


def _circle(*degrees):
    angle = np.radians(degrees)
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)


def _chord(degrees):
    return 2 * math.sin(math.radians(degrees) / 2)


def _value_and_grad(x, labels, **options):
    return jax.jit(jax.value_and_grad(functools.partial(loss, **options)))(x, labels)


@functools.partial(jax.jit, static_argnames=("gradient", "query_weighting"))
def _compiled(x, labels, settings, gradient, query_weighting):
    options = {"gradient": gradient, "query_weighting": query_weighting}
    return _value_and_grad(x, labels, **settings, **options)


DEFAULTS = {
    "alpha": 1.2,
    "margin": 0.4,
    "temperature": 10.0,
    "positive_temperature": 0.0,
    "pos_weight": 0.5,
    "neg_weight": 0.5,
}
SETTINGS = [
    DEFAULTS | {"temperature": t} | more
    for t in (0.0, 10.0, 200.0)
    for more in (
        {},
        {"positive_temperature": 5.0},
        {"alpha": 1.15, "margin": 0.3, "pos_weight": 0.3, "neg_weight": 0.9},
    )
]


@pytest.mark.parametrize("query_weighting", ["uniform", "mass"])
@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_equal_the_equations(dtype, gradient, query_weighting):
    options = {"gradient": gradient, "query_weighting": query_weighting}
    for settings in SETTINGS:
        for seed in range(3):
            x, labels = _batch(seed)
            x = x.astype(dtype)
            wanted, slope = _oracle(x, labels, **settings, **options)
            assert wanted > 0.01
            with jax.enable_x64(dtype == "float64"):
                value, got = map(np.asarray, _compiled(x, labels, settings, **options))
            assert value.dtype == got.dtype == dtype
            # An error e of a distance changes its weight by T e.
            hot = max(1, settings["temperature"] / 10)
            hot *= 4 if gradient == "full" else 1
            tolerance = 1e-10 if dtype == "float64" else 5e-6 * hot
            assert abs(value - wanted) <= tolerance * wanted, settings
            assert np.abs(got - slope).max() <= tolerance * np.abs(slope).max(), (
                settings
            )


def test_simpler_form_puts_the_boundaries_evenly_about_one():
    x, labels = _batch(0)
    wanted, slope = _oracle(x, labels, alpha=None, margin=0.3)
    value, got = _value_and_grad(x.astype("f"), labels, alpha=None, margin=0.3)
    assert wanted == _oracle(x, labels, alpha=1.15, margin=0.3)[0]
    np.testing.assert_allclose(value, wanted, rtol=5e-6)
    np.testing.assert_allclose(got, slope, atol=5e-6 * np.abs(slope).max())


class HandTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    @parameterized.parameters(*MODES)
    def test_value_on_a_circle(self, gradient):
        x, labels = _circle(0, 60, 90), jnp.array([0, 0, 1])
        f = self.variant(functools.partial(loss, gradient=gradient))
        too_far = _chord(60) - 0.8
        # Query 0: its negative lies beyond 1.2. Queries 1 and 2 see chord 30.
        queries = [too_far, too_far + 1.2 - _chord(30), 1.2 - _chord(30)]
        np.testing.assert_allclose(f(x, labels), sum(queries) / 2 / 3, rtol=1e-6)

    @chex.all_variants(with_pmap=False)
    def test_negatives_are_weighed_by_their_closeness(self):
        x, labels = _circle(0, 20, 40), jnp.array([0, 1, 2])
        near, far = 1.2 - _chord(20), 1.2 - _chord(40)
        w = math.exp(10 * (far - near))
        end, middle = (near + w * far) / (1 + w), near
        value = self.variant(loss)(x, labels)
        np.testing.assert_allclose(value, (2 * end + middle) / 6, rtol=5e-6)

    @chex.all_variants(with_pmap=False)
    def test_query_gradient_pushes_only_the_query(self):
        x, labels = _circle(0, 60), jnp.array([0, 1])
        slope = self.variant(jax.grad(loss))(x, labels)
        # d chord / d angle = cos 30 degrees; weight 0.5, two queries.
        size = 0.5 / 2 * math.cos(math.radians(30))
        np.testing.assert_allclose(slope[0], [0, size], atol=1e-7)
        pair = self.variant(jax.grad(functools.partial(loss, gradient="pair")))
        np.testing.assert_allclose(pair(x, labels), 2 * slope, rtol=1e-5, atol=1e-7)


def test_zero_temperature_is_the_plain_mean():
    x, labels = _circle(0, 20, 40), jnp.array([0, 1, 2])
    near, far = 1.2 - _chord(20), 1.2 - _chord(40)
    value = loss(x, labels, temperature=0)
    np.testing.assert_allclose(value, ((near + far) + near) / 6, rtol=1e-6)


def test_large_temperature_keeps_the_hardest_negative():
    x, labels = _circle(0, 20, 40), jnp.array([0, 1, 2])
    for t in (200.0, 1e4):
        value = loss(x, labels, temperature=t)
        np.testing.assert_allclose(value, (1.2 - _chord(20)) / 2, rtol=1e-6)


def test_mass_weighs_queries_by_their_raw_weights():
    x, labels = _circle(0, 60, 90), jnp.array([0, 0, 1])
    near = math.exp(2 * (1.2 - _chord(30)))
    masses = [1, 1 + near, near]
    too_far, too_near = _chord(60) - 0.8, 1.2 - _chord(30)
    queries = [too_far / 2, (too_far + too_near) / 2, too_near / 2]
    wanted = sum(m * q for m, q in zip(masses, queries)) / sum(masses)
    value = loss(x, labels, temperature=2.0, query_weighting="mass")
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


@pytest.mark.parametrize("gradient", MODES)
def test_order_names_and_lengths_of_rows_do_not_matter(gradient):
    x, labels = _batch(0)
    x = x.astype(np.float32)
    rng = np.random.default_rng(1)
    order, scale = rng.permutation(12), rng.uniform(0.1, 10, (12, 1)).astype("f")
    options = {"gradient": gradient, "query_weighting": "uniform"}
    value, slope = _compiled(x, labels, {}, **options)
    other, moved = _compiled((x * scale)[order], 7 - labels[order], {}, **options)
    np.testing.assert_allclose(other, value, rtol=2e-6)
    np.testing.assert_allclose(moved * scale[order], slope[order], atol=3e-6)
    along = np.abs(np.sum(x * slope, axis=1))
    assert (along <= 1e-6 * np.abs(slope).max()).all()  # lengths get no gradient


@pytest.mark.parametrize("query_weighting", ["uniform", "mass"])
def test_value_is_the_same_in_every_gradient_mode(query_weighting):
    x, labels = _batch(1)
    values = [
        _compiled(x.astype("f"), labels, {}, mode, query_weighting)[0] for mode in MODES
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("query_weighting", ["uniform", "mass"])
def test_batches_in_which_nothing_pays_give_exact_zeros(gradient, query_weighting):
    quiet = {
        "no positives, far negatives": (jnp.eye(4), [0, 1, 2, 3]),
        "no negatives, near positives": (_circle(0, 10, 20, 5), [5, 5, 5, 5]),
        "all identical, one class": (jnp.ones((4, 4)), [1, 1, 1, 1]),
        "all trivial": (_circle(0, 5, 180, 185), [0, 0, 1, 1]),
        "one item": (jnp.ones((1, 4)), [0]),
    }
    for name, (x, labels) in quiet.items():
        x = jnp.pad(x, ((0, 0), (0, 4 - x.shape[1])))
        value, slope = _compiled(x, jnp.array(labels), {}, gradient, query_weighting)
        assert value == 0, name
        assert (slope == 0).all(), name


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("query_weighting", ["uniform", "mass"])
def test_coincident_negatives_pay_alpha_and_push_nowhere(gradient, query_weighting):
    x = jnp.full((3, 7), 0.3)
    value, slope = _value_and_grad(
        x, jnp.arange(3), gradient=gradient, query_weighting=query_weighting
    )
    np.testing.assert_allclose(value, 1.2 / 2, rtol=1e-6)
    assert (slope == 0).all()


@pytest.mark.parametrize("gradient", MODES)
def test_duplicates_among_other_rows_stay_finite_and_count(gradient):
    x, labels = _batch(2)
    x = x.astype("f")
    x[1] = x[0]
    labels[:2] = 0, 1
    longer = x * np.where(np.arange(12) == 1, 2, 1).astype("f")[:, None]
    value, slope = _value_and_grad(longer, labels, gradient=gradient)
    wanted, expected = _oracle(x, labels, gradient=gradient)
    assert np.isfinite(slope).all()
    assert value == pytest.approx(wanted, rel=1e-5)
    expected[1] /= 2
    np.testing.assert_allclose(slope, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("query_weighting", ["uniform", "mass"])
@pytest.mark.parametrize("filling", [0.0, 1.0, np.nan, np.inf])
def test_padding_rows_change_nothing(gradient, query_weighting, filling):
    x, labels = _batch(3)
    x = x.astype("f")
    padded = np.full((16, 4), filling, "f")
    rows = np.array([0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 13, 15])
    padded[rows] = x
    names = np.zeros(16, int)
    names[rows] = labels
    valid = np.zeros(16, bool)
    valid[rows] = True
    options = {"gradient": gradient, "query_weighting": query_weighting}
    value, slope = _compiled(x, labels, {}, **options)
    same, longer = _compiled(padded, names, {"valid": valid}, **options)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    np.testing.assert_allclose(longer[rows], slope, atol=1e-6)
    assert (longer[~valid] == 0).all()


def test_weights_of_pairs_that_are_not_there_do_not_matter():
    x, labels = _batch(3)
    valid = np.arange(12) < 10
    there = valid[:, None] & valid & ~np.eye(12, dtype=bool)
    weights = np.where(there, 1.0, np.nan).astype("f")
    chex.assert_trees_all_close(
        _value_and_grad(x.astype("f"), labels, valid=valid, weights=weights),
        _value_and_grad(x.astype("f"), labels, valid=valid),
        rtol=1e-6,
        atol=1e-7,
    )


def test_batch_of_padding_alone_is_zero():
    value, slope = _value_and_grad(
        jnp.full((3, 2), jnp.nan), jnp.zeros(3, int), valid=jnp.zeros(3, bool)
    )
    assert value == 0 and (slope == 0).all()


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]])
def test_nan_in_a_row_that_counts_is_seen(labels):
    x = jnp.ones((4, 3)).at[2, 1].set(jnp.nan)
    assert jnp.isnan(jax.jit(loss)(x, jnp.array(labels)))


@pytest.mark.parametrize("gradient", MODES)
def test_zero_row_gives_finite_value_and_gradient(gradient):
    x, labels = _batch(4)
    x = x.astype("f")
    x[3] = 0
    value, slope = _value_and_grad(x, labels, gradient=gradient)
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_vmap_over_batches_equals_a_loop():
    batches = [_batch(seed) for seed in range(3)]
    x = jnp.asarray(np.stack([b[0] for b in batches]), jnp.float32)
    labels = jnp.asarray(np.stack([b[1] for b in batches]))
    alone = jax.jit(jax.value_and_grad(loss))
    mapped = jax.jit(jax.vmap(jax.value_and_grad(loss)))(x, labels)
    for i in range(3):
        chex.assert_trees_all_close(
            jax.tree.map(lambda a, i=i: a[i], mapped),
            alone(x[i], labels[i]),
            rtol=1e-5,
            atol=1e-6,
        )


def test_full_mode_is_differentiable_twice():
    x, labels = _batch(5, n=6, classes=3)
    with jax.enable_x64(True):
        f = functools.partial(
            loss,
            labels=labels,
            gradient="full",
            temperature=4.0,
            positive_temperature=3.0,
        )
        test_util.check_grads(
            jax.jit(f), (jnp.asarray(x),), order=2, modes=["rev"], rtol=1e-5, eps=1e-6
        )


def test_rematerialised_loss_is_the_same():
    x, labels = _batch(6)
    x = jnp.asarray(x, jnp.float32)
    chex.assert_trees_all_close(
        jax.jit(jax.value_and_grad(jax.checkpoint(loss)))(x, labels),
        _value_and_grad(x, labels),
        rtol=1e-6,
        atol=1e-7,
    )


def test_half_precision_is_computed_in_float32():
    x, labels = _batch(7)
    half = jnp.asarray(x, jnp.bfloat16)
    value, slope = _value_and_grad(half, labels)
    wanted, exact = _value_and_grad(half.astype(jnp.float32), labels)
    assert value.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    assert value == wanted
    np.testing.assert_allclose(slope.astype("f"), exact, rtol=1e-2)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "uint32"])
def test_labels_may_be_any_integers(kind):
    x, labels = _batch(8)
    x = jnp.asarray(x, jnp.float32)
    f = jax.jit(loss)
    assert f(x, jnp.asarray(labels, kind)) == f(x, jnp.asarray(labels))


@pytest.mark.parametrize("gradient", MODES)
@pytest.mark.parametrize("query_weighting", ["uniform", "mass"])
def test_batch_on_eight_devices_equals_one(gradient, query_weighting):
    x, labels = _batch(9, n=16, width=5)
    x = x.astype("f")
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    options = {"gradient": gradient, "query_weighting": query_weighting}
    value, slope = _compiled(x, labels, {}, **options)
    placed = jax.device_put(x, rows), jax.device_put(labels.astype("int32"), rows)
    assert len(placed[0].sharding.device_set) == 8
    shared, split = _compiled(*placed, {}, **options)
    np.testing.assert_allclose(shared, value, rtol=1e-5)
    np.testing.assert_allclose(split, slope, atol=1e-5 * np.abs(slope).max())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"gradient": "all"}, ValueError),
        ({"query_weighting": "none"}, ValueError),
        ({"labels": jnp.zeros(3, int)}, AssertionError),
        ({"labels": jnp.zeros(2)}, AssertionError),
        ({"valid": jnp.ones(3, bool)}, AssertionError),
        ({"itself": jnp.arange(2)}, ValueError),
        ({"ref_valid": jnp.ones(2, bool)}, ValueError),
        ({"embeddings": jnp.ones(2)}, AssertionError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change, error):
    given = {"embeddings": jnp.eye(2), "labels": jnp.zeros(2, int)} | change
    with pytest.raises(error):
        loss(**given)


@pytest.mark.parametrize("weighting", ["uniform", "mass"])
def test_an_empty_batch_costs_nothing(weighting):
    empty = jnp.zeros((0, 4))
    f = functools.partial(ranked_list.ranked_list_loss, query_weighting=weighting)
    value, slope = jax.value_and_grad(f)(empty, jnp.zeros((0,), jnp.int32))
    assert value == 0
    assert slope.shape == (0, 4)
