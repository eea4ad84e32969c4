"""Exported indices, read by faiss, against exact search."""

import sys

import numpy as np
import pytest

import metric


def _read(path):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    return faiss.read_index(str(path))


def _search(path, queries, k):
    return _read(path).search(np.asarray(metric.normalize(np.asarray(queries))), k)


@pytest.fixture
def rows():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 24))
    x = centres[np.arange(2000) % 40] + 0.5 * rng.standard_normal((2000, 24))
    return (7 * x).astype(np.float32)


def test_flat_index_finds_the_nearest_neighbours(rows, tmp_path):
    metric.export_index(rows, tmp_path / "index")
    similarities, ids = _search(tmp_path / "index", rows[:50], 10)
    wanted, exact = metric.nearest_neighbours(rows[:50], rows, k=10)
    np.testing.assert_allclose(similarities, exact, atol=1e-6)
    np.testing.assert_array_equal(ids, wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_every_kind_answers_with_the_ids_given_and_with_cosines(rows, tmp_path, kind):
    ids = 10**12 + 3 * np.arange(len(rows))[::-1]
    metric.export_index(rows, tmp_path / "index", ids=ids, kind=kind)
    similarities, found = _search(tmp_path / "index", rows[:100], 10)
    wanted, exact = metric.nearest_neighbours(rows[:100], rows, k=10)
    recall = [len(np.intersect1d(a, ids[b])) / 10 for a, b in zip(found, wanted)]
    assert np.mean(recall) > 0.9
    np.testing.assert_array_equal(found[:, 0], ids[:100])
    np.testing.assert_allclose(similarities[:, 0], exact[:, 0], atol=1e-6)


def test_all_lists_read_is_exact(rows, tmp_path):
    metric.export_index(rows, tmp_path / "index", kind="ivf", lists=16, probes=16)
    _, found = _search(tmp_path / "index", rows[:50], 10)
    np.testing.assert_array_equal(
        found, metric.nearest_neighbours(rows[:50], rows, k=10)[0]
    )


def test_options_of_the_search_are_in_the_file(rows, tmp_path):
    faiss = pytest.importorskip("faiss")
    path = tmp_path / "index"
    metric.export_index(rows, path, kind="ivf", lists=20, probes=3)
    whole = _read(path)  # owns the parts that are looked at
    index = faiss.extract_index_ivf(whole)
    assert (index.nlist, index.nprobe) == (20, 3)
    metric.export_index(rows, path, kind="hnsw", effort=77)
    whole = _read(path)
    assert faiss.downcast_index(whole.index).hnsw.efSearch == 77


def test_ends_in_minus_1_where_the_gallery_is_small(tmp_path):
    pytest.importorskip("faiss")
    metric.export_index(np.eye(3), tmp_path / "index")
    _, found = _search(tmp_path / "index", np.eye(3), 5)
    np.testing.assert_array_equal(found[:, 3:], -1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tree"}, "kind must be"),
        ({"embeddings": np.full((3, 3), np.nan)}, "NaN"),
        ({"embeddings": np.zeros((0, 3))}, "at least one row"),
        ({"ids": [0, 1]}, "ids must have shape"),
        ({"ids": [0, 1, 1]}, "different"),
        ({"ids": [0, 1, -1]}, "0 or more"),
        ({"ids": [0.0, 1.0, 2.0]}, "integers"),
        ({"kind": "ivf", "lists": 4}, "lists must be from 1 to 3"),
        ({"kind": "ivf", "lists": 2, "probes": 3}, "probes must be from 1 to 2"),
        ({"kind": "hnsw", "links": 1}, "links must be"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, change, message):
    pytest.importorskip("faiss")
    given = {"embeddings": np.eye(3), "path": tmp_path / "index"} | change
    with pytest.raises(ValueError, match=message):
        metric.export_index(**given)
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_named_with_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxfaces\[ann\]'"):
        metric.export_index(np.eye(3), tmp_path / "index")
