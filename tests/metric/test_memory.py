"""The ring of past embeddings: what lies where, and losses against it."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import metric
from metric import memory as memory_lib


def _batches(count, rows=4, width=3):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, rows, width)).astype("f")
    return x, rng.integers(0, 3, (count, rows)), rng.random((count, rows)) < 0.7


class RingTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_the_newest_rows_take_the_place_of_the_oldest(self):
        put = self.variant(metric.enqueue)
        memory = metric.empty_memory(5, 1)
        memory, where = put(memory, jnp.array([[1.0], [2.0]]), jnp.array([1, 2]))
        np.testing.assert_array_equal(where, [0, 1])
        np.testing.assert_array_equal(memory.valid, [1, 1, 0, 0, 0])
        row = jnp.array([[3.0], [4.0], [5.0], [6.0]])
        memory, where = put(memory, row, jnp.array([3, 4, 5, 6]))
        np.testing.assert_array_equal(where, [2, 3, 4, 0])
        np.testing.assert_array_equal(memory.embeddings[:, 0], [6, 2, 3, 4, 5])
        np.testing.assert_array_equal(memory.labels, [6, 2, 3, 4, 5])
        assert memory.valid.all() and memory.next == 1


def test_any_batches_leave_the_last_rows_that_count():
    memory, kept = metric.empty_memory(7, 3), []
    put = jax.jit(metric.enqueue)
    for x, labels, valid in zip(*_batches(6)):
        memory, where = put(memory, x, labels, valid)
        kept = [*kept, *zip(x[valid], labels[valid])][-7:]
        np.testing.assert_array_equal(where < 0, ~valid)
        np.testing.assert_array_equal(memory.embeddings[where[valid]], x[valid])
        there = np.asarray(memory.valid)
        assert there.sum() == len(kept)
        found = zip(memory.embeddings[there], memory.labels[there])
        assert sorted((*map(float, e), int(y)) for e, y in found) == sorted(
            (*map(float, e), int(y)) for e, y in kept
        )


def test_nan_of_padding_rows_is_not_remembered():
    x = jnp.array([[jnp.nan, 0], [1, 2]])
    memory, where = metric.enqueue(
        metric.empty_memory(2, 2), x, jnp.array([0, 1]), jnp.array([False, True])
    )
    np.testing.assert_array_equal(where, [-1, 0])
    np.testing.assert_array_equal(memory.embeddings, [[1, 2], [0, 0]])


def _remembered(memory, where):
    """The memory and where the batch lies in it, as plain numpy."""
    there = np.asarray(memory.valid)
    return np.asarray(memory.embeddings), np.asarray(memory.labels), there, where


def test_a_loss_sees_all_that_is_remembered_but_no_item_itself():
    x, labels, _ = _batches(3)
    memory = metric.empty_memory(10, 3)
    for step in range(3):
        memory, where = metric.enqueue(memory, x[step], labels[step])
        loss = metric.contrastive_loss(
            x[step], labels[step], **metric.references(memory, where)
        )
        refs, names, there, places = _remembered(memory, where)
        paid = {True: [], False: []}
        for row, name, place in zip(x[step], labels[step], places):
            for k in np.flatnonzero(there):
                d = np.linalg.norm(
                    row / np.linalg.norm(row) - refs[k] / np.linalg.norm(refs[k])
                )
                hinge = d if names[k] == name else 1 - d
                if k != place and hinge > 0:
                    paid[bool(names[k] == name)].append(hinge)
        wanted = sum(np.mean(hinges) for hinges in paid.values() if hinges)
        assert loss == pytest.approx(wanted, rel=2e-5)


def test_ranked_list_of_a_memory_that_holds_the_batch_alone_is_that_of_the_batch():
    x, labels, valid = (each[0] for each in _batches(1, rows=8))
    memory = metric.empty_memory(20, 3)

    def with_memory(x):
        new, where = metric.enqueue(memory, x, labels, valid)
        return metric.ranked_list_loss(
            x, labels, valid=valid, **metric.references(new, where)
        )

    def alone(x):
        return metric.ranked_list_loss(x, labels, valid=valid)

    chex.assert_trees_all_close(
        jax.jit(jax.value_and_grad(with_memory))(x),
        jax.jit(jax.value_and_grad(alone))(x),
        rtol=1e-5,
        atol=1e-6,
    )


def test_no_gradient_flows_into_the_memory():
    x, labels, _ = (each[0] for each in _batches(1))

    def remembered(x, memory):
        new, where = metric.enqueue(memory, x, labels)
        loss = metric.contrastive_loss(x, labels, **metric.references(new, where))
        return loss, new

    def total(x, embeddings):
        memory = metric.empty_memory(9, 3)._replace(
            embeddings=embeddings, valid=jnp.ones(9, bool)
        )
        loss, new = remembered(x, memory)
        return loss + jnp.sum(new.embeddings[:4] * 100), loss

    old = jax.random.normal(jax.random.key(0), (9, 3))
    slopes, _ = jax.grad(total, (0, 1), has_aux=True)(x, old)
    alone, _ = jax.grad(lambda x: total(x, old)[::-1], has_aux=True)(x)
    np.testing.assert_array_equal(slopes[0], alone)
    assert (slopes[1] == 0).all()


def test_context_vectors_weigh_what_is_remembered():
    x, labels, _ = _batches(2)
    context = jnp.eye(3)
    memory, _ = metric.enqueue(metric.empty_memory(9, 3), x[0], labels[0])
    memory, where = metric.enqueue(memory, x[1], labels[1])
    f = functools.partial(metric.osm_caa_loss, context_vectors=context)
    value = f(x[1], labels[1], **metric.references(memory, where))
    both = np.concatenate([x[1], x[0]]), np.concatenate([labels[1], labels[0]])
    wanted = f(
        x[1], labels[1], ref=both[0], ref_labels=both[1], itself=jnp.arange(4)
    )  # fmt: skip
    assert value == pytest.approx(float(wanted), rel=1e-6)


def _step(memory, batch):
    x, labels, valid = batch
    memory, where = metric.enqueue(memory, x, labels, valid)
    return memory, metric.ranked_list_loss(
        x, labels, valid=valid, **metric.references(memory, where)
    )


def test_a_scan_over_batches_equals_a_loop():
    batches = _batches(5)
    memory, losses = metric.empty_memory(6, 3), []
    last, scanned = jax.jit(lambda m, b: jax.lax.scan(_step, m, b))(
        memory, jax.tree.map(jnp.asarray, batches)
    )
    step = jax.jit(_step)
    for batch in zip(*batches):
        memory, loss = step(memory, batch)
        losses.append(float(loss))
    np.testing.assert_allclose(scanned, losses, rtol=1e-5)
    chex.assert_trees_all_equal(last, memory)


def test_a_donated_memory_is_written_in_place():
    step = jax.jit(_step, donate_argnums=0)
    old = metric.empty_memory(64, 3)
    new, _ = step(old, tuple(each[0] for each in _batches(1)))
    assert old.embeddings.is_deleted() and not new.embeddings.is_deleted()


def test_memory_before_a_batch_split_over_devices():
    x, labels, valid = _batches(2, rows=16)
    memory, _ = metric.enqueue(metric.empty_memory(40, 3), x[0], labels[0], valid[0])
    memory, where = metric.enqueue(memory, x[1], labels[1], valid[1])
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))

    def loss(x, labels, valid, where, memory, axis_name=None):
        return metric.contrastive_loss(
            x,
            labels,
            valid=valid,
            axis_name=axis_name,
            **metric.references(memory, where),
        )

    split = jax.shard_map(
        functools.partial(loss, axis_name="data"),
        mesh=mesh,
        in_specs=(*[P("data")] * 4, P()),
        out_specs=P(),
    )
    batch = tuple(map(jnp.asarray, (x[1], labels[1], valid[1], where)))
    chex.assert_trees_all_close(
        jax.jit(jax.value_and_grad(split))(*batch, memory),
        jax.jit(jax.value_and_grad(loss))(*batch, memory),
        rtol=1e-5,
        atol=1e-6,
    )


def test_agrees_with_pytorch_metric_learning():
    pytest.importorskip("pytorch_metric_learning")
    import torch
    from pytorch_metric_learning import losses

    theirs = losses.CrossBatchMemory(losses.ContrastiveLoss(), 3, memory_size=10)
    memory = metric.empty_memory(10, 3)
    for x, labels, _ in zip(*_batches(6)):
        memory, where = metric.enqueue(memory, x, labels)
        ours = jax.value_and_grad(metric.contrastive_loss)(
            jnp.asarray(x), labels, **metric.references(memory, where)
        )
        rows = torch.tensor(x, requires_grad=True)
        value = theirs(rows, torch.tensor(labels))
        value.backward()
        np.testing.assert_allclose(ours[0], value.item(), rtol=1e-5)
        np.testing.assert_allclose(ours[1], rows.grad, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"embeddings": jnp.ones((4, 2)), "labels": jnp.zeros(4, int)}, ValueError),
        ({"embeddings": jnp.ones((2, 3))}, AssertionError),
        ({"labels": jnp.zeros(3, int)}, AssertionError),
        ({"valid": jnp.ones(3, bool)}, AssertionError),
    ],
)
def test_batches_that_do_not_fit_are_refused(change, error):
    given = {"embeddings": jnp.ones((2, 2)), "labels": jnp.zeros(2, int)} | change
    with pytest.raises(error):
        metric.enqueue(metric.empty_memory(3, 2), **given)


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ValueError, match="1 row"):
        memory_lib.empty_memory(0, 4)
