"""The operations against Pillow, their golden values, derivatives and complaints."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pillow_ops import pillow

from augment import image_ops, reference_ops
from augment.magnitude import Magnitude

TABLE = (*image_ops.OPERATIONS, *image_ops.EXTRA_OPERATIONS)
NAMES = [each.name for each in TABLE]
# MD5 of the outputs at level 0.8 without a change of sign, made with Pillow 13.0.0:
# image A[y, x, c] = (7y + 13x + 29c + 3xy) mod 256 and image B = A div 2 + 30, 32 x 32.
GOLDEN = {
    "ShearX": ("e0e49351da56", "50253f6b74e0"),
    "ShearY": ("e381c155ae5e", "984e984c1af4"),
    "TranslateX": ("c3dd99fb61ac", "aa805b54b29e"),
    "TranslateY": ("2fcf75e7e263", "b6249079a094"),
    "Rotate": ("d3bcabdde88a", "d56047a149bc"),
    "AutoContrast": ("4205be19c530", "9d27ea401a85"),
    "Invert": ("7725b34ff82c", "52fdda1e6b9d"),
    "Equalize": ("63f541109991", "d673c21f0c53"),
    "Solarize": ("b603f647348f", "800fd6760b5b"),
    "Posterize": ("2566cb7c4f83", "23d5a4becf06"),
    "Contrast": ("2dc2bdfd227c", "68e5f893a132"),
    "Color": ("1ca44e7f12e8", "d4a84c3abdd8"),
    "Brightness": ("03c5a7ad8e0c", "8d613bd1fe31"),
    "Sharpness": ("15c9ac06d873", "0aa9e42ec281"),
}
# Levels of policies in use; a level at which a shift is half a pixel to the last digit,
# such as 21/32 of 32 pixels, is a matter of float64's rounding and left out.
LEVELS = np.concatenate([np.arange(101) / 100, np.arange(31) / 30, np.arange(10) / 9])


@functools.partial(jax.jit, static_argnames="mode")
def run(index, images, levels, keys, *, mode="reference"):
    """One operation on a batch; every operation in one program."""
    return jax.lax.switch(
        index, [jax.vmap(each.function(mode)) for each in TABLE], images, levels, keys
    )


@functools.partial(jax.jit, static_argnums=(1, 2))
def coins(keys, height, width):
    """What the operations draw: does the sign change, where is a cut-out's centre."""
    flips, inner = jax.vmap(image_ops.coin)(keys)
    draw = functools.partial(reference_ops.random_centre, height=height, width=width)
    return flips, jax.vmap(draw)(inner)


def pictures(count, height, width, channels, seed=0):
    """Noise over the whole range, over narrow ranges, and flat images."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, height, width, channels))
    span = np.where(np.arange(count) % 2, 256, rng.integers(1, 60, count))
    low = rng.integers(0, 257 - span)
    return (low[:, None, None, None] + noise % span[:, None, None, None]).astype("u1")


def value(each, level, flip):
    v = float(level) * (each.high - each.low) + each.low
    return -v if each.mirror == 0 and flip else v


def assert_equal_to_pillow(name, images, levels):
    keys = jax.random.split(jax.random.key(3), len(images))
    index, levels = NAMES.index(name), levels.astype(np.float32)
    flips, centres = map(np.asarray, coins(keys, *images.shape[1:3]))
    results = np.asarray(run(index, images, levels, keys))
    assert results.dtype == np.uint8
    for image, level, flip, centre, result in zip(
        images, levels, flips, centres, results
    ):
        v = value(TABLE[index], level, flip)
        wanted = pillow(name, image, v, centre)
        assert np.array_equal(result, wanted), (level, v, (result != wanted).mean())


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_pillow_at_32_pixels(name):
    rng = np.random.default_rng(NAMES.index(name))
    levels = np.concatenate([LEVELS, rng.random(200 - len(LEVELS))])
    assert_equal_to_pillow(name, pictures(200, 32, 32, 3), levels)


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_pillow_on_oblong_grey_images(name):
    levels = np.random.default_rng(NAMES.index(name)).random(40)
    assert_equal_to_pillow(name, pictures(40, 24, 41, 1), levels)


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_pillow_at_224_pixels(name):
    levels = np.random.default_rng(NAMES.index(name)).random(4)
    assert_equal_to_pillow(name, pictures(4, 224, 224, 3), levels)


def golden_pictures():
    y, x, c = np.ogrid[:32, :32, :3]
    first = ((7 * y + 13 * x + 29 * c + 3 * x * y) % 256).astype(np.uint8)
    return np.stack([first, first // 2 + 30])


def digest(image):
    return hashlib.md5(np.ascontiguousarray(image).tobytes()).hexdigest()[:12]


def test_golden_pictures_are_those_of_the_table():
    assert [digest(each) for each in golden_pictures()] == [
        "aded163787d0",
        "800fd6760b5b",
    ]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name, x64):
    with jax.enable_x64(x64):
        keys = jax.random.split(jax.random.key(3), 200)
        plain = np.flatnonzero(~np.asarray(coins(keys, 32, 32)[0]))[0]
        images = np.repeat(golden_pictures(), 100, axis=0)
        levels = np.full(200, 0.8, np.float32)
        results = run(NAMES.index(name), images, levels, keys[jnp.full(200, plain)])
    assert (digest(results[0]), digest(results[100])) == GOLDEN[name]


@pytest.mark.parametrize("x64", [False, True])
def test_golden_values_of_cutout(x64):
    with jax.enable_x64(x64):
        v = Magnitude(jnp.float32(0.8), 0, 0.2, jnp.bool_(False))
        centre = jnp.array([10.7, 20.2], jnp.float32)
        cut = jax.jit(lambda image: reference_ops.cutout_at(image, v, centre, side=32))
        results = [digest(cut(image)) for image in golden_pictures()]
    assert results == ["ca48927c5b1c", "8de5e2ffb70f"]


def test_one_image_without_vmap_or_jit_is_the_same():
    image, key = pictures(1, 32, 32, 3)[0], jax.random.key(5)
    for name in ("TranslateX", "Contrast"):
        operation = image_ops.operation(name)
        alone = operation(image, 0.3, key)
        assert np.array_equal(alone, jax.jit(operation)(image, 0.3, key))


def test_a_wide_range_of_angles_equals_pillow():
    wide = image_ops.Operation("Rotate", -135, 135, 0, reference_ops.rotate)
    images = pictures(60, 16, 16, 3)
    levels = np.concatenate([np.arange(31) / 30, np.linspace(0, 1, 29)])
    levels[-1] = 1 / 6  # -90 degrees
    keys = jax.random.split(jax.random.key(1), 60)
    flips, _ = coins(keys, 16, 16)
    turn = jax.jit(jax.vmap(wide.function("reference")))
    results = turn(images, levels.astype(np.float32), keys)
    for image, level, flip, result in zip(images, levels, flips, results):
        v = value(wide, np.float32(level), flip)
        assert np.array_equal(result, pillow("Rotate", image, v)), v


def test_auto_contrast_for_every_lowest_and_highest_value():
    low, high = np.triu_indices(256, 1)
    shades = np.arange(256)[None]
    images = np.clip(shades, low[:, None], high[:, None]).astype(np.uint8)
    pick = np.random.default_rng(0).choice(len(low), 4000, replace=False)
    images = images[pick].reshape(-1, 16, 16, 1)
    stretch = jax.jit(
        jax.vmap(image_ops.operation("AutoContrast").function("reference"))
    )
    keys = jax.random.split(jax.random.key(0), len(images))
    results = np.asarray(stretch(images, np.zeros(len(images), np.float32), keys))
    for image, result in zip(images, results):
        assert np.array_equal(result, pillow("AutoContrast", image, 0))


def soft_images(count=1, side=6, channels=3):
    """Smooth pictures without equal values, off every kink."""
    rng = np.random.default_rng(2)
    return jnp.asarray(rng.uniform(0.2, 0.7, (count, side, side, channels)), "float32")


@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "Rotate"])
def test_smooth_warps_agree_with_pillow_where_the_picture_is_smooth(name):
    y, x = np.mgrid[:32, :32]
    ramp = (60 + 2 * x + 3 * y).astype(np.uint8)[..., None]
    key = jax.random.key(0)
    exact = image_ops.operation(name)(ramp, 0.7, key).astype(float)
    soft = image_ops.operation(name)(ramp / np.float32(255), 0.7, key, mode="smooth")
    inside = np.asarray(exact[4:-4, 4:-4] > 0) & (np.asarray(soft[4:-4, 4:-4]) > 0.2)
    apart = np.abs(np.asarray(exact) - 255 * np.asarray(soft))[4:-4, 4:-4]
    assert inside.mean() > 0.5
    assert apart[inside].max() <= 2.5 + 0.1  # half a pixel of the ramp


def smooth_and_drawn(name, images, levels):
    """Smooth results in 0 … 255, and the value and the centre of each."""
    each = image_ops.operation(name)
    keys = jax.random.split(jax.random.key(3), len(images))
    flips, centres = map(np.asarray, coins(keys, *images.shape[1:3]))
    change = jax.jit(jax.vmap(each.function("smooth")))
    results = 255 * np.asarray(change(images / np.float32(255), levels, keys))
    return results, [value(each, *drawn) for drawn in zip(levels, flips)], centres


@pytest.mark.parametrize(
    "name", ["TranslateX", "TranslateY", "TranslateXAbs", "TranslateYAbs"]
)
def test_smooth_shifts_by_whole_pixels_are_those_of_pillow(name):
    bins = 10 if name.endswith("Abs") else 18  # v, 20 v and 40 v are whole at each
    levels = (np.arange(bins + 1) / bins).astype(np.float32)
    images = pictures(len(levels), 20, 40, 3)
    results, values, _ = smooth_and_drawn(name, images, levels)
    assert len({round(v, 3) for v in values}) > bins // 2
    for image, v, result in zip(images, values, results):
        np.testing.assert_allclose(result, pillow(name, image, v), atol=0.01)


def covered(first, size, length):
    """Share of each of `length` pixels in a row that lies in first … first + size."""
    shares = []
    for pixel in range(length):
        end = min(pixel + 1, first + size)
        shares.append(min(max(end - max(pixel, first), 0), 1))
    return np.array(shares)


@pytest.mark.parametrize("name", ["Cutout", "CutoutAbs"])
def test_smooth_cutouts_cover_their_square_and_pillows_those_pixels(name):
    levels = np.random.default_rng(0).uniform(0.05, 1, 40).astype(np.float32)
    images = pictures(40, 24, 41, 3)
    results, values, centres = smooth_and_drawn(name, images, levels)
    for image, v, (x, y), result in zip(images, values, centres.astype(float), results):
        size = 41 * v if name == "Cutout" else v
        down = covered(max(y - size / 2, 0), size, 24)
        across = covered(max(x - size / 2, 0), size, 41)
        share = np.outer(down, across)[..., None]
        wanted = image + share * (np.array([125, 123, 114]) - image)
        np.testing.assert_allclose(result, wanted, atol=0.01)
        # Pillow takes pixels whole: those covered whole, and of the others only some.
        black = pillow(name, np.zeros_like(image), v, (x, y)) == 0
        assert not black[(share == 1)[..., 0]].any() and black[share[..., 0] == 0].all()


@pytest.mark.parametrize(
    "name",
    ["Invert", "AutoContrast", "Solarize", "Posterize", "Equalize", "Contrast"]
    + ["Color", "Brightness", "Sharpness"],
)
def test_smooth_values_are_the_exact_ones_without_rounding(name):
    images = pictures(2, 16, 16, 3)
    keys = jax.random.split(jax.random.key(0), 2)
    levels, index = jnp.array([0.4, 0.3]), NAMES.index(name)
    exact = np.asarray(run(index, images, levels, keys)).astype(float)
    soft = run(index, images / np.float32(255), levels, keys, mode="smooth")
    assert (
        np.abs(255 * np.asarray(soft) - exact).max() < 1.6
    )  # truncation, a rounded grey


DIFFERENTIABLE = [
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Contrast",
    "Color",
    "Brightness",
    "Sharpness",
    "Cutout",
    "CutoutAbs",
    "TranslateXAbs",
    "TranslateYAbs",
]


@jax.jit
def derivatives(index, level, images, direction):
    """Value, reverse and forward derivatives of a weighted sum of the pixels."""
    keys = jax.random.split(jax.random.key(2), 1)

    def total(level, images):
        result = run(index, images, level[None], keys, mode="smooth")
        return jnp.sum(WEIGHTS * result)

    value, slopes = jax.value_and_grad(total, (0, 1))(level, images)
    return value, slopes, jax.jvp(total, (level, images), direction)[1]


WEIGHTS = np.random.default_rng(0).random((1, 6, 6, 3), np.float32)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_smooth_mode_has_true_derivatives_in_level_and_image(name):
    index, images = NAMES.index(name), soft_images()
    level = jnp.float32(0.18 if name.endswith("Abs") else 0.613)
    towards = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    direction = (jnp.float32(0.5), jnp.asarray(towards))
    _, slopes, forward = derivatives(index, level, images, direction)
    step = 2e-3
    ends = [
        derivatives(index, level + t * 0.5, images + t * towards, direction)[0]
        for t in (-step, step)
    ]
    both = slopes[0] * 0.5 + jnp.sum(slopes[1] * towards)
    np.testing.assert_allclose(both, forward, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        forward, (ends[1] - ends[0]) / (2 * step), rtol=1e-2, atol=2e-2
    )
    assert slopes[0] != 0


def test_gradients_are_finite_on_flat_images():
    flat = jnp.full((1, 6, 6, 3), 0.5)
    for index in range(len(TABLE)):
        for level in (0.0, 0.5, 1.0):
            level = jnp.float32(level)
            result = derivatives(index, level, flat, (level, flat))
            assert all(np.isfinite(each).all() for each in jax.tree.leaves(result))


def test_an_operation_of_ones_own():
    def darken(image, v, key):
        return (image * v.nearest).astype(image.dtype)

    own = image_ops.Operation("Darken", 1, 0, None, darken)
    image = np.full((3, 3, 1), 200, np.uint8)
    assert own(image, 0.5, jax.random.key(0)).tolist() == [[[100]] * 3] * 3
    with pytest.raises(ValueError, match="'Darken' has no smooth mode"):
        own(image, 0.5, jax.random.key(0), mode="smooth")


IMAGE = np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "level", "mode", "complaint"),
    [
        (IMAGE / np.float32(1), 0.5, "reference", "takes uint8 images, got float32"),
        (IMAGE, 0.5, "smooth", "takes floating images .* got uint8"),
        (IMAGE + np.float32(2), 0.5, "smooth", r"must lie in \[0, 1\], got 2 to 2"),
        (IMAGE[..., :2], 0.5, "reference", r"1 or 3 channels.* got shape \(4, 4, 2\)"),
        (IMAGE[None], 0.5, "reference", r"\(H, W, C\)"),
        (IMAGE[:2], 0.5, "reference", "3 pixels or more a side"),
        (IMAGE, 1.5, "reference", r"levels must lie in \[0, 1\], got 1.5 to 1.5"),
        (IMAGE, float("nan"), "reference", r"levels must lie in \[0, 1\]"),
        (IMAGE, 0.5, "exact", "mode must be 'reference' or 'smooth', got 'exact'"),
        (IMAGE.tolist(), 0.5, "reference", "an array .* got list; take np.asarray"),
        (IMAGE, [0.5, 0.5], "reference", r"one number, got shape \(2,\); .* jax.vmap"),
        (IMAGE, jnp.ones(2), "reference", r"one number, got shape \(2,\); .* jax.vmap"),
    ],
)
def test_bad_input_is_refused(image, level, mode, complaint):
    with pytest.raises(ValueError, match=complaint):
        image_ops.operation("Invert")(image, level, jax.random.key(0), mode=mode)


@pytest.mark.parametrize(
    ("low", "high", "mirror", "got"),
    [
        (0, 1e6, None, "low=0, high=1000000.0"),
        (-40_000, 0, None, "low=-40000"),
        (0, 20_000, 20_000, "high=20000, mirror=20000"),
        (0, float("inf"), None, "high=inf"),
        (float("nan"), 1, None, "low=nan"),
        (0, 1, float("nan"), "mirror=nan"),
        ("0", 1, None, "low='0'"),
    ],
)
def test_a_range_that_overflows_is_refused(low, high, mirror, got):
    with pytest.raises(ValueError, match=f"range of Mine must be finite.*{got}.*scale"):
        image_ops.Operation("Mine", low, high, mirror, reference_ops.identity)


@pytest.mark.parametrize(("low", "high"), [(0, 32_767), (32_767, -32_767)])
def test_strengths_of_the_widest_range_are_right(low, high):
    image_ops.Operation("Mine", low, high, 0, reference_ops.identity)
    for level in (0, 0.25, 0.9, 1):
        for flip in (False, True):
            v = Magnitude(jnp.float32(level), low, high, jnp.bool_(flip))
            wanted = low + float(np.float32(level)) * (high - low)
            wanted = -wanted if flip else wanted
            np.testing.assert_allclose(v.nearest, wanted, rtol=2e-7)
            assert v.fixed[0] == np.floor(wanted + 2**-40)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="'Swirl'; there are ShearX, .*TranslateYAbs"):
        image_ops.operation("Swirl")
