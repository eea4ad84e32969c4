"""Jitter and lighting against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import augment
from augment import colour

IMAGES = np.random.default_rng(0).random((5, 6, 7, 3)).astype(np.float32)


def changed_once(image, kind, factor):
    """One change of colour, in float64."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    base = {"brightness": 0 * grey, "contrast": grey.mean() + 0 * grey}
    towards = base.get(kind, grey)[..., None]
    return np.clip(towards + factor * (image - towards), 0, 1)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_one_change_blends_with_its_base(kind):
    strengths = dict.fromkeys(("brightness", "contrast", "saturation"), 0.0)
    strengths[kind] = 0.4
    found = augment.colour_jitter(jax.random.key(1), jnp.asarray(IMAGES), **strengths)
    for image, result in zip(IMAGES.astype(np.float64), found):
        # The factor that fits, and no other than one within the range.
        factors = np.linspace(0.6, 1.4, 4001)
        gaps = [np.abs(changed_once(image, kind, f) - result).max() for f in factors]
        assert min(gaps) < 2e-4
        assert 0.6 <= factors[int(np.argmin(gaps))] <= 1.4


def test_factors_differ_between_images_and_fill_their_range():
    ones = jnp.full((2000, 1, 1, 3), 0.5)
    found = augment.colour_jitter(jax.random.key(0), ones, contrast=0, saturation=0)
    factors = np.asarray(found)[:, 0, 0, 0] / 0.5
    assert factors.min() < 0.61
    assert factors.max() > 1.39
    assert factors.mean() == pytest.approx(1, abs=0.02)


def test_order_is_drawn():
    """Brightness before or after contrast gives two clusters of results."""
    image = jnp.tile(jnp.asarray(IMAGES[:1]), (64, 1, 1, 1))
    found = np.asarray(augment.colour_jitter(jax.random.key(3), image))
    assert len(np.unique(found.reshape(64, -1).round(5), axis=0)) == 64


def test_grey_images_keep_their_greys_whatever_the_saturation():
    grey = jnp.repeat(jnp.asarray(IMAGES[..., :1]), 3, axis=-1)
    found = augment.colour_jitter(
        jax.random.key(0), grey, brightness=0, contrast=0, saturation=1.0
    )
    np.testing.assert_allclose(found, grey, atol=1e-6)


def test_lighting_adds_one_colour_along_the_axes():
    key = jax.random.key(5)
    found = np.asarray(augment.lighting(key, jnp.asarray(IMAGES), sigma=0.1))
    shift = (found - IMAGES).reshape(5, -1, 3)
    np.testing.assert_allclose(shift, shift[:, :1] + 0 * shift, atol=1e-6)
    alpha = 0.1 * np.asarray(jax.random.normal(key, (5, 3)))
    axes = np.array(colour.EIGENVECTORS)
    for row in range(5):
        expected = sum(
            alpha[row, i] * colour.EIGENVALUES[i] * axes[:, i] for i in range(3)
        )
        np.testing.assert_allclose(shift[row, 0], expected, atol=1e-6)


def test_eigenvectors_are_orthonormal():
    axes = np.array(colour.EIGENVECTORS)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=2e-4)


@pytest.mark.parametrize("images", [np.zeros((2, 4, 4, 1), np.float32)])
@pytest.mark.parametrize("function", [augment.colour_jitter, augment.lighting])
def test_other_images_are_refused(function, images):
    with pytest.raises(ValueError, match=r"floating \(B, H, W, 3\)"):
        function(jax.random.key(0), images)
    with pytest.raises(ValueError, match=r"floating \(B, H, W, 3\)"):
        function(jax.random.key(0), np.zeros((2, 4, 4, 3), np.uint8))


def test_strengths_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="contrast must lie in"):
        augment.colour_jitter(jax.random.key(0), IMAGES, contrast=1.5)
    with pytest.raises(ValueError, match="sigma must be at least 0"):
        augment.lighting(jax.random.key(0), IMAGES, sigma=-1.0)
