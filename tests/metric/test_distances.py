"""Unit embeddings, distances and pair masks."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metric import distances


class DistancesTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_distances_on_a_circle_are_chords(self):
        angle = np.radians([0, 30, 90, 180])
        unit = jnp.asarray(np.stack([np.cos(angle), np.sin(angle)], 1), jnp.float32)
        d = self.variant(distances.unit_distances)(unit[:2], unit)
        turns = np.abs(angle[:2, None] - angle)
        np.testing.assert_allclose(d, 2 * np.sin(turns / 2), atol=1e-6)
        assert d[0, 0] == d[1, 1] == 0

    @chex.all_variants(with_pmap=False)
    def test_normalize_keeps_directions_at_any_scale(self):
        x = np.array([[3.0, 4.0]], "f")
        for scale in (1e-37, 1e-20, 1.0, 1e20, 1e37):
            unit = self.variant(distances.normalize)(x * np.float32(scale))
            np.testing.assert_allclose(unit, [[0.6, 0.8]], rtol=1e-6)

    @chex.all_variants(with_pmap=False)
    def test_masks_split_ordered_pairs_by_class(self):
        positive, negative = self.variant(distances.pair_masks)(jnp.array([4, 4, -1]))
        np.testing.assert_array_equal(positive, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
        np.testing.assert_array_equal(negative, [[0, 0, 1], [0, 0, 1], [1, 1, 0]])


def test_masks_leave_padding_out_of_both():
    valid = jnp.array([True, False, True, True])
    positive, negative = distances.pair_masks(jnp.array([1, 1, 1, 2]), valid)
    assert not positive[1].any() and not positive[:, 1].any()
    assert not negative[1].any() and not negative[:, 1].any()
    assert positive.sum() == 2 and negative.sum() == 4


def test_zero_row_stays_zero_with_zero_gradient():
    x = jnp.zeros((2, 3)).at[1].set(1.0)
    assert (distances.normalize(x)[0] == 0).all()
    slope = jax.jacobian(distances.normalize)(x)
    assert jnp.isfinite(slope).all() and (slope[0] == 0).all()


def test_gradient_of_normalize_is_the_projection():
    x = jnp.array([[1.0, -2.0, 0.5, 2.0]])
    f, length = x[0] / jnp.linalg.norm(x), jnp.linalg.norm(x)
    wanted = (jnp.eye(4) - f[:, None] * f[None]) / length
    slope = jax.jacobian(distances.normalize)(x)[0, :, 0]
    np.testing.assert_allclose(slope, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "near", "apart"), [("f4", 1e-3, 4e-3), ("f8", 5e-7, 2e-6)]
)
def test_close_pairs_are_coincident_with_zero_gradient(kind, near, apart):
    def pair(angle):
        both = jnp.stack([jnp.zeros_like(angle), angle])
        unit = jnp.stack([jnp.cos(both), jnp.sin(both)], 1)
        return distances.unit_distances(unit, unit)[0, 1]

    with jax.enable_x64(kind == "f8"):
        value, slope = jax.value_and_grad(pair)(jnp.asarray(near, kind))
        assert value == slope == 0
        value, slope = jax.value_and_grad(pair)(jnp.asarray(apart, kind))
        assert value == pytest.approx(apart, rel=0.1) and slope != 0


def test_nan_is_passed_on():
    unit = distances.normalize(jnp.array([[1.0, jnp.nan], [0.0, 1.0]]))
    assert jnp.isnan(distances.unit_distances(unit, unit)[0]).all()


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "int32"])
def test_narrow_types_are_computed_in_float32(kind):
    x = jnp.array([[3, 4]], kind)
    assert distances.normalize(x).dtype == jnp.float32
    np.testing.assert_allclose(distances.normalize(x), [[0.6, 0.8]], rtol=1e-6)
    with jax.enable_x64(True):
        assert distances.normalize(jnp.ones((1, 4))).dtype == jnp.float64


def test_hidden_padding_leaves_no_trace_and_counts_the_rest():
    x = jnp.array([[1.0, 2.0], [math.nan, math.inf]])
    hidden, count = distances.hide_padding(x, jnp.array([True, False]))
    np.testing.assert_array_equal(hidden, [[1, 2], [0, 0]])
    assert count == 1 and distances.hide_padding(x, None)[1] == 2


@pytest.mark.parametrize("width", [64, 512, 1024])
def test_identical_rows_are_at_distance_zero_at_any_width(width):
    rows = np.random.default_rng(width).normal(size=(60, width)).astype(np.float32)
    unit = distances.normalize(jnp.asarray(np.concatenate([rows, rows])))
    d = np.asarray(jax.jit(distances.unit_distances)(unit, unit))
    np.testing.assert_array_equal(np.diagonal(d), 0)
    np.testing.assert_array_equal(np.diagonal(d, 60), 0)
    assert np.all(d[:60, :60][~np.eye(60, dtype=bool)] > 0.5)
