"""k-reciprocal re-ranking against the definition in plain loops and sets."""

import numpy as np
import pytest

import metric


def _oracle(queries, gallery, k1, k2, weight):
    """Distances of the definition, by sets and full sorts in float64."""
    x = np.concatenate([queries, gallery]).astype(float)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    n, q = len(x), len(queries)
    d = np.array(
        [
            [max(2 - 2 * float(a @ b), 0) if i != j else 0.0 for j, b in enumerate(x)]
            for i, a in enumerate(x)
        ]
    )
    d = np.stack([row / (max(row) or 1) for row in d])
    order = [
        [i, *sorted((j for j in range(n) if j != i), key=lambda j: (d[i][j], j))]
        for i in range(n)
    ]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    v = np.zeros((n, n))
    for i in range(n):
        core = reciprocal(i, k1)
        grown = set(core)
        for j in core:
            half = reciprocal(j, round(k1 / 2))
            if 3 * len(half & core) > 2 * len(half):
                grown |= half
        for j in grown:
            v[i, j] = np.exp(-d[i][j])
        v[i] /= v[i].sum()
    v = np.stack([np.mean([v[j] for j in order[i][:k2]], axis=0) for i in range(n)])
    result = np.zeros((q, n - q))
    for i in range(q):
        for j in range(q, n):
            low, high = np.minimum(v[i], v[j]).sum(), np.maximum(v[i], v[j]).sum()
            result[i, j - q] = (1 - weight) * (1 - low / high) + weight * d[i][j]
    return result


def _people(seed, queries=7, gallery=45, people=6, width=5):
    """Rows that gather around a few directions, so that sets are not trivial."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, width))
    ids = np.concatenate([np.arange(queries), np.arange(gallery)]) % people
    x = centres[ids] + 0.6 * rng.standard_normal((len(ids), width))
    return x[:queries], x[queries:], ids


@pytest.mark.parametrize(
    ("k1", "k2", "weight"),
    [(20, 6, 0.3), (7, 3, 0.0), (5, 1, 0.5), (1, 1, 0.3), (2, 9, 0.3), (80, 70, 0.3)],
)
def test_distances_equal_the_definition(k1, k2, weight):
    for seed in range(2):
        queries, gallery, _ = _people(seed)
        found = metric.k_reciprocal_reranking(
            queries, gallery, k1=k1, k2=k2, weight=weight
        )
        wanted = _oracle(queries, gallery, k1, k2, weight)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_duplicates_and_ties_take_the_lower_index():
    rng = np.random.default_rng(4)
    x = np.zeros((40, 8), np.float32)  # similarities are multiples of 1/4
    for row in x:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    x[30:] = x[:10]
    found = metric.k_reciprocal_reranking(x[:6], x[6:], k1=6, k2=3)
    np.testing.assert_allclose(found, _oracle(x[:6], x[6:], 6, 3, 0.3), atol=2e-6)


@pytest.mark.parametrize("block_size", [1, 9, 100])
def test_blocks_change_nothing(block_size, monkeypatch):
    queries, gallery, _ = _people(5)
    wanted = metric.k_reciprocal_reranking(queries, gallery)
    monkeypatch.setattr("metric.reranking._NUMBERS", 1 << 10)
    found = metric.k_reciprocal_reranking(queries, gallery, block_size=block_size)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_weight_1_gives_the_distance_back_over_the_largest_of_all_items():
    queries, gallery, _ = _people(6)
    found = metric.k_reciprocal_reranking(queries, gallery, weight=1.0)
    unit = np.asarray(metric.normalize(np.concatenate([queries, gallery])))
    squared = np.sum((unit[:7, None] - unit[None]) ** 2, axis=2)
    wanted = squared[:, 7:] / squared.max(axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_neighbours_are_ranked_better_after_it():
    queries, gallery, ids = _people(7, queries=30, gallery=240, people=10, width=8)
    found = metric.k_reciprocal_reranking(queries, gallery)
    plain = metric.k_reciprocal_reranking(queries, gallery, weight=1.0)
    relevant = ids[:30, None] == ids[None, 30:]

    def precision_at_r(distances):
        first = np.argsort(distances, axis=1)[:, :24]
        return np.mean(np.take_along_axis(relevant, first, axis=1))

    assert precision_at_r(found) > precision_at_r(plain) + 0.02


@pytest.mark.parametrize("rows", [(0, 3), (3, 0), (1, 1), (2, 3)])
def test_few_rows_and_equal_rows_give_finite_distances(rows):
    found = metric.k_reciprocal_reranking(np.ones((rows[0], 2)), np.ones((rows[1], 2)))
    assert found.shape == rows
    np.testing.assert_allclose(found, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0}, "k1 and k2 must be 1 or more"),
        ({"k2": 0}, "k1 and k2 must be 1 or more"),
        ({"weight": 1.5}, "weight must be in"),
        ({"gallery": np.eye(2)}, "one width"),
        ({"gallery": np.full((2, 3), np.inf)}, "gallery hold NaN"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    given = {"queries": np.eye(3), "gallery": np.eye(3)} | change
    with pytest.raises(ValueError, match=message):
        metric.k_reciprocal_reranking(**given)
