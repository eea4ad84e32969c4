"""Bad steps are left out, counted and given up on, against a plain reading."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.engine import health

GOOD, BAD = (1.0, 1), (np.nan, 1)


def read(steps, patience):
    """The rules in plain Python: (skipped, in a row, failed, which steps count)."""
    skipped = row = failed = 0
    counts = []
    for n, good in enumerate(steps):
        if failed:
            counts.append(False)
            continue
        counts.append(good)
        if good:
            row = 0
            continue
        row += 1
        if row > patience:
            failed = n + 1
        else:
            skipped += 1
    return skipped, row, failed, counts


@pytest.mark.parametrize("patience", [0, 1, 2, 5])
@pytest.mark.parametrize("jit", [True, False])
def test_judging_follows_the_rules(patience, jit):
    rng = np.random.default_rng(patience)
    judge = jax.jit(health.judge, static_argnames="patience") if jit else health.judge
    for _ in range(10):
        steps = rng.random(12) < 0.6
        state, counts = health.well(), []
        for n, good in enumerate(steps):
            metrics = {"a": GOOD, "loss": GOOD if good else BAD}
            state, count = judge(state, metrics, jnp.int32(n), patience=patience)
            counts.append(bool(count))
        found = int(state.skipped), int(state.in_a_row), int(state.failed), counts
        assert found == read(steps, patience)
        chex.assert_trees_all_equal_dtypes(state, health.well())


def test_entering_a_phase_neither_ends_a_row_of_bad_steps_nor_may_it_be_bad():
    state, _ = health.judge(health.well(), {"a": BAD}, jnp.int32(0), patience=1)
    enter = dict(patience=1, entrance=True)
    state, counts = health.judge(state, {}, jnp.int32(1), **enter)
    assert bool(counts) and int(state.in_a_row) == 1
    after, _ = health.judge(state, {"a": BAD}, jnp.int32(1), patience=1)
    assert int(after.failed) == 2
    after, counts = health.judge(health.well(), {"a": BAD}, jnp.int32(3), **enter)
    assert not bool(counts) and int(after.failed) == 4 and int(after.skipped) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_any_metric_that_is_not_finite_is_bad(value):
    assert bool(health.finite({"a": GOOD, "b": (jnp.float32(3), 2)}))
    assert not bool(health.finite({"a": GOOD, "b": (jnp.float32(value), 2)}))
    assert bool(health.finite({}))


def test_choosing_keeps_the_old_state_whole_even_where_the_new_one_is_nan():
    old = {"w": jnp.ones(3), "key": jax.random.key(0), "n": jnp.int32(1)}
    new = {"w": jnp.full(3, jnp.nan), "key": jax.random.key(9), "n": jnp.int32(2)}
    for counts, expected in ((True, new), (False, old)):
        found = jax.jit(health.choose)(jnp.array(counts), new, old)
        as_data = lambda t: {**t, "key": jax.random.key_data(t["key"])}  # noqa: E731
        chex.assert_trees_all_equal(as_data(found), as_data(expected))
