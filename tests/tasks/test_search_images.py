"""The batch of a search: by its draws, and as a smooth function of their levels."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import augment
from jaxfaces.tasks.image_framing import ImageFraming
from jaxfaces.tasks.search_images import search_images

PAIRS = [[("Brightness", 1.0, 0.3), ("Invert", 1.0, 0.5)]] * 2
PAIRS += [[("Rotate", 1.0, 0.9), ("Contrast", 1.0, 0.4)]]
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
KEY = jax.random.key(2)


def batch(draws, **framing):
    settings = {"cutout": 0.0} | framing
    return search_images(ImageFraming(**settings), "cifar", KEY, IMAGES, draws=draws)


def draw_of(applied, rows=(0, 2)):
    policy = augment.make_policy(PAIRS)
    rows = jnp.asarray(rows)[: len(applied)]
    return augment.make_draw(policy, rows, jnp.asarray(applied))


def test_draws_change_the_same_crops_and_flips():
    images = batch(2, padding=2, flip=True)
    shown = images.changed(draw_of([[False, False], [False, False]]))
    chex.assert_shape(shown, (2, 4, 8, 8, 3))
    np.testing.assert_array_equal(shown[0], shown[1])
    changed = images.changed(draw_of([[True, False], [False, False]]))
    np.testing.assert_array_equal(changed[1], shown[1])
    assert (changed[0] != shown[0]).any()


def test_each_draw_has_signs_and_places_of_its_own():
    images = batch(2)
    same = draw_of([[True, False], [True, False]], rows=(2, 2))
    one, other = images.changed(same)
    assert (one != other).any()


@pytest.mark.parametrize("number", [0, 1])
def test_smooth_images_are_those_of_the_draw_but_for_rounding(number):
    images, draw = batch(2, padding=2), draw_of([[True, False], [False, True]])
    shown = images.changed(draw)[number]
    found = images.smooth(draw, jnp.asarray(number), draw.levels[number][None])
    # A step of 8-bit images, standardised.
    np.testing.assert_allclose(found, shown, atol=1.01 / 255 / 0.199)


def test_turned_images_turn_the_same_way():
    # Odd sides: nearest and bilinear positions agree but for less than a pixel.
    images, draw = batch(1), draw_of([[True, False]], rows=(2,))
    shown = images.changed(draw)[0]
    found = images.smooth(draw, jnp.asarray(0), draw.levels)
    near = np.corrcoef(np.ravel(shown), np.ravel(found))[0, 1]
    flipped = dataclasses.replace(draw, levels=1 - draw.levels)
    other = images.smooth(flipped, jnp.asarray(0), flipped.levels)
    assert near > 0.6 > np.corrcoef(np.ravel(shown), np.ravel(other))[0, 1]


def test_their_derivative_is_that_of_the_operation():
    images, draw = batch(1), draw_of([[True, True]])

    def shown(level):
        levels = jnp.stack([level, 0.5])[None]
        return images.smooth(draw, jnp.asarray(0), levels)

    # Brightness v = 0.1 + 1.8 level, then inverted: -1.8 image, standardised.
    slope = jax.jacfwd(shown)(0.3)
    deviation = np.array([0.2023, 0.1994, 0.2010])
    np.testing.assert_allclose(slope, -1.8 * IMAGES / 255 / deviation, atol=2e-4)


@pytest.mark.parametrize("level", [-0.2, 1.3])
def test_a_level_outside_has_the_derivative_of_its_end(level):
    images, draw = batch(1), draw_of([[True, False]])

    def shown(level):
        return images.smooth(draw, jnp.asarray(0), jnp.stack([level, 0.5])[None])

    end = float(np.clip(level, 1e-6, 1 - 1e-6))
    outside, inside = (jax.jacfwd(shown)(jnp.asarray(each)) for each in (level, end))
    np.testing.assert_allclose(outside, inside, atol=1e-5)
    assert (outside != 0).any()


def test_what_is_not_applied_has_no_derivative():
    images, draw = batch(1), draw_of([[False, False]])
    slope = jax.jacfwd(lambda levels: images.smooth(draw, jnp.asarray(0), levels))
    np.testing.assert_array_equal(slope(draw.levels), 0)
