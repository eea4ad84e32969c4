"""What only the triplet loss has: two ways of counting, which agree."""

import functools

import chex
import jax
import numpy as np
import pytest
from pair_loops import batch

import metric
from metric import triplet


@pytest.mark.parametrize("kind", ["all", "semihard"])
def test_sorting_counts_the_triplets_that_walking_does(kind, monkeypatch):
    x, labels = batch(3)
    x[4:7] = x[4]  # distances that are equal
    labels[4:7] = 0, 1, 1
    x[8] = 0
    weights = np.random.default_rng(4).uniform(0, 2, (10, 10))
    results = []
    with jax.enable_x64(True):
        for few in (0, 32):
            monkeypatch.setattr(triplet, "FEW", few)
            f = functools.partial(metric.triplet_loss, kind=kind, weights=weights)
            results.append(jax.jit(jax.value_and_grad(f))(x, labels))
    chex.assert_trees_all_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["all", "semihard", "hard"])
def test_mapped_over_batches_with_whole_numbers_as_weights(kind):
    batches = [batch(seed) for seed in range(3)]
    x, labels = (np.stack(column) for column in zip(*batches))
    x, weights = x.astype("f"), np.arange(100).reshape(10, 10) % 3
    f = functools.partial(metric.triplet_loss, kind=kind, weights=weights)
    alone = jax.jit(jax.value_and_grad(f))
    mapped = jax.jit(jax.vmap(jax.value_and_grad(f)))(x, labels)
    for i in range(3):
        found = jax.tree.map(lambda a, i=i: a[i], mapped)
        chex.assert_trees_all_close(found, alone(x[i], labels[i]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["all", "semihard"])
def test_pulls_and_pushes_balance_where_distances_are_equal(kind, monkeypatch):
    """Integer points have many ties; a tie must be seen alike from both sides."""
    x = np.random.default_rng(5).integers(0, 2, (40, 3)).astype("f")
    labels = np.arange(40) % 3
    pairs, _ = triplet.pairs_lib.masks(x, labels)
    for few in (0, 32):
        monkeypatch.setattr(triplet, "FEW", few)
        for margin in (0.0, 0.5):
            d = pairs.distances()
            pulls, pushes = triplet.occurrences(d, pairs, margin, kind)
            assert pulls.sum() > 0 or (kind, margin) == ("semihard", 0.0)
            np.testing.assert_array_equal(pulls.sum(1), pushes.sum(1))


def test_one_large_class_is_sorted_and_right():
    rng = np.random.default_rng(6)
    x, labels = rng.standard_normal((50, 3)), (np.arange(50) >= 40).astype(int)
    f = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = np.linalg.norm(f[:, None] - f, axis=-1)
    same = labels[:, None] == labels
    hinges = [
        d[i, j] - d[i, k] + 0.2
        for i in range(50)
        for j in np.flatnonzero(same[i])
        for k in np.flatnonzero(~same[i])
        if i != j
    ]
    wanted = np.mean([h for h in hinges if h > 0])
    value = jax.jit(metric.triplet_loss)(x.astype("f"), labels)
    np.testing.assert_allclose(value, wanted, rtol=5e-6)
