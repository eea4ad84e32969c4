"""OSM + CAA against its equations in float64 loops, in parts, and at its bad points."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metric import attention, soft_mining

loss = soft_mining.osm_caa_loss
CLASSES = 4


def _attention(x, labels, logits, context, kind, width):
    """One value an item, by the equations."""
    if kind == "none":
        return [1.0] * len(x)
    values = []
    for i, row in enumerate(x):
        z = logits[i] if logits is not None else context @ (row / _length(row))
        p = np.exp(z[labels[i]]) / sum(np.exp(v) for v in z)
        values.append(p if kind == "prob" else np.exp(-((p - 1) ** 2) / 2 / width**2))
    return values


def _length(row):
    return np.sqrt(np.sum(row * row))  # of a complex row too, where abs would not do


def _oracle(
    x, labels, logits=None, context=None, *, alpha=1.2, sigma=0.8, balance=0.5,
    mining="soft", attention="prob", attention_width=0.68, sigma_convention="paper",
    pair="min", gradient="weights_const", legacy_pair_scale=False,
):  # fmt: skip
    """The share of each item, by the equations, one pair i < j at a time."""
    a = _attention(x, labels, logits, context, attention, attention_width)
    f = [row / _length(row) for row in x]
    kept = np.real if gradient == "weights_const" else np.asarray
    found = {True: [], False: []}
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            d = _length(f[i] - f[j])
            same = bool(labels[i] == labels[j])
            near = alpha - d if d.real < alpha else 0
            if sigma_convention == "paper":
                closeness = np.exp(-(d**2) / sigma**2)
            else:
                closeness = np.exp(-(d**2) / (2 * sigma**2))
            score = (closeness if same else near) if mining == "soft" else 1.0
            both = min(a[i], a[j], key=np.real) if pair == "min" else a[i] * a[j]
            found[same].append((i, j, kept(score * both), d**2 if same else near**2))
    shares = np.zeros(len(x), complex)
    for same, pairs in found.items():
        mass = sum(w for _, _, w, _ in pairs)
        for i, j, w, paid in pairs:
            if mass != 0:
                part = (1 - balance if same else balance) * w * paid / mass / 2
                shares[[i, j]] += part / 2
    count = len(x) * (len(x) - 1) / 2
    return shares / count if legacy_pair_scale else shares


def _slopes(f, *arrays):
    """Exact gradients by complex steps, one number at a time."""
    slopes = []
    for k, array in enumerate(arrays):
        slope = np.zeros(array.shape)
        for index in np.ndindex(*array.shape):
            moved = [np.array(a, complex) for a in arrays]
            moved[k][index] += 1e-30j
            slope[index] = f(*moved).sum().imag / 1e-30
        slopes.append(slope)
    return slopes


def _batch(seed, n=9, width=4):
    """Rows of any length, more than 0.3 apart, with labels, logits and contexts."""
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < n:
        row = rng.standard_normal(width)
        row /= np.linalg.norm(row)
        if all(np.linalg.norm(row - other) > 0.3 for other in rows):
            rows.append(row)
    x = np.array(rows) * rng.uniform(0.5, 2, (n, 1))
    logits = rng.standard_normal((n, CLASSES)) * 2
    return (
        x,
        np.arange(n, dtype="int32") % 3,
        logits,
        rng.standard_normal((CLASSES, width)),
    )


PAPER, RELEASED = {}, {"attention": "gauss", "sigma_convention": "normal"}
VARIANTS = {
    "paper": ("context", PAPER),
    "paper, other numbers": (
        "context",
        {"alpha": 1.4, "sigma": 0.5, "balance": 0.3, "pair": "product"},
    ),
    "gauss of contexts": ("context", {"attention": "gauss", "attention_width": 0.3}),
    "released": ("logits", RELEASED),
    "released, by the letter": ("logits", RELEASED | {"legacy_pair_scale": True}),
    "logits": ("logits", PAPER),
    "OSM only": (None, {"attention": "none"}),
    "CAA only": ("context", {"mining": "none"}),
    "plain": (None, {"attention": "none", "mining": "none"}),
}


def _given(kind, logits, context, names=("logits", "context_vectors")):
    if kind is None:
        return {}
    return {names[0]: logits} if kind == "logits" else {names[1]: context}


@pytest.mark.parametrize("gradient", ["weights_const", "full"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradients_equal_the_equations(variant, gradient):
    kind, options = VARIANTS[variant]
    options = options | {"gradient": gradient}
    x, labels, logits, context = _batch(0)
    extra = _given(kind, logits, context, ("logits", "context"))

    def oracle(x, *more):
        return _oracle(x, labels, **dict(zip(extra, more)), **options)

    def ours(x, *more):
        names = _given(kind, logits, context)
        return loss(x, jnp.asarray(labels), **dict(zip(names, more)), **options)

    arrays = (x, *extra.values())
    wanted, slopes = oracle(*arrays).sum().real, _slopes(oracle, *arrays)
    assert wanted > 1e-3 and np.abs(slopes[0]).max() > 1e-4
    both = jax.jit(jax.value_and_grad(ours, tuple(range(len(arrays)))))
    for dtype, tolerance in (("float64", 1e-10), ("float32", 5e-6)):
        with jax.enable_x64(dtype == "float64"):
            value, got = jax.tree.map(
                np.asarray, both(*(jnp.asarray(a, dtype) for a in arrays))
            )
        assert value.dtype == dtype
        assert abs(value - wanted) <= tolerance * wanted
        for one, slope in zip(got, slopes):
            assert np.abs(one - slope).max() <= tolerance * np.abs(slope).max()
    if gradient == "weights_const":
        assert all((slope == 0).all() for slope in got[1:])


class HandTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_value_on_a_circle(self):
        angle = np.radians([0, 60, 90])
        x = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
        # Items are trusted 1/2, 1/3 and 1/4; the positive pair is 1 apart.
        logits = jnp.log(jnp.array([[1.0, 1.0], [1.0, 2.0], [3.0, 1.0]]))
        value = self.variant(loss)(x, jnp.array([0, 0, 1]), logits=logits)
        near = 1.2 - 2 * math.sin(math.radians(15))  # the far negative is beyond 1.2
        np.testing.assert_allclose(value, 0.5 * 0.5 + 0.5 * near**2 / 2, rtol=2e-6)

    @chex.all_variants(with_pmap=False)
    def test_a_pair_is_trusted_as_its_lesser_item(self):
        angle = np.radians([0, 20, 60])
        x = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
        logits = jnp.log(jnp.array([[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]]))
        f = functools.partial(loss, mining="none", logits=logits)
        value = self.variant(f)(x, jnp.zeros(3, int))
        squared = [4 * math.sin(math.radians(a / 2)) ** 2 for a in (20, 60, 40)]
        trust = [1 / 2, 1 / 4, 1 / 4]
        wanted = sum(t * s for t, s in zip(trust, squared)) / sum(trust) / 4
        np.testing.assert_allclose(value, wanted, rtol=2e-6)


def test_everything_off_averages_squared_contrastive_terms_over_all_pairs():
    x, labels, _, _ = _batch(1)
    f = x / np.linalg.norm(x, axis=1, keepdims=True)
    paid = {True: [], False: []}
    for i in range(len(x)):
        for j in range(i):
            d = np.linalg.norm(f[i] - f[j])
            same = bool(labels[i] == labels[j])
            paid[same].append(d**2 if same else max(0, 1.2 - d) ** 2)
    wanted = (np.mean(paid[True]) + np.mean(paid[False])) / 4
    value = loss(x.astype("f"), labels, mining="none", attention="none")
    assert value == pytest.approx(wanted, rel=5e-6)


def test_a_wide_score_weighs_positives_alike():
    x, labels, _, _ = _batch(2)
    options = {"attention": "none", "balance": 0.0}
    wide = loss(x.astype("f"), labels, sigma=1e6, **options)
    plain = loss(x.astype("f"), labels, mining="none", **options)
    assert wide == pytest.approx(float(plain), rel=1e-6)


def test_sigma_of_the_released_code_is_root_two_times_the_papers():
    x, labels, logits, _ = _batch(3)
    f = functools.partial(loss, x.astype("f"), labels, logits=logits.astype("f"))
    normal, paper = f(sigma_convention="normal"), f(sigma=0.8 * math.sqrt(2))
    assert normal == pytest.approx(float(paper), rel=1e-6)


@pytest.mark.parametrize("variant", ["paper", "released, by the letter"])
def test_shares_are_half_of_every_pair_that_touches_an_item(variant):
    kind, options = VARIANTS[variant]
    x, labels, logits, context = _batch(4)
    wanted = _oracle(
        x, labels, **_given(kind, logits, context, ("logits", "context")), **options
    ).real
    arrays = jax.tree.map(jnp.float32, (x, _given(kind, logits, context)))
    shares = loss(arrays[0], labels, reduction="none", **arrays[1], **options)
    np.testing.assert_allclose(shares, wanted, rtol=2e-5)


@pytest.mark.parametrize("kind", ["logits", "context", None])
def test_parts_are_what_the_loss_is_made_of(kind):
    x, labels, logits, context = _batch(5)
    given = jax.tree.map(jnp.float32, _given(kind, logits, context))
    x = jnp.asarray(x, "f")
    far, near = soft_mining.online_soft_mining(x, labels)
    f = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    d = np.linalg.norm(f[:, None] - f[None], axis=2)
    same, itself = labels[:, None] == labels, np.eye(len(x), dtype=bool)
    np.testing.assert_allclose(
        far, np.where(same & ~itself, np.exp(-((d / 0.8) ** 2)), 0), atol=1e-6
    )
    np.testing.assert_allclose(
        near, np.where(same, 0, np.maximum(1.2 - d, 0)), atol=1e-6
    )
    a = np.ones(len(x))
    if given:
        a = attention.class_aware_attention(x, labels, **given)
        wanted = _attention(x, labels, *_pick(kind, logits, context), "prob", None)
        np.testing.assert_allclose(a, wanted, rtol=1e-5)
    a = np.minimum(np.asarray(a)[:, None], a)
    made = sum(
        np.sum(s * a * paid) / np.sum(s * a) / 4
        for s, paid in ((far, d**2), (near, np.maximum(1.2 - d, 0) ** 2))
    )
    f = functools.partial(loss, x, labels, attention="prob" if given else "none")
    assert f(**given) == pytest.approx(float(made), rel=1e-5)


def _pick(kind, logits, context):
    return (logits, None) if kind == "logits" else (None, context)


def test_blocks_and_scores_of_given_weights_fit_together():
    x, labels, logits, _ = jax.tree.map(jnp.asarray, _batch(6))
    whole = soft_mining.online_soft_mining(x, labels)
    chex.assert_trees_all_close(
        soft_mining.online_soft_mining(x, labels, block_rows=4), whole, rtol=1e-6
    )
    doubled = soft_mining.online_soft_mining(x, labels, weights=2 * jnp.ones((9, 9)))
    chex.assert_trees_all_close(doubled, jax.tree.map(lambda s: 2 * s, whole))
    chex.assert_trees_all_close(
        attention.class_aware_attention(x, labels, logits=logits, block_rows=4),
        attention.class_aware_attention(x, labels, logits=logits),
        rtol=1e-6,
    )


@pytest.mark.parametrize("filling", [0.0, np.nan])
@pytest.mark.parametrize("variant", ["paper", "released, by the letter", "OSM only"])
def test_padding_rows_change_nothing(variant, filling):
    kind, options = VARIANTS[variant]
    x, labels, logits, context = jax.tree.map(np.asarray, _batch(7))
    padding = np.full((3, 4), filling)
    valid = np.arange(12) < 9

    def f(x, logits, labels, valid=None):
        given = _given(kind, logits, jnp.float32(context))
        return loss(x, labels, valid=valid, gradient="full", **given, **options)

    both = jax.jit(jax.value_and_grad(f, argnums=(0, 1)))
    value, slopes = both(jnp.float32(x), jnp.float32(logits), labels)
    same, longer = both(
        *(jnp.float32(np.concatenate([a, padding])) for a in (x, logits)),
        np.concatenate([labels, [0, -1, 99]]),
        valid,
    )
    assert same == pytest.approx(float(value), rel=1e-6)
    for got, wanted in zip(longer, slopes):
        np.testing.assert_allclose(got[:9], wanted, atol=1e-6)
        assert (got[9:] == 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_batch_as_its_own_references_costs_the_same(variant):
    kind, options = VARIANTS[variant]
    ends = 2 if options.get("legacy_pair_scale") else 1  # each pair comes up twice
    x, labels, logits, context = jax.tree.map(jnp.asarray, _batch(8))
    given = _given(kind, logits, context)
    apart = {"ref": x, "ref_labels": labels, "itself": jnp.arange(len(x))}
    if kind == "logits":
        apart["ref_logits"] = logits
    value = jax.jit(functools.partial(loss, **options))(x, labels, **given, **apart)
    wanted = loss(x, labels, **given, **options)
    assert value == pytest.approx(float(wanted) / ends, rel=1e-6)


def test_a_matrix_of_same_pairs_stands_for_labels_where_no_class_is_asked():
    x, labels, _, context = jax.tree.map(jnp.asarray, _batch(9))
    same = labels[:, None] == labels[None]
    f = functools.partial(loss, attention="none")
    assert f(x, same=same) == f(x, labels)
    assert loss(x, labels, same=same, context_vectors=context) == loss(
        x, labels, context_vectors=context
    )


def test_weights_of_zero_and_one_are_a_choice_of_pairs():
    x, labels, logits, _ = jax.tree.map(jnp.asarray, _batch(10))
    chosen = jnp.asarray(np.random.default_rng(0).random((9, 9)) < 0.5)
    same = labels[:, None] == labels[None]
    for legacy in (False, True):
        f = functools.partial(loss, x, labels, logits=logits, legacy_pair_scale=legacy)
        wanted = f(pairs=(same & chosen, ~same & chosen))
        value = f(weights=chosen.astype("f"))
        assert value == pytest.approx(float(wanted), rel=1e-6)


BAD_POINTS = {
    "no positives, far negatives": (np.eye(4), [0, 1, 2, 3]),
    "one item": (np.ones((1, 4)), [0]),
    "all identical, one class": (np.ones((4, 4)), [1, 1, 1, 1]),
    "all identical, all classes": (np.ones((4, 4)), [0, 1, 2, 3]),
    "zero rows": (np.zeros((4, 4)), [0, 0, 1, 1]),
    "opposite": (np.array([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]), [0, 1]),
    "nobody": (np.zeros((0, 4)), np.zeros(0, int)),
}


@pytest.mark.parametrize("gradient", ["weights_const", "full"])
def test_bad_points_give_finite_values_and_zero_gradients(gradient):
    def f(x, labels):
        return loss(x, labels, context_vectors=jnp.eye(4), gradient=gradient)

    for name, (x, labels) in BAD_POINTS.items():
        x, labels = jnp.asarray(x, "f"), jnp.asarray(labels)
        value, slope = jax.jit(jax.value_and_grad(f))(x, labels)
        assert jnp.isfinite(value), name
        # One item more or less trusted does not matter where all pairs pay the same.
        np.testing.assert_allclose(slope, 0, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("kind", ["prob", "gauss"])
def test_saturated_attention_keeps_the_gradient_finite(kind):
    x, labels, logits, _ = jax.tree.map(jnp.asarray, _batch(11))

    def f(x, logits):
        return loss(x, labels, logits=logits, attention=kind, gradient="full")

    both = jax.jit(jax.value_and_grad(f, (0, 1)))
    for size in (1e4, -1e4):
        sure = jnp.zeros_like(logits).at[jnp.arange(9), labels].set(size)
        chex.assert_tree_all_finite(both(x, sure))


def test_nan_in_a_row_that_counts_is_seen():
    x, labels, logits, _ = jax.tree.map(jnp.asarray, _batch(12))
    assert jnp.isnan(loss(x.at[0, 0].set(jnp.nan), labels, logits=logits))
    assert jnp.isnan(loss(x, labels, logits=logits.at[3, 1].set(jnp.nan)))


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_no_column_is_seen(label):
    x, labels, logits, _ = jax.tree.map(jnp.asarray, _batch(13))
    assert jnp.isnan(loss(x, labels.at[2].set(label), logits=logits))


def test_half_precision_is_computed_in_float32():
    x, labels, logits, _ = _batch(14)
    half = jnp.asarray(x, jnp.bfloat16), jnp.asarray(logits, jnp.bfloat16)
    value = loss(half[0], labels, logits=half[1])
    assert value.dtype == jnp.float32
    assert value == loss(
        half[0].astype("f"), labels, logits=half[1].astype(jnp.float32)
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mining": "hard"}, ValueError),
        ({"attention": "all"}, ValueError),
        ({"sigma_convention": "code"}, ValueError),
        ({"pair": "max"}, ValueError),
        ({"gradient": "query"}, ValueError),
        ({"reduction": "sum"}, ValueError),
        ({"sigma": 0.0}, ValueError),
        ({"attention_width": -1}, ValueError),
        ({"logits": None}, ValueError),
        ({"context_vectors": jnp.ones((2, 2))}, ValueError),
        ({"labels": None, "same": jnp.eye(2, dtype=bool)}, ValueError),
        ({"ref": jnp.eye(2), "ref_labels": jnp.zeros(2, int)}, ValueError),
        ({"logits": jnp.eye(3)}, AssertionError),
        ({"logits": None, "context_vectors": jnp.eye(3)}, AssertionError),
        ({"labels": jnp.zeros(3, int)}, AssertionError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change, error):
    given = {"embeddings": jnp.eye(2), "labels": jnp.zeros(2, int)}
    given |= {"logits": jnp.eye(2)} | change
    with pytest.raises(error):
        loss(**given)


def test_attention_alone_refuses_what_it_does_not_know():
    given = jnp.eye(2), jnp.zeros(2, int)
    with pytest.raises(ValueError, match="prob or gauss"):
        attention.class_aware_attention(*given, logits=jnp.eye(2), attention="none")
    with pytest.raises(ValueError, match="either"):
        attention.class_aware_attention(*given)
