"""What happens to training images about a policy: which changes, in which order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import augment
from augment import image_ops
from jaxfaces.data import streams
from jaxfaces.tasks.classification_augmentation import ClassificationAugmentation
from jaxfaces.tasks.image_framing import ImageFraming

KEYS = jax.random.split(jax.random.key(4), 3)
COUNT, SIDE = 400, 8
NOISE = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)


def stored(images):
    return np.rint(255 * np.clip(images, 0, 1)).astype(np.uint8)


def before(**flags):
    return np.asarray(jax.jit(ImageFraming(**flags).before)(*KEYS, NOISE))


def after(colours="none", covers=True, **flags):
    change = jax.jit(ImageFraming(**flags).after, static_argnames=("colours", "covers"))
    return np.asarray(change(*KEYS[:2], NOISE, colours=colours, covers=covers))


class TestBefore:
    @pytest.mark.parametrize("flip", [False, True])
    def test_half_of_the_images_are_mirrored_where_asked_for(self, flip):
        found = before(flip=flip)
        mirrored = (found == NOISE[:, :, ::-1]).all((1, 2, 3))
        same = (found == NOISE).all((1, 2, 3))
        assert (mirrored ^ same).all()
        assert abs(mirrored.mean() - 0.5 * flip) < 0.1 * flip + 1e-9
        if flip:
            np.testing.assert_array_equal(found, augment.random_flip(KEYS[1], NOISE))

    def test_jitter_is_of_brightness_contrast_and_saturation(self):
        found = before(jitter=0.4)
        wanted = augment.colour_jitter(
            KEYS[2],
            NOISE / np.float32(255),
            brightness=0.4,
            contrast=0.4,
            saturation=0.4,
        )
        assert found.dtype == np.uint8
        np.testing.assert_allclose(np.int32(found), np.int32(stored(wanted)), atol=1)
        assert (np.asarray(found) != NOISE).mean() > 0.9

    def test_padding_and_crops_are_those_of_augment(self):
        shifted = before(padding=2)
        wanted = augment.padded_crop(KEYS[0], NOISE, padding=2)
        np.testing.assert_array_equal(shifted, wanted)
        window = before(crop_size=5)
        wanted = augment.random_crop(KEYS[0], NOISE, size=5)
        np.testing.assert_array_equal(window, wanted)

    @pytest.mark.parametrize("area", [0.08, 0.5])
    def test_resized_crops_have_the_least_area_of_the_flag(self, area):
        found = np.int32(before(crop="resized", crop_size=5, crop_area=area))
        wanted = augment.random_resized_crop(
            KEYS[0], NOISE / np.float32(255), size=5, scale=(area, 1)
        )
        np.testing.assert_allclose(found, np.int32(stored(wanted)), atol=1)

    def test_nothing_happens_by_default(self):
        np.testing.assert_array_equal(before(), NOISE)


class TestAfter:
    @pytest.mark.parametrize("sigma", [0.1, 0.3])
    def test_lighting_is_that_of_augment(self, sigma):
        found = after(lighting=sigma, cutout=0.0)
        floats = NOISE / np.float32(255)
        wanted = augment.lighting(KEYS[0], floats, sigma=sigma)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert np.abs(found - floats).max() > 0.01

    def test_a_square_is_covered_last_and_where_it_is_asked_for(self):
        flags = {"lighting": 0.1, "cutout": 0.5}
        bare = after(**flags, covers=False)
        mean = jnp.array([0.4914, 0.4822, 0.4465])[None, None, None]
        wanted = augment.random_cutout(KEYS[1], bare, size=4, fill=mean)
        found = after(colours="cifar", **flags)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
        lit = after(lighting=0.1, cutout=0.0)
        np.testing.assert_allclose(bare, lit, atol=1e-6)


def policy_of(change):
    """The policy that does the same to every image."""
    own = image_ops.Operation("Mine", 0, 1, None, change)
    return augment.make_policy([[("Mine", 1, 0.5)]], table=(own,))


INVERT = policy_of(lambda image, v, key: 255 - image)


def trained(policy, **flags):
    flags = {"policy": "dada", "cutout": 0.0} | flags
    change = jax.jit(ClassificationAugmentation(**flags).train, static_argnums=3)
    images = np.full((60, SIDE, SIDE, 3), 200, np.uint8)
    return np.asarray(change(jax.random.key(9), images, policy, "cifar"))


class TestOrder:
    """A policy comes after crop, flip and jitter, before lighting and cutout."""

    def test_the_border_of_a_shifted_image_is_inverted_with_it(self):
        found = trained(INVERT, padding=3)
        assert set(np.unique(np.rint(255 * found))) == {55, 255}

    @pytest.mark.parametrize(
        "flags",
        [{"flip": True}, {"padding": 3}, {"crop_size": 5}, {"jitter": 0.4}],
        ids=str,
    )
    def test_what_a_policy_draws_is_not_moved_or_coloured(self, flags):
        paint = policy_of(lambda image, v, key: image.at[:, :1].set(7))
        found = trained(paint, **flags)
        np.testing.assert_allclose(found[:, :, 0], 7 / 255, atol=1e-6)
        assert np.abs(found[:, :, 1:] - 7 / 255).min() > 1e-3

    def test_lighting_falls_on_what_a_policy_draws(self):
        black = policy_of(lambda image, v, key: 0 * image)
        found = trained(black, lighting=0.1)
        assert (np.abs(found).max((1, 2, 3)) > 0).mean() > 0.9

    def test_a_covered_square_is_not_inverted(self):
        found = trained(INVERT, cutout=0.5)
        covered = np.abs(found - 55 / 255).max(-1) > 1e-6
        assert 0 < covered.mean() <= 0.25
        mean = np.broadcast_to([0.4914, 0.4822, 0.4465], found[covered].shape)
        np.testing.assert_allclose(found[covered], mean, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "shape", "policy", "complaint"),
    [
        (
            {"crop_size": 40},
            (32, 36, 3),
            False,
            "--crop_size=40 is larger than the images, which are 36 x 32: give at most "
            "32, or read larger images by --image_size",
        ),
        (
            {"padding": 500},
            (16, 16, 3),
            False,
            "--padding=500 shifts whole images away, .* 16 x 16: give less than 16",
        ),
        ({"padding": 12}, (20, 12, 3), False, "12 x 20: give less than 12"),
        ({}, (2, 2, 3), True, "3 pixels or more .* have 2: give --image_size=3 or"),
        ({"crop_size": 2}, (9, 9, 3), True, "these have 2: give --crop_size=3 or more"),
        ({}, (9, 9, 2), True, "a policy takes images of 1 or 3 channels"),
    ],
)
def test_images_that_it_cannot_take_are_refused(flags, shape, policy, complaint):
    with pytest.raises(ValueError, match=complaint):
        ImageFraming(**flags).check(shape, policy)


@pytest.mark.parametrize(
    ("flags", "shape", "policy"),
    [
        ({"crop_size": 32}, (32, 36, 3), True),
        ({"padding": 11}, (20, 12, 3), True),
        ({}, (3, 3, 1), True),
        ({}, (2, 2, 2), False),
    ],
)
def test_images_that_it_can_take_pass(flags, shape, policy):
    ImageFraming(**flags).check(shape, policy)


def test_a_crop_larger_than_stored_images_names_both_flags():
    complaint = "--crop_size=9 is larger than --image_size=8: lower the one or raise"
    with pytest.raises(ValueError, match=complaint):
        ImageFraming(crop_size=9).check_stored(8)


def test_a_batch_larger_than_the_data_says_what_to_give():
    complaint = "--batch_size=9 is more than 8 images: .* give at most 8"
    with pytest.raises(ValueError, match=complaint):
        streams.shuffled_plan(8, 9, seed=0, drop_last=True)
