"""Metrics added up on the device."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.engine import totals


class TotalsTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_sums_and_counts_give_the_mean_over_everything(self):
        add = self.variant(totals.add)
        found = totals.zeros({"a": None})
        for step, (value, count) in enumerate([(3.0, 2), (0.0, 0), (5.0, 6)]):
            found = add(found, {"a": (jnp.float32(value), count)}, jnp.int32(step))
        np.testing.assert_allclose(totals.means(found)["a"], [1.0])
        self.assertEqual(totals.bad(found), [])

    @chex.all_variants(with_pmap=False)
    def test_the_first_step_that_is_not_finite_is_remembered(self):
        add = self.variant(totals.add)
        found = totals.zeros({"a": None, "b": None})
        for step, bad in enumerate([1.0, np.inf, np.nan, 1.0]):
            metrics = {"a": (jnp.float32(1.0), 1), "b": (jnp.float32(bad), 1)}
            found = add(found, metrics, jnp.int32(step))
        self.assertEqual(totals.bad(found), [(2, "b", 0)])

    @chex.all_variants(with_pmap=False)
    def test_steps_that_do_not_count_add_nothing_but_are_noted(self):
        add = self.variant(totals.add)
        found = totals.zeros({"a": None})
        for step, (value, counts, running) in enumerate(
            [(1.0, True, True), (np.nan, False, False), (np.nan, False, True)]
        ):
            metrics = {"a": (jnp.float32(value), 1)}
            flags = jnp.array(counts), jnp.array(running)
            found = add(found, metrics, jnp.int32(step), *flags)
        np.testing.assert_allclose(totals.means(found)["a"], [1.0])
        self.assertEqual(totals.bad(found), [(3, "a", 0)])

    def test_counts_below_one_divide_too(self):
        found = totals.zeros({"a": None})
        found = totals.add(found, {"a": (0.3 * 2.0, 0.3)}, jnp.int32(0))
        np.testing.assert_allclose(totals.means(found)["a"], [2.0], rtol=1e-6)


def test_a_metric_that_was_never_counted_has_no_mean():
    assert totals.means(totals.zeros({"a": None})) == {}


@pytest.mark.parametrize("metric", [1.0, (1.0,), (jnp.ones(2), 1), (1.0, jnp.ones(2))])
def test_a_metric_must_be_a_pair_of_scalars(metric):
    with pytest.raises(ValueError, match="metric 'a' must be a pair"):
        totals.add(totals.zeros({"a": None}), {"a": metric}, jnp.int32(0))
