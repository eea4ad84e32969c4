"""Miners against loops over pairs, and what a random one draws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import metric

MINERS = {
    "multi_similarity": functools.partial(metric.multi_similarity_pairs, epsilon=0.05),
    "hard": metric.hard_pairs,
    "semi_hard": functools.partial(metric.semi_hard_pairs, margin=0.3),
    "distance_weighted": functools.partial(
        metric.distance_weighted_pairs, jax.random.key(0)
    ),
}
every_miner = pytest.mark.parametrize("name", MINERS)


def _batch(seed, n=14, width=4):
    """Random rows, of three classes and two items alone in theirs."""
    rng = np.random.default_rng(seed)
    labels = np.r_[7, 8, np.arange(2, n) % 3]
    return rng.standard_normal((n, width)).astype("f"), labels


def _distances(x):
    f = np.asarray(x, float)
    f = f / np.linalg.norm(f, axis=1, keepdims=True)
    return np.linalg.norm(f[:, None] - f, axis=-1)


def _chosen(name, d, positives, negatives):
    """Of one query at distances d: the positives and negatives that are chosen."""
    if not (positives and negatives):
        return [], []
    if name == "hard":
        return [max(positives, key=lambda j: d[j])], [
            min(negatives, key=lambda k: d[k])
        ]
    if name == "semi_hard":
        both = [(j, k) for j in positives for k in negatives if 0 < d[k] - d[j] < 0.3]
        return [j for j, _ in both], [k for _, k in both]
    s = 1 - d**2 / 2
    return (
        [j for j in positives if s[j] - 0.05 < max(s[negatives])],
        [k for k in negatives if s[k] + 0.05 > min(s[positives])],
    )


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("name", ["multi_similarity", "hard", "semi_hard"])
def test_chosen_pairs_are_those_of_loops(name, weighed):
    for seed in range(3):
        x, labels = _batch(seed)
        n, d = len(x), _distances(x)
        weights = np.random.default_rng(seed).integers(0, 3, (n, n))
        weights = weights.astype("f") if weighed else np.ones((n, n), "f")
        wanted = np.zeros((2, n, n), bool)
        for i in range(n):
            there = [j for j in range(n) if j != i and weights[i, j] > 0]
            kinds = (
                [j for j in there if (labels[j] == labels[i]) == kind]
                for kind in (True, False)
            )
            for mask, those in zip(wanted, _chosen(name, d[i], *kinds)):
                mask[i, those] = True
        given = {"weights": weights} if weighed else {}
        got = jax.jit(MINERS[name])(x, labels, **given)
        assert 0 < wanted[0].sum() and 0 < wanted[1].sum()
        np.testing.assert_array_equal(got, wanted)


@every_miner
def test_batch_split_over_devices_is_mined_as_the_whole(name):
    x, labels = _batch(4, n=16)
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    f = jax.shard_map(
        functools.partial(MINERS[name], axis_name="data"),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    wanted = jax.jit(MINERS[name])(x, labels)
    np.testing.assert_array_equal(jax.jit(f)(x, labels), wanted)


@every_miner
def test_padding_rows_are_never_chosen_and_change_nothing(name):
    x, labels = _batch(5)
    padded = np.pad(x, ((0, 2), (0, 0)), constant_values=np.nan)
    f = jax.jit(MINERS[name])
    masks = f(padded, np.pad(labels, (0, 2)), valid=np.arange(16) < 14)
    for mask, wanted in zip(masks, f(x, labels)):
        np.testing.assert_array_equal(mask[:14, :14], wanted)
        assert mask.sum() == wanted.sum()


@every_miner
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], []])
def test_batches_without_a_choice_choose_nothing(name, labels):
    x = jnp.asarray(np.random.default_rng(6).standard_normal((len(labels), 4)))
    positive, negative = MINERS[name](x, jnp.array(labels, int))
    assert not negative.any()
    # Without a negative in reach, a positive still has its say in the margin loss.
    assert name == "distance_weighted" or not positive.any()


@every_miner
def test_nan_is_chosen_so_that_the_loss_shows_it(name):
    x, labels = _batch(7)
    x[3, 0] = np.nan
    pairs = jax.jit(MINERS[name])(x, labels)
    assert np.isnan(metric.contrastive_loss(x, labels, pairs=pairs))


@every_miner
def test_masks_go_into_every_loss_and_references_into_every_miner(name):
    x, labels = _batch(8)
    ref, names = _batch(9, n=9)
    given = {"ref": ref, "ref_labels": names}

    @jax.jit
    def f(x):
        pairs = MINERS[name](x, labels, **given)
        return metric.multi_similarity_loss(x, ref=ref, pairs=pairs)

    value, slope = jax.value_and_grad(f)(x)
    assert value > 0 and np.isfinite(slope).all() and (slope != 0).any()


def _draws(x, labels, number, **options):
    keys = jax.random.split(jax.random.key(1), number)
    f = functools.partial(metric.distance_weighted_pairs, **options)
    return map(np.asarray, jax.jit(jax.vmap(lambda key: f(key, x, labels)))(keys))


@pytest.mark.parametrize("weighed", [False, True])
def test_negatives_are_drawn_by_the_inverse_density_of_their_distance(weighed):
    angle = np.radians([0, 10, 15, 60, 75, 100, 170])
    x = np.stack([np.cos(angle), np.sin(angle), *np.zeros((4, 7))], axis=1)
    labels = np.array([0, 0, 1, 2, 3, 4, 5])
    weights = np.arange(49).reshape(7, 7).astype("f") % 5
    weights[0, 1] = 1
    options = {"weights": weights} if weighed else {}
    positive, negative = _draws(x.astype("f"), labels, 4000, **options)
    d = _distances(x)[0]
    mass = np.zeros(7)
    for j in range(2, 7):
        if d[j] < 1.4:
            at = max(d[j], 0.5)
            mass[j] = 1 / (at**4 * (1 - at**2 / 4) ** 1.5)
            mass[j] *= weights[0, j] if weighed else 1
    share = mass / mass.sum()
    assert (positive == (labels[:, None] == labels) & ~np.eye(7, dtype=bool)).all()
    assert (negative[:, 0].sum(axis=1) == 1).all()  # as many as positives
    found = np.mean(negative[:, 0], axis=0)
    assert (np.abs(found - share) <= 4 * np.sqrt(share * (1 - share) / 4000)).all()


def test_queries_draw_as_many_negatives_as_they_have_positives():
    x, labels = _batch(10)
    reach = np.sort(_distances(x)[labels[:, None] != labels])[60]
    positive, negative = _draws(x, labels, 50, nonzero_loss_cutoff=float(reach))
    within = ((_distances(x) < reach) & (labels[:, None] != labels)).sum(axis=1)
    number = np.minimum(positive[0].sum(axis=1), within)
    assert (negative.sum(axis=2) == number[None]).all() and number.max() > 1
    assert not negative[:, _distances(x) > reach].any()


def test_one_far_pair_leaves_the_chances_of_the_near_ones():
    """At D = 512 the chances of a batch differ by more than a float32 can hold."""
    x = np.random.default_rng(11).standard_normal((8, 512))
    x += 10 * np.eye(512)[0]
    x[7] = 0.3 * x[7] - x[0]
    _, negative = _draws(x.astype("f"), np.arange(8) // 2, 20)
    assert (negative[:, :6].sum(axis=2) == 1).all()


def test_triplets_of_mined_pairs_are_the_semi_hard_ones():
    x, labels = _batch(12)
    d, paid = _distances(x), []
    positive, negative = metric.semi_hard_pairs(x, labels, margin=0.2)
    for i in range(14):
        for j in np.flatnonzero(positive[i]):
            for k in np.flatnonzero(negative[i]):
                hinge = d[i, j] - d[i, k] + 0.2
                if d[i, j] < d[i, k] and hinge > 0:
                    paid.append(hinge)
    value = metric.triplet_loss(x, labels, kind="semihard")
    assert math.isclose(value, np.mean(paid), rel_tol=1e-5)
