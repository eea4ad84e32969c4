"""A gallery split over devices, and approximate search, against one device."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import metric
from metric import ranking, search


def _mesh(devices, kind=AxisType.Auto):
    chosen = jax.devices()[:devices]
    return jax.make_mesh((devices,), ("data",), (kind,), devices=chosen)


def _tied_units(rng, rows):
    """Rows with four entries ±1/2: similarities are multiples of 1/4, without error."""
    units = np.zeros((rows, 8), np.float32)
    for row in units:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return units


@pytest.mark.parametrize(
    ("devices", "rows", "alone"),
    [(1, 700, False), (2, 700, True), (8, 5, True), (8, 700, False), (8, 700, True)],
)
def test_neighbours_on_many_devices_are_those_of_one(devices, rows, alone):
    rng = np.random.default_rng(rows)
    gallery = _tied_units(rng, rows)
    queries = gallery if alone else _tied_units(rng, 9)
    given = (gallery,) if alone else (queries, gallery)
    for k in (1, 130, 2 * rows):  # 130 is more than a shard holds
        wanted = metric.nearest_neighbours(*given, k=k)
        found = metric.nearest_neighbours(*given, k=k, mesh=_mesh(devices))
        for one, many in zip(wanted, found):
            np.testing.assert_array_equal(one, many)
    dots = queries @ gallery.T
    if alone:
        np.fill_diagonal(dots, -np.inf)
    order = np.argsort(-dots, axis=1, kind="stable")[:, : rows - alone]
    np.testing.assert_array_equal(found[0][:, : rows - alone], order)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("block_size", [7, None])
def test_measures_on_eight_devices_are_those_of_one(alone, block_size):
    rng = np.random.default_rng(1)
    x, y = _tied_units(rng, 300), rng.integers(0, 40, 300)
    given = {} if alone else {"gallery": x, "gallery_labels": y}
    queries, labels = (x, y) if alone else (x[:30], rng.integers(0, 45, 30))
    wanted = metric.retrieval_measures(queries, labels, **given)
    found = metric.retrieval_measures(
        queries, labels, **given, block_size=block_size, mesh=_mesh(8)
    )
    assert found == wanted


def test_similarities_of_any_numbers_differ_by_rounding_alone():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1500, 300)).astype(np.float32)
    _, wanted = metric.nearest_neighbours(x, k=10)
    _, found = metric.nearest_neighbours(x, k=10, mesh=_mesh(8))
    np.testing.assert_allclose(found, wanted, atol=3e-7)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_arrays_that_are_split_already_and_any_mesh_will_do(kind):
    rng = np.random.default_rng(3)
    x = _tied_units(rng, 64)
    wanted = metric.nearest_neighbours(x[:5], x, k=7)[0]
    mesh = jax.make_mesh((4, 2), ("data", "model"), (kind, kind))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    for gallery in (split, jnp.asarray(x), x.tolist()):
        found = metric.nearest_neighbours(jnp.asarray(x[:5]), gallery, k=7, mesh=mesh)
        np.testing.assert_array_equal(found[0], wanted)


def test_every_device_holds_its_part_of_the_gallery_alone():
    mesh = _mesh(8)
    ready = search.Search(np.ones((3, 4)), np.ones((1000, 4)), None, mesh)
    held = {shard.data.shape for shard in ready.items.addressable_shards}
    assert held == {(128, 4)}


def _sent(program):
    """(kind, numbers in the result) of every message of a compiled program."""
    lines = re.findall(
        r" = \w+\[([\d,]*)\]\S* (all-[\w-]+|reduce-scatter|collective-[\w-]+)\(",
        program.compile().as_text(),
    )
    return sorted((kind, int(np.prod([*map(int, n.split(","))]))) for n, kind in lines)


def test_devices_send_each_other_a_few_numbers_a_query_and_never_a_row():
    b, k, n, width, matches = 16, 5, 8, 4, 3
    ready = search.Search(np.ones((64, width)), np.ones((4096, width)), b, _mesh(n))
    mesh, rows = ready.mesh, np.arange(b)
    scores, members = ready.scores(rows), np.zeros((b, matches), int)
    queries = ranking.take(ready.queries, rows, mesh=mesh)
    given = {"num_items": 4096, "mesh": mesh}
    assert _sent(ranking.take.lower(ready.queries, rows, mesh=mesh)) == [
        ("all-reduce", b * width)
    ]
    assert _sent(ranking.scores.lower(queries, ready.items, None, **given)) == []
    keys = jnp.zeros(4096, int)
    assert _sent(ranking.hide.lower(scores, rows, keys, mesh=mesh)) == []
    assert _sent(ranking.top.lower(scores, k=k, recall=None, mesh=mesh)) == [
        ("all-gather", b * k * n),
        ("all-gather", b * k * n),
    ]
    for first in (True, False):
        assert _sent(ranking.ranks.lower(scores, members, first=first, mesh=mesh)) == [
            ("all-reduce", b * (1 if first else matches)),
            ("all-reduce", b * matches),
        ]


@pytest.mark.parametrize("devices", [None, 8])
def test_approximate_neighbours_reach_their_recall(devices):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((3000, 16)).astype(np.float32)
    mesh = None if devices is None else _mesh(devices)
    exact, _ = metric.nearest_neighbours(x[:200], x, k=10)
    found, similarities = metric.nearest_neighbours(
        x[:200], x, k=10, mesh=mesh, approx=True, recall_target=0.9
    )
    shared = [len(np.intersect1d(a, b)) / 10 for a, b in zip(exact, found)]
    assert np.mean(shared) > 0.9
    assert (np.diff(similarities, axis=1) <= 0).all()
    if jax.default_backend() == "cpu":
        np.testing.assert_array_equal(found, exact)


def test_a_share_to_be_found_outside_0_and_1_is_refused():
    with pytest.raises(ValueError, match=r"recall_target must be in \(0, 1\)"):
        metric.nearest_neighbours(np.eye(3), k=1, approx=True, recall_target=1.0)


def test_bad_and_empty_input_is_met_on_many_devices_as_on_one():
    x = np.eye(40)
    none, _ = metric.nearest_neighbours(x[:0], x, k=2, mesh=_mesh(8))
    assert none.shape == (0, 2)
    nothing, similarities = metric.nearest_neighbours(x, x[:0], k=2, mesh=_mesh(8))
    assert (nothing == -1).all() and (similarities == -np.inf).all()
    x[39, 3] = np.nan
    with pytest.raises(ValueError, match="gallery hold NaN or infinity"):
        metric.nearest_neighbours(np.eye(40), x, k=2, mesh=_mesh(8))
