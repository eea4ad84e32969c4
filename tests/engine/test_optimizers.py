"""Schedules, multipliers, averages, accumulated gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfaces.engine import optimizers, steps
from jaxfaces.engine.optimizers import Optimizer


def rates(optimizer, steps):
    return [float(optimizer.rate(steps)(n)) for n in range(steps)]


def test_warm_up_rises_linearly_to_the_peak_and_wastes_no_step():
    found = rates(Optimizer(lr=1.0, warmup_steps=4), 6)
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-6)


def test_cosine_ends_near_zero_and_stays_there():
    optimizer = Optimizer(lr=2.0, schedule="cosine", warmup_steps=2)
    schedule = optimizer.rate(10)
    expected = [1 + np.cos(np.pi * n / 8) for n in range(9)]
    found = [float(schedule(2 + n)) for n in range(9)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert float(schedule(50)) == 0


def test_cosine_may_end_at_a_share_of_the_rate():
    schedule = Optimizer(lr=0.1, schedule="cosine", lr_end=0.01).rate(10)
    assert float(schedule(0)) == pytest.approx(0.1)
    assert float(schedule(5)) == pytest.approx(0.0505)
    assert float(schedule(10)) == float(schedule(30)) == pytest.approx(0.001)


def test_milestones_count_from_the_start_of_the_run():
    optimizer = Optimizer(
        lr=1.0, schedule="steps", milestones=(3, 5), decay=0.1, warmup_steps=1
    )
    np.testing.assert_allclose(
        rates(optimizer, 7), [1, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6
    )


def update(optimizer, params, grads, multiplier=None):
    tx = optimizer.make(10, multiplier)
    updates, _ = tx.update(grads, tx.init(params), params)
    return updates


def test_weight_decay_spares_biases():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones((2,))}
    grads = jax.tree.map(jnp.zeros_like, params)
    optimizer = Optimizer(optimizer="sgd", lr=0.1, weight_decay=0.5)
    updates = update(optimizer, params, grads)
    np.testing.assert_allclose(updates["w"], np.full((2, 2), -0.05), rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], np.zeros(2))


def test_a_multiplier_scales_one_layer():
    params = {"head": jnp.ones((2,)), "trunk": jnp.ones((2,))}
    grads = {"head": jnp.ones((2,)), "trunk": jnp.ones((2,))}
    optimizer = Optimizer(optimizer="sgd", lr=0.1, momentum=0.0)
    updates = update(
        optimizer, params, grads, lambda path: 10.0 if path[0].key == "head" else 1.0
    )
    np.testing.assert_allclose(updates["head"], [-1.0, -1.0], rtol=1e-6)
    np.testing.assert_allclose(updates["trunk"], [-0.1, -0.1], rtol=1e-6)


def test_clipping_bounds_the_global_norm():
    params = {"a": jnp.zeros((2,)), "b": jnp.zeros(())}
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    optimizer = Optimizer(optimizer="sgd", lr=1.0, momentum=0.0, clip_norm=1.0)
    assert float(optax.tree.norm(update(optimizer, params, grads))) == pytest.approx(1)


def test_the_average_follows_its_recurrence():
    values = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    average, expected = jnp.asarray(values[0]), values[0].astype(np.float64)
    for t, new in enumerate(values[1:]):
        keep = min(0.8, (1 + t) / (10 + t))
        expected = keep * expected + (1 - keep) * new
        average = optimizers.averaged(average, new, 0.8, jnp.int32(t))
    np.testing.assert_allclose(average, expected, rtol=1e-5)


class AccumulatedTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(0)
        self.params = {"w": jnp.asarray(rng.normal(size=(4,)), jnp.float32)}
        self.batch = {
            "train": {
                "x": jnp.asarray(rng.normal(size=(12, 4)), jnp.float32),
                "valid": jnp.arange(12) < 7,
            }
        }

    def loss(self, params, rest, batch, key):
        rows = batch["train"]
        each = jnp.square(jnp.einsum("bd,d->b", rows["x"], params["w"]) - 1)
        n = jnp.sum(rows["valid"])
        total = jnp.sum(jnp.where(rows["valid"], each, 0))
        return total / jnp.maximum(n, 1), (rest + 1, {"loss": (total, n)})

    @chex.all_variants(with_pmap=False)
    def test_parts_add_to_the_whole(self):
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        args = (self.params, jnp.int32(0), self.batch, jax.random.key(0))
        (value, (_, metrics)), grads = gradient(*args)
        parts = self.variant(steps.accumulated(gradient, 3))
        (part_value, (rest, part_metrics)), part_grads = parts(*args)
        chex.assert_trees_all_close(part_grads, grads, rtol=1e-5)
        np.testing.assert_allclose(part_value, value, rtol=1e-5)
        np.testing.assert_allclose(part_metrics["loss"][0], metrics["loss"][0], 1e-5)
        self.assertEqual(int(part_metrics["loss"][1]), 7)
        self.assertEqual(int(rest), 4)

    def test_a_batch_that_does_not_divide_is_named(self):
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        with self.assertRaisesRegex(ValueError, "--microbatch=5 must divide"):
            args = (self.params, jnp.int32(0), self.batch, jax.random.key(0))
            steps.accumulated(gradient, 5)(*args)
