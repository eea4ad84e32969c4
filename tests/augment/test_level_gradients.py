"""The unit derivative of a batch in its levels, in every mode of differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from augment.level_gradients import straight_through, with_derivatives_of

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3, 2)), jnp.float32)
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3, 3, 2)), jnp.float32)
LEVELS = jnp.array([[0.3, 0.7], [1.4, -0.2]])
APPLIED = jnp.array([[True, True], [True, False]])


def total(levels, images=IMAGES):
    return jnp.sum(WEIGHTS * straight_through(images, levels, APPLIED))


def curved(levels):
    """Cubic in the pixels, so that second derivatives are 6 Σ x."""
    return jnp.sum(straight_through(IMAGES, levels, APPLIED) ** 3)


def shares(values):
    """Sums over each half of the batch, for the levels that were applied."""
    halves = values.reshape(2, -1).sum(1)
    return jnp.where(APPLIED, halves[:, None], 0)


def test_no_bit_changes():
    result = jax.jit(straight_through)(IMAGES, LEVELS, APPLIED)
    assert np.array_equal(result, IMAGES)


def test_gradient_is_the_sum_over_the_group_for_applied_levels():
    np.testing.assert_allclose(jax.grad(total)(LEVELS), shares(WEIGHTS), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(total, 1)(LEVELS, IMAGES), WEIGHTS)


def test_forward_mode_agrees():
    direction = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    _, slope = jax.jvp(total, (LEVELS,), (direction,))
    np.testing.assert_allclose(slope, jnp.sum(shares(WEIGHTS) * direction), rtol=1e-5)


def test_gradient_of_a_directional_derivative_and_of_a_gradient():
    direction = jnp.array([[1.0, -2.0], [0.5, 3.0]])
    second = shares(6 * IMAGES)  # the same for both levels of a group
    moved = jnp.where(APPLIED, direction, 0).sum(1)[:, None]
    wanted = second * moved
    over_jvp = jax.grad(lambda m: jax.jvp(curved, (m,), (direction,))[1])(LEVELS)
    over_grad = jax.grad(lambda m: jnp.sum(jax.grad(curved)(m) * direction))(LEVELS)
    np.testing.assert_allclose(over_jvp, wanted, rtol=1e-4)
    np.testing.assert_allclose(over_grad, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "levels", "applied", "complaint"),
    [
        (IMAGES, LEVELS[0], APPLIED[0], r"must both be \(G, n\)"),
        (IMAGES, LEVELS, APPLIED[:1], r"must both be \(G, n\)"),
        (IMAGES[:3], LEVELS, APPLIED, "3 images do not divide into 2 groups"),
        (IMAGES.astype(jnp.uint8), LEVELS, APPLIED, "must be floating, got uint8"),
    ],
)
def test_bad_input_is_refused(images, levels, applied, complaint):
    with pytest.raises(ValueError, match=complaint):
        straight_through(images, levels, applied)


def test_images_may_have_the_derivatives_of_others():
    def shown(level):
        return with_derivatives_of(IMAGES * level, WEIGHTS * level**2)

    np.testing.assert_array_equal(shown(0.7), IMAGES * 0.7)
    # Twice, and of the smooth ones alone.
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(shown)(0.7), 1.4 * WEIGHTS, rtol=1e-6)
        np.testing.assert_allclose(mode(jax.jacfwd(shown))(0.7), 2 * WEIGHTS, rtol=1e-6)
    with pytest.raises(ValueError, match="both must have one shape"):
        with_derivatives_of(IMAGES, WEIGHTS[:1])
