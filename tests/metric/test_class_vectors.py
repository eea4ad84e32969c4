"""Losses against class vectors: equations in float64 loops, and what all share."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import metric
from metric import class_vectors

LOSSES = {
    "normalized_softmax": (metric.normalized_softmax_loss, {"temperature": 0.1}),
    "arcface": (metric.arcface_loss, {"margin": 0.4, "scale": 7.0}),
    "cosface": (metric.cosface_loss, {"margin": 0.2, "scale": 9.0}),
    "proxy_nca": (metric.proxy_nca_loss, {"temperature": 0.3}),
    "proxy_anchor": (metric.proxy_anchor_loss, {"margin": 0.15, "alpha": 8.0}),
}
by_loss = pytest.mark.parametrize("name", LOSSES)
# The softmax losses differ in one line; what the frame does is tested with one.
by_frame = pytest.mark.parametrize("name", ["arcface", "proxy_anchor"])
by_kind = pytest.mark.parametrize("kind", ["labels", "soft"])


def _unit(row):
    return row / np.sqrt(np.sum(row * row))


def _class_scores(name, cosine, *, own, margin=0, scale=1, temperature=1):
    """An example's score of one class, by the papers."""
    if name == "normalized_softmax":
        return cosine / temperature
    if name == "proxy_nca":
        return -(2 - 2 * cosine) / temperature
    if name == "cosface":
        return scale * (cosine - margin if own else cosine)
    if not own:
        return scale * cosine
    angle = np.arccos(cosine)
    if angle.real <= np.pi - margin:
        return scale * np.cos(angle + margin)
    return scale * (cosine - margin * np.sin(margin))


def _oracle(name, x, soft, v, weights, settings):
    """Values whose sum is the loss; real or complex, so no max and no abs."""
    f, p = [_unit(row) for row in x], [_unit(row) for row in v]
    cosines = [[np.sum(a * b) for b in p] for a in f]
    if name == "proxy_anchor":
        return _anchor_shares(cosines, soft, weights, **settings)
    values = []
    for i, cosine in enumerate(cosines):
        value = 0
        for y, share in enumerate(soft[i]):
            scores = [
                _class_scores(name, c, own=k == y, **settings)
                for k, c in enumerate(cosine)
            ]
            value = value + share * (np.log(np.sum(np.exp(scores))) - scores[y])
        values.append(weights[i] * value / np.sum(weights))
    return values


def _anchor_shares(cosines, soft, weights, *, margin, alpha):
    n, classes = np.shape(soft)
    presence = sum(max(soft[:, k]) for k in range(classes))
    values = [0] * n
    for k in range(classes):
        own = [
            weights[i] * soft[i, k] * np.exp(-alpha * (cosines[i][k] - margin))
            for i in range(n)
        ]
        other = [
            weights[i] * (1 - soft[i, k]) * np.exp(alpha * (cosines[i][k] + margin))
            for i in range(n)
        ]
        for terms, number in ((own, presence), (other, classes)):
            if sum(terms) != 0:
                log = np.log(1 + sum(terms)) / number
                values = [a + log * b / sum(terms) for a, b in zip(values, terms)]
    return values


def _slopes(f, *arrays):
    """Gradients by complex steps, which lose no digits."""
    found = []
    for n, array in enumerate(arrays):
        slope = np.zeros(array.shape)
        for at in np.ndindex(array.shape):
            moved = [a.astype(complex) for a in arrays]
            moved[n][at] += 1e-30j
            slope[at] = f(*moved).imag / 1e-30
        found.append(slope)
    return found


def _batch(seed, n=9, width=3, classes=4):
    """Rows, labels of which class 3 has none, soft labels, vectors and weights."""
    rng = np.random.default_rng(seed)
    x, v = rng.standard_normal((n, width)), rng.standard_normal((classes, width))
    labels = rng.permutation(np.arange(n) % (classes - 1))
    soft = 0.7 * np.eye(classes)[labels] + 0.3 * rng.dirichlet(np.ones(classes), n)
    return x, {"labels": labels, "soft": soft}, v, rng.uniform(0.5, 2, n)


def _hard(targets, classes):
    return np.eye(classes)[targets] if targets.ndim == 1 else targets


@functools.cache
def _compiled(name, reduction="mean", **options):
    loss, settings = LOSSES[name]

    @jax.jit
    def both(x, targets, v, given):
        def f(x, v):
            values = loss(
                x, targets, v, reduction=reduction, **settings, **options, **given
            )
            return jnp.sum(values), values

        return jax.value_and_grad(f, argnums=(0, 1), has_aux=True)(x, v)

    def call(x, targets, v, **given):
        (_, values), slopes = both(x, targets, v, given)
        return jax.tree.map(np.asarray, (values, slopes))

    return call


@by_loss
@by_kind
def test_value_and_gradients_equal_the_equations(name, kind):
    for seed in range(3):
        x, targets, v, weights = _batch(seed)
        soft, settings = _hard(targets[kind], 4), LOSSES[name][1]

        def total(x, v, soft=soft, weights=weights, settings=settings):
            return sum(_oracle(name, x, soft, v, weights, settings))

        wanted, slopes = total(x, v), _slopes(total, x, v)
        for dtype, tolerance in (("float64", 1e-10), ("float32", 5e-6)):
            with jax.enable_x64(dtype == "float64"):
                given = [a.astype(dtype) for a in (x, v, weights)]
                value, got = _compiled(name)(
                    given[0], targets[kind], given[1], weights=given[2]
                )
            assert value.dtype == got[0].dtype == dtype
            np.testing.assert_allclose(value, wanted, rtol=tolerance)
            for a, b in zip(got, slopes):
                np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@by_frame
@by_kind
def test_unreduced_values_are_the_shares_of_the_loss(name, kind):
    x, targets, v, weights = _batch(3)
    wanted = _oracle(name, x, _hard(targets[kind], 4), v, weights, LOSSES[name][1])
    with jax.enable_x64(True):
        values, slopes = _compiled(name, "none")(x, targets[kind], v, weights=weights)
        value, mean = _compiled(name)(x, targets[kind], v, weights=weights)
    divisor = 1 if name == "proxy_anchor" else np.sum(weights)
    np.testing.assert_allclose(values / divisor, wanted, rtol=1e-10)
    np.testing.assert_allclose(np.sum(values) / divisor, value, rtol=1e-12)
    for a, b in zip(slopes, mean):
        np.testing.assert_allclose(a / divisor, b, atol=1e-12)


@by_frame
def test_soft_rows_of_one_class_are_labels(name):
    x, targets, v, _ = _batch(4)
    f = _compiled(name)
    x, v = x.astype("f"), v.astype("f")
    chex.assert_trees_all_close(
        f(x, np.eye(4, dtype="f")[targets["labels"]], v),
        f(x, targets["labels"], v),
        rtol=2e-6,
        atol=1e-6,
    )


@by_frame
def test_a_weight_counts_as_so_many_examples(name):
    x, targets, v, _ = _batch(5)
    times, labels = np.array([1, 2, 1, 3, 1, 0, 1, 2, 1]), targets["labels"]
    value, _ = _compiled(name)(x, labels, v, weights=times)
    x, labels = np.repeat(x, times, 0), np.repeat(labels, times)
    again, _ = _compiled(name)(x, labels, v)
    np.testing.assert_allclose(value, again, rtol=1e-5)


@by_frame
@by_kind
@pytest.mark.parametrize("filling", [0.0, np.nan, np.inf])
def test_padding_rows_change_nothing(name, kind, filling):
    x, targets, v, weights = _batch(6)
    x, v, rows = x.astype("f"), v.astype("f"), np.array([0, 1, 2, 4, 5, 7, 8, 9, 10])
    padded, valid = np.full((12, 3), filling, "f"), np.isin(np.arange(12), rows)
    padded[rows] = x
    filled = np.full((12, *targets[kind].shape[1:]), filling)
    filled = filled if kind == "soft" else np.full(12, -1)
    filled[rows] = targets[kind]
    heavy = np.full(12, filling)
    heavy[rows] = weights
    alone = _compiled(name)(x, targets[kind], v, weights=weights)
    value, (longer, slope) = _compiled(name)(
        padded, filled, v, weights=heavy, valid=valid
    )
    np.testing.assert_allclose(value, alone[0], rtol=2e-6)
    np.testing.assert_allclose(longer[rows], alone[1][0], atol=2e-6)
    np.testing.assert_allclose(slope, alone[1][1], atol=2e-6)
    assert (longer[~valid] == 0).all()
    values, _ = _compiled(name, "none")(padded, filled, v, weights=heavy, valid=valid)
    assert (values[~valid] == 0).all()


@by_frame
def test_blocks_of_rows_change_nothing(name):
    x, targets, v, weights = _batch(7)
    labels = targets["labels"]
    given = {"weights": weights, "valid": np.arange(9) % 4 > 0}
    for reduction in ("mean", "none"):
        with jax.enable_x64(True):
            chex.assert_trees_all_close(
                _compiled(name, reduction, block_rows=4)(x, labels, v, **given),
                _compiled(name, reduction)(x, labels, v, **given),
                rtol=1e-12,
                atol=1e-12,
            )


@pytest.mark.parametrize(
    ("name", "kind", "block_rows"),
    [(name, "labels", None) for name in LOSSES]
    + [("arcface", "soft", 2), ("proxy_anchor", "soft", 2)],
)
def test_batch_split_over_devices_equals_one(name, kind, block_rows):
    loss, settings = LOSSES[name]
    x, targets, v, weights = _batch(8, n=24)
    weights[:5] = 0
    given = {"weights": weights, "valid": np.arange(24) % 5 > 0}
    rows, whole = PartitionSpec("data"), PartitionSpec()
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    split = functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(rows, rows, whole, rows)
    )

    def local(x, targets, v, given, reduction="mean"):
        options = {"axis_name": "data", "block_rows": block_rows, **given}
        return loss(x, targets, v, reduction=reduction, **settings, **options)

    slopes = functools.partial(jax.value_and_grad, argnums=(0, 2))
    inside = split(slopes(local), out_specs=(whole, (rows, whole)))
    outside = slopes(split(local, out_specs=whole))
    values = split(functools.partial(local, reduction="none"), out_specs=rows)
    everything = x, targets[kind], v, given
    with jax.enable_x64(True):
        wanted = _compiled(name)(x, targets[kind], v, **given)
        for f in (outside, inside):
            chex.assert_trees_all_close(
                jax.jit(f)(*everything), wanted, rtol=1e-10, atol=1e-12
            )
        single = _compiled(name, "none")(x, targets[kind], v, **given)[0]
        np.testing.assert_allclose(jax.jit(values)(*everything), single, rtol=1e-10)


@by_loss
def test_order_names_and_lengths_do_not_matter(name):
    x, targets, v, _ = _batch(9)
    rng = np.random.default_rng(0)
    order, renamed = rng.permutation(9), rng.permutation(4)
    long, labels = rng.uniform(0.1, 10, (9, 1)), targets["labels"]
    with jax.enable_x64(True):
        value, (slope, _) = _compiled(name)(x, labels, v)
        other, (moved, _) = _compiled(name)(
            (x * long)[order], np.argsort(renamed)[labels][order], 3 * v[renamed]
        )
    np.testing.assert_allclose(other, value, rtol=1e-12)
    np.testing.assert_allclose(moved * long[order], slope[order], atol=1e-12)
    np.testing.assert_allclose(np.sum(x * slope, 1), 0, atol=1e-12)


@by_frame
@by_kind
def test_zero_rows_and_vectors_give_finite_values_and_no_gradient_of_theirs(name, kind):
    x, targets, v, _ = _batch(10)
    x[2], v[1] = 0, 0
    value, (slope, moved) = _compiled(name)(x.astype("f"), targets[kind], v.astype("f"))
    chex.assert_tree_all_finite((value, slope, moved))
    assert (slope[2] == 0).all() and (moved[1] == 0).all()


@by_frame
@by_kind
@pytest.mark.parametrize("of", ["classes", "valid rows", "rows"])
def test_one_class_and_batches_of_nothing_stay_finite(name, kind, of):
    x, targets, v, _ = _batch(11)
    valid, targets = np.ones(9, bool), targets[kind]
    if of == "classes":
        v, targets = (
            v[:1],
            np.ones_like(targets[:, :1]) if kind == "soft" else 0 * targets,
        )
    elif of == "valid rows":
        valid = np.zeros(9, bool)
    else:
        x, targets, valid = x[:0], targets[:0], valid[:0]
    value, slopes = _compiled(name)(x.astype("f"), targets, v.astype("f"), valid=valid)
    chex.assert_tree_all_finite((value, slopes))
    if of != "classes" or name != "proxy_anchor":
        assert value == 0 and all((slope == 0).all() for slope in slopes)


@by_frame
@by_kind
@pytest.mark.parametrize("where", ["row", "vector", "weight"])
def test_nan_in_what_counts_is_seen(name, kind, where):
    x, targets, v, weights = _batch(12)
    {"row": x, "vector": v, "weight": weights}[where][1] = np.nan
    assert np.isnan(_compiled(name)(x, targets[kind], v, weights=weights)[0])


@by_frame
@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_without_class_vector_is_seen_as_nan(name, label):
    x, targets, v, _ = _batch(13)
    targets["labels"][3] = label
    assert np.isnan(_compiled(name)(x, targets["labels"], v)[0])


@by_frame
def test_half_precision_is_computed_in_float32(name):
    x, targets, v, _ = _batch(14)
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, v)]
    value, slopes = _compiled(name)(half[0], targets["labels"], half[1])
    wide = [a.astype("float32") for a in half]
    wanted, _ = _compiled(name)(wide[0], targets["labels"], wide[1])
    assert value.dtype == jnp.float32 and slopes[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(value, wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "uint8", "uint32"])
def test_labels_may_be_any_integers(kind):
    x, targets, v, _ = _batch(15)
    f = _compiled("arcface")
    value = f(x, targets["labels"].astype(kind), v)[0]
    assert value == f(x, targets["labels"], v)[0]


@by_loss
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": jnp.zeros(3, int)}, AssertionError, "one a row"),
        ({"labels": jnp.zeros(2)}, AssertionError, "integers"),
        ({"labels": jnp.zeros((2, 4))}, AssertionError, r"\(rows, classes\)"),
        ({"labels": jnp.zeros((2, 3, 1))}, AssertionError, r"\(rows,\)"),
        ({"class_vectors": jnp.ones((3, 4))}, AssertionError, "width 2"),
        ({"class_vectors": jnp.ones((0, 2))}, ValueError, "one class or more"),
        ({"embeddings": jnp.ones(2)}, AssertionError, r"\(rows, width\)"),
        ({"valid": jnp.ones(3, bool)}, AssertionError, "one a row"),
        ({"weights": jnp.ones(3)}, AssertionError, "one a row"),
        ({"reduction": "sum"}, ValueError, "reduction"),
        ({"block_rows": 0}, ValueError, "block_rows"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(name, change, error, message):
    given = {
        "embeddings": jnp.eye(2),
        "labels": jnp.zeros(2, int),
        "class_vectors": jnp.ones((3, 2)),
    }
    with pytest.raises(error, match=message):
        LOSSES[name][0](**given | change)


def test_soft_labels_are_rows_that_add_up_to_one():
    rows = class_vectors.soft_labels(jnp.array([2, 0]), 4, smoothing=0.2)
    wanted = [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]]
    np.testing.assert_allclose(rows, wanted, rtol=1e-6)
    assert jnp.isnan(class_vectors.soft_labels(jnp.array([4]), 4)).all()
    for bad in ({"classes": 0}, {"classes": 2, "smoothing": 1.5}):
        with pytest.raises(ValueError, match="must be"):
            class_vectors.soft_labels(jnp.array([0]), **bad)
