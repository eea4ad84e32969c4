"""MixUp, CutMix, cut-outs and padded crops: what they keep and what they mix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from augment import mixing

KEY = jax.random.key(3)
COUNT, SIDE = 64, 8
# Image i has the value i everywhere: a pixel tells whose it is.
IMAGES = jnp.broadcast_to(
    jnp.arange(COUNT, dtype=jnp.float32)[:, None, None, None], (COUNT, SIDE, SIDE, 1)
)
LABELS = jnp.eye(COUNT)
MIXUP = jax.jit(mixing.mixup, static_argnames="alpha")
CUTMIX = jax.jit(mixing.cutmix, static_argnames="alpha")


def test_mixup_blends_images_and_labels_alike():
    images, labels = MIXUP(KEY, IMAGES, LABELS, alpha=1.0)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)
    wanted = labels @ jnp.arange(COUNT, dtype=jnp.float32)
    np.testing.assert_allclose(images[:, 0, 0, 0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_of_mixup_have_the_moments_of_beta(alpha):
    keys = jax.random.split(KEY, 100)
    draw = jax.jit(jax.vmap(lambda key: mixing._pairs(key, IMAGES, LABELS, alpha)[1]))
    shares = np.asarray(draw(keys))
    assert abs(shares.mean() - 0.5) < 0.02
    np.testing.assert_allclose(shares.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.05)


def test_shares_have_a_gradient_through_images_and_labels():
    partner = jnp.roll(jnp.arange(COUNT), 1)

    def total(shares):
        images, labels = mixing.blend_pairs(IMAGES, LABELS, partner, shares)
        return jnp.sum(images[:, 0, 0, 0]) + 2 * jnp.sum(labels[:, 0])

    slope = jax.grad(total)(jnp.full(COUNT, 0.3))
    own = jnp.arange(COUNT) - partner
    label = 2 * ((jnp.arange(COUNT) == 0) * 1.0 - (partner == 0) * 1.0)
    np.testing.assert_allclose(slope, own + label, rtol=1e-5)


def test_cutmix_labels_are_the_shares_of_the_pixels():
    images, labels = CUTMIX(KEY, IMAGES, LABELS, alpha=1.0)
    owners = np.asarray(images)[..., 0].astype(int)
    for pixels, label in zip(owners, np.asarray(labels)):
        shares = np.bincount(pixels.ravel(), minlength=COUNT) / SIDE**2
        np.testing.assert_allclose(label, shares, atol=1e-6)
    assert (owners != np.arange(COUNT)[:, None, None]).any()


def test_cutmix_pastes_one_box():
    owners = np.asarray(CUTMIX(KEY, IMAGES, LABELS, alpha=1.0)[0])[..., 0]
    for row, pixels in enumerate(owners):
        down, across = np.nonzero(pixels != row)
        if len(down):
            box = (np.ptp(down) + 1) * (np.ptp(across) + 1)
            assert box == len(down)


def shares_of_pixels(side, length):
    """How often each of `length` pixels lies in a stretch about a uniform centre."""
    hits = np.zeros(length)
    for centre in range(length):
        start = centre - side // 2
        for pixel in range(max(start, 0), min(start + side, length)):
            hits[pixel] += 1 / length
    return hits


@pytest.mark.parametrize("alpha", [1.0, 500.0])
def test_boxes_of_cutmix_have_the_area_1_minus_lambda_and_lie_anywhere(alpha):
    count, height, width = 9600, 10, 16
    owners = jnp.arange(count, dtype=jnp.float32)[:, None, None, None]
    owners = jnp.broadcast_to(owners, (count, height, width, 1))
    images, _ = CUTMIX(KEY, owners, jnp.ones((count, 1)), alpha=alpha)
    pasted = np.asarray(images != owners)[..., 0].mean(0)
    wanted = np.zeros((height, width))
    lambdas = scipy.stats.beta.ppf((np.arange(200) + 0.5) / 200, alpha, alpha)
    for side in np.sqrt(1 - lambdas):
        down = shares_of_pixels(int(side * height), height)
        wanted += np.outer(down, shares_of_pixels(int(side * width), width)) / 200
    assert abs(pasted.mean() - wanted.mean()) < 0.01
    np.testing.assert_allclose(pasted, wanted, atol=0.025)


def test_centres_of_cutouts_are_uniform():
    height, width, count = 6, 9, 10_800
    images = jnp.ones((count, height, width, 1))
    cut = jax.jit(mixing.random_cutout, static_argnames="size")(KEY, images, size=1)
    _, rows, columns, _ = np.nonzero(np.asarray(cut) == 0)
    assert len(rows) == count  # the one pixel of each is its centre
    found = np.bincount(rows * width + columns, minlength=height * width)
    expected = count / (height * width)  # 200
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected))


def test_cutout_covers_one_square_cut_off_at_the_border():
    images = jnp.ones((400, SIDE, SIDE, 3))
    cut = jax.jit(mixing.random_cutout, static_argnames="size")(KEY, images, size=4)
    holes = np.asarray(cut == 0)[..., 0]
    sizes = holes.sum((1, 2))
    assert set(np.unique(sizes)) <= {a * b for a in (2, 3, 4) for b in (2, 3, 4)}
    assert sizes.max() == 16 and sizes.min() == 4
    assert np.array_equal(mixing.random_cutout(KEY, images, size=0), images)


def test_padded_crops_are_shifts_of_every_size():
    place = jnp.zeros((500, SIDE, SIDE, 1), jnp.uint8).at[:, 4, 4].set(200)
    crop = jax.jit(mixing.padded_crop, static_argnames="padding")
    moved = np.asarray(crop(KEY, place, padding=2))
    assert moved.shape == place.shape and moved.dtype == np.uint8
    _, rows, columns, _ = np.nonzero(moved)
    assert len(rows) == 500
    assert set(zip(rows, columns)) == {(y, x) for y in range(2, 7) for x in range(2, 7)}


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: mixing.mixup(KEY, IMAGES, LABELS, alpha=0), "alpha must be positive"),
        (lambda: mixing.cutmix(KEY, IMAGES, LABELS, alpha=-1), "alpha must be posit"),
        (lambda: mixing.mixup(KEY, IMAGES, jnp.arange(COUNT)), "make class ids one-h"),
        (
            lambda: mixing.cutmix(KEY, IMAGES.astype("u1"), LABELS),
            "images must be floating, got uint8; divide by 255 first",
        ),
        (
            lambda: mixing.mixup(KEY, IMAGES.astype("u1"), LABELS),
            "images must be floating, got uint8; divide by 255 first",
        ),
        (lambda: mixing.random_cutout(KEY, IMAGES, size=-1), "size must be a number"),
        (lambda: mixing.random_cutout(KEY, IMAGES, size=0.25), "number of pixels"),
        (lambda: mixing.padded_crop(KEY, IMAGES, padding=-1), "padding must be at"),
    ],
)
def test_bad_input_is_refused(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
