"""Attention pools the items of a group: means, constants, padding, empty groups."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metric

B, D, G = 11, 5, 4


def batch(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    groups = np.array([0, 2, 1, 0, 0, 2, 1, 1, 0, 2, 2])  # group 3 is empty
    return rng.normal(size=(B, D)).astype(dtype), rng.random(B).astype(dtype), groups


def oracle(features, attention, groups, valid):
    pooled = np.zeros((G, D))
    for g in range(G):
        members = [i for i in range(B) if groups[i] == g and valid[i]]
        whole = sum(attention[i] for i in members)
        for i in members:
            pooled[g] += attention[i] / whole * features[i]
    return pooled


class AttentionPoolTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_it_is_the_mean_that_loops_give(self):
        valid = np.arange(B) % 5 != 4
        with jax.enable_x64(True):
            features, attention, groups = batch()
            pool = self.variant(lambda *given: metric.attention_pool(*given, number=G))
            for kept in (np.ones(B, bool), valid):
                found = pool(features, np.where(kept, attention, 0), groups)
                expected = oracle(features, attention, groups, kept)
                np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
        features, attention, groups = batch(dtype=np.float32)
        found = pool(features, attention, groups)
        expected = oracle(features, attention, groups, np.ones(B, bool))
        np.testing.assert_allclose(found, expected, rtol=5e-6, atol=1e-6)


def test_the_gradient_is_the_weight_and_none_reaches_the_attention():
    features, attention, groups = batch()
    toward = np.random.default_rng(1).normal(size=(G, D))

    def value(features, attention):
        return jnp.sum(
            toward * metric.attention_pool(features, attention, groups, number=G)
        )

    with jax.enable_x64(True):
        to_features, to_attention = jax.grad(value, (0, 1))(features, attention)
        chex.assert_numerical_grads(lambda x: value(x, attention), (features,), order=1)
    whole = np.array([attention[groups == g].sum() for g in groups])
    np.testing.assert_allclose(
        to_features, (attention / whole)[:, None] * toward[groups]
    )
    np.testing.assert_array_equal(to_attention, 0)


def test_equal_attention_is_the_plain_mean_and_its_scale_is_nothing():
    features, attention, groups = batch(dtype=np.float32)
    plain = metric.attention_pool(features, np.full(B, 7.0), groups, number=G)
    for g in range(3):
        np.testing.assert_allclose(plain[g], features[groups == g].mean(0), atol=1e-6)
    once, scaled = (
        metric.attention_pool(features, s * attention, groups, number=G)
        for s in (1, 50)
    )
    np.testing.assert_allclose(once, scaled, rtol=1e-5)


def test_padding_rows_change_nothing_whatever_they_hold():
    features, attention, groups = batch(dtype=np.float32)
    plain = metric.attention_pool(features, attention, groups, number=G)
    more = np.concatenate([features, np.full((3, D), np.nan, np.float32)])
    weights = np.append(attention, np.array([np.nan, 1, 1], np.float32))
    valid = np.arange(B + 3) < B
    groups = np.append(groups, [0, 1, 3])

    def value(x):
        return metric.attention_pool(x, weights, groups, number=G, valid=valid)

    np.testing.assert_allclose(value(more), plain, rtol=1e-6)
    gradient = jax.grad(lambda x: value(x).sum())(more)
    assert np.isfinite(gradient).all() and not gradient[B:].any()


def test_groups_without_items_or_attention_are_zero_and_send_no_gradient():
    features, _, groups = batch(dtype=np.float32)

    def value(x):
        return metric.attention_pool(x, np.zeros(B, np.float32), groups, number=G)

    np.testing.assert_array_equal(value(features), 0)
    np.testing.assert_array_equal(jax.grad(lambda x: value(x).sum())(features), 0)


def test_a_nan_in_a_row_that_counts_stays_nan():
    features, attention, groups = batch(dtype=np.float32)
    features[0, 0] = np.nan
    pooled = metric.attention_pool(features, attention, groups, number=G)
    assert np.isnan(pooled[0, 0])


def test_a_nan_in_a_row_of_no_group_is_not_seen():
    features, attention, groups = batch(dtype=np.float32)
    groups[0], features[0, 0] = -1, np.nan
    pooled = metric.attention_pool(features, attention, groups, number=G)
    assert np.isfinite(pooled).all()


def test_half_precision_is_summed_in_float32():
    features, attention, groups = batch(dtype=np.float32)
    half = jnp.asarray(features, jnp.bfloat16)
    assert metric.attention_pool(half, attention, groups, number=G).dtype == jnp.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"number": 0}, ValueError, "number must be 1 or more"),
        ({"attention": np.ones(B - 1)}, AssertionError, "attention: one a row"),
        ({"groups": np.zeros(B)}, AssertionError, "groups are integers"),
        ({"features": np.ones(B)}, AssertionError, "features are"),
        ({"valid": np.ones(3, bool)}, AssertionError, "valid: one a row"),
    ],
)
def test_what_does_not_fit_is_refused_before_tracing(change, error, message):
    features, attention, groups = batch(dtype=np.float32)
    given = {"features": features, "attention": attention, "groups": groups}
    with pytest.raises(error, match=message):
        metric.attention_pool(**({"number": G} | given | change))
