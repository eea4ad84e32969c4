"""Geometric augmentations against float64 loops, slices and np.rot90."""

import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import augment
from augment import geometric

KEY = jax.random.key(7)
# Eager functions compile every operation for every shape: only the variants do that.
AFFINE = jax.jit(geometric.affine)
MATRICES = jax.jit(geometric.affine_matrices)
RESIZED_CROP = jax.jit(geometric.resized_crop, static_argnames="size")
RANDOM_RESIZED_CROP = jax.jit(
    geometric.random_resized_crop, static_argnames=("size", "scale", "aspect")
)
IDENTITY = np.eye(2, 3, dtype=np.float32)
RANDOM_FUNCTIONS = {
    "flip": geometric.random_flip,
    "crop": functools.partial(geometric.random_crop, size=(4, 5)),
    "resized_crop": functools.partial(geometric.random_resized_crop, size=6),
    "affine": functools.partial(
        geometric.random_affine,
        rotation=30.0,
        scale=0.2,
        shear=0.2,
        translation=2.0,
        fill=0.5,
    ),
}


def _images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _matrices(count, seed=0):
    noise = np.random.default_rng(seed).normal(0, 0.3, (count, 2, 3))
    return (IDENTITY[None] + noise * np.array([1, 1, 6])).astype(np.float32)


def _lookup(image, x, y, fill):
    """Bilinear value at (x, y), float64; pixels outside the image are `fill`."""
    height, width, channels = image.shape
    value = np.zeros(channels)
    left, top = int(np.floor(x)), int(np.floor(y))
    for row, col in [
        (top, left),
        (top, left + 1),
        (top + 1, left),
        (top + 1, left + 1),
    ]:
        weight = (1 - abs(x - col)) * (1 - abs(y - row))
        inside = 0 <= row < height and 0 <= col < width
        value += weight * (image[row, col] if inside else fill)
    return value


def _affine_by_loop(images, matrices, fill):
    out = np.zeros(images.shape)
    _, height, width, _ = images.shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    for b, row, col in np.ndindex(*images.shape[:3]):
        position = np.array([*(np.array([col, row]) - centre), 1.0])
        x, y = matrices[b].astype(np.float64) @ position + centre
        out[b, row, col] = _lookup(images[b].astype(np.float64), x, y, fill)
    return out


def _resize_by_loop(images, boxes, height, width):
    out = np.zeros((len(images), height, width, images.shape[3]))
    for b, row, col in np.ndindex(*out.shape[:3]):
        left, top, box_width, box_height = boxes[b].astype(np.float64)
        x = left + box_width * (col + 0.5) / width - 0.5
        y = top + box_height * (row + 0.5) / height - 0.5
        x = min(max(x, 0), images.shape[2] - 1)
        y = min(max(y, 0), images.shape[1] - 1)
        out[b, row, col] = _lookup(images[b].astype(np.float64), x, y, 0.0)
    return out


def _is_window(window, image):
    views = np.lib.stride_tricks.sliding_window_view(image, window.shape)
    return bool((views == window).all(axis=(-1, -2, -3)).any())


class AffineTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_value_by_loop(self):
        images, matrices, fill = _images(4, 6, 9, 3), _matrices(4), 0.25
        got = self.variant(functools.partial(geometric.affine, fill=fill))(
            images, matrices
        )
        np.testing.assert_allclose(
            got, _affine_by_loop(images, matrices, fill), atol=2e-5
        )

    @parameterized.parameters(((5, 8),), ((1, 1),), ((32, 32),))
    def test_identity_matrices_change_nothing(self, size):
        images = _images(2, *size, 2)
        got = AFFINE(images, np.stack([IDENTITY] * 2))
        np.testing.assert_array_equal(got, images)

    @chex.all_variants(with_pmap=False)
    def test_quarter_turns_equal_rot90(self):
        turns = np.array([1, 2, 3, -1])
        images = _images(4, 7, 7, 3)
        matrices = self.variant(geometric.affine_matrices)(
            rotation=jnp.asarray(90.0 * turns),
            log_scale=jnp.zeros((4, 2)),
            shear=jnp.zeros(4),
            translation=jnp.zeros((4, 2)),
        )
        got = AFFINE(images, matrices, fill=images.mean())
        want = [np.rot90(image, k) for image, k in zip(images, turns)]
        np.testing.assert_allclose(got, np.stack(want), atol=1e-5)

    def test_translation_moves_the_picture_right_and_down(self):
        images = _images(1, 6, 6, 1)
        matrices = MATRICES(
            rotation=jnp.zeros(1),
            log_scale=jnp.zeros((1, 2)),
            shear=jnp.zeros(1),
            translation=jnp.array([[2.0, 1.0]]),
        )
        got = AFFINE(images, matrices, fill=0.5)
        np.testing.assert_allclose(got[:, 1:, 2:], images[:, :-1, :-2], atol=1e-6)
        np.testing.assert_array_equal(got[:, 0], np.full((1, 6, 1), 0.5, np.float32))
        np.testing.assert_array_equal(got[:, :, :2], np.full((1, 6, 2, 1), 0.5))

    def test_shear_moves_rows_right_by_their_depth(self):
        images = _images(1, 5, 9, 1)
        matrices = MATRICES(
            rotation=jnp.zeros(1),
            log_scale=jnp.zeros((1, 2)),
            shear=jnp.ones(1),
            translation=jnp.zeros((1, 2)),
        )
        got = np.asarray(AFFINE(images, matrices))
        np.testing.assert_allclose(got[0, 4, 2:], images[0, 4, :-2], atol=1e-6)
        np.testing.assert_allclose(got[0, 0, :-2], images[0, 0, 2:], atol=1e-6)

    def test_matrices_invert_the_stated_motion(self):
        rng = np.random.default_rng(3)
        angle, shear = rng.normal(0, 40, 5), rng.normal(0, 0.5, 5)
        log_scale, shift = rng.normal(0, 0.4, (5, 2)), rng.normal(0, 3, (5, 2))
        got = MATRICES(
            rotation=jnp.asarray(angle, jnp.float32),
            log_scale=jnp.asarray(log_scale, jnp.float32),
            shear=jnp.asarray(shear, jnp.float32),
            translation=jnp.asarray(shift, jnp.float32),
        )
        for b in range(5):
            c, s = np.cos(np.deg2rad(angle[b])), np.sin(np.deg2rad(angle[b]))
            forward = np.array([[c, s], [-s, c]]) @ np.array([[1, shear[b]], [0, 1]])
            inverse = np.linalg.inv(forward @ np.diag(np.exp(log_scale[b])))
            want = np.concatenate([inverse, -inverse @ shift[b][:, None]], axis=1)
            np.testing.assert_allclose(got[b], want, atol=1e-5)

    def test_far_outside_is_fill(self):
        matrices = np.stack([IDENTITY, IDENTITY])
        matrices[0, 0, 2], matrices[1, 1, 2] = 1e9, -1e30
        got = AFFINE(_images(2, 4, 4, 1), matrices, fill=0.75)
        np.testing.assert_array_equal(got, np.full((2, 4, 4, 1), 0.75, np.float32))

    def test_nan_matrix_is_seen_and_stays_in_its_image(self):
        matrices = np.stack([IDENTITY, IDENTITY])
        matrices[0, 0, 0] = np.nan
        images = _images(2, 4, 4, 1)
        got = np.asarray(AFFINE(images, matrices))
        self.assertTrue(np.isnan(got[0]).any())
        np.testing.assert_array_equal(got[1], images[1])

    def test_gradients_match_finite_differences(self):
        images = jnp.asarray(_images(2, 4, 5, 2))
        matrices = jnp.asarray(_matrices(2, seed=4))
        weights = _images(2, 4, 5, 2, seed=1)

        def loss(images, matrices, fill):
            out = AFFINE(images, matrices, fill=fill)
            return jnp.sum(weights * jnp.square(out))

        # Values have kinks at whole positions, which differences must not cross.
        corners = np.stack(np.meshgrid(np.arange(5) - 2, np.arange(4) - 1.5, [1.0]), -1)
        positions = np.einsum("brc,ijkc->bijkr", matrices, corners)
        positions += np.array([2, 1.5])
        self.assertGreater(np.abs(positions - np.rint(positions)).min(), 3e-3)
        chex.assert_numerical_grads(
            jax.jit(loss),
            (images, matrices, jnp.array(0.3)),
            order=1,
            eps=5e-4,
            atol=1e-2,
        )

    def test_image_gradient_is_the_transpose_of_the_map(self):
        images, other = _images(2, 5, 6, 1), _images(2, 5, 6, 1, seed=1)
        warp = functools.partial(AFFINE, matrices=_matrices(2))
        out, pull = jax.vjp(warp, images)
        np.testing.assert_allclose(
            jnp.sum(out * other), jnp.sum(images * pull(other)[0]), rtol=1e-5
        )

    @parameterized.parameters(jnp.float16, jnp.bfloat16, jnp.float32)
    def test_dtype_is_kept(self, dtype):
        images = jnp.asarray(_images(1, 3, 3, 1), dtype)
        got = AFFINE(images, IDENTITY[None])
        self.assertEqual(got.dtype, dtype)
        np.testing.assert_array_equal(got, images)

    def test_wrong_arguments_are_refused(self):
        images = _images(2, 4, 4, 1)
        with self.assertRaises(AssertionError):
            AFFINE(images, np.stack([IDENTITY] * 3))
        with self.assertRaises(AssertionError):
            AFFINE(images[0], np.stack([IDENTITY] * 2))
        with self.assertRaisesRegex(ValueError, "must be floating, got uint8"):
            AFFINE((255 * images).astype(np.uint8), _matrices(2))
        with self.assertRaisesRegex(ValueError, "probability must lie in"):
            geometric.random_flip(KEY, images, probability=2)


class ResizedCropTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_value_by_loop(self):
        images = _images(3, 8, 6, 2)
        boxes = np.array([[0, 0, 6, 8], [1.3, 2.1, 3.7, 4.4], [5, 0, 1, 1]], np.float32)
        got = self.variant(functools.partial(geometric.resized_crop, size=(5, 7)))(
            images, boxes
        )
        np.testing.assert_allclose(got, _resize_by_loop(images, boxes, 5, 7), atol=1e-5)

    def test_whole_image_at_its_size_changes_nothing(self):
        images = _images(2, 5, 7, 3)
        boxes = np.array([[0, 0, 7, 5]] * 2, np.float32)
        got = RESIZED_CROP(images, boxes, size=(5, 7))
        np.testing.assert_allclose(got, images, atol=1e-6)

    def test_box_on_the_grid_equals_a_slice(self):
        images = _images(1, 9, 9, 1)
        boxes = np.array([[2, 3, 4, 5]], np.float32)
        got = RESIZED_CROP(images, boxes, size=(5, 4))
        np.testing.assert_allclose(got, images[:, 3:8, 2:6], atol=1e-6)

    @chex.all_variants(with_pmap=False)
    def test_random_crop_of_a_flat_image_is_flat(self):
        images = np.full((3, 6, 6, 1), 0.375, np.float32)
        crop = functools.partial(geometric.random_resized_crop, size=4)
        got = self.variant(crop)(KEY, images)
        np.testing.assert_allclose(got, np.full((3, 4, 4, 1), 0.375), atol=1e-6)

    @parameterized.parameters(((12, 12),), ((8, 20),), ((1, 1),))
    def test_random_windows_stay_inside(self, shape):
        height, width = shape
        rows, cols = np.mgrid[:height, :width].astype(np.float32)
        images = np.tile(np.stack([cols, rows], -1)[None], (300, 1, 1, 1))
        got = np.asarray(RANDOM_RESIZED_CROP(KEY, images, size=9))
        # Along a row the result shows x = left + w (i + 1/2) / 9 - 1/2, clamped.
        self.assertGreaterEqual(got.min(), 0)
        self.assertLessEqual(got[..., 0].max(), width - 1)
        self.assertLessEqual(got[..., 1].max(), height - 1)
        steps = got[:, 4, 5] - got[:, 4, 4]
        self.assertLessEqual(steps[:, 0].max(), width / 9 + 1e-4)
        self.assertTrue((np.diff(got[..., 0], axis=2) >= -1e-4).all())

    def test_random_area_and_aspect_fill_their_ranges(self):
        rows, cols = np.mgrid[:64, :64].astype(np.float32)
        images = np.tile(np.stack([cols, rows], -1)[None], (2000, 1, 1, 1))
        got = np.asarray(
            RANDOM_RESIZED_CROP(
                KEY, images, size=4, scale=(0.2, 0.5), aspect=(0.5, 2.0)
            )
        )
        width = 4 * (got[:, 1, 2, 0] - got[:, 1, 1, 0])
        height = 4 * (got[:, 2, 1, 1] - got[:, 1, 1, 1])
        share, aspect = width * height / 64**2, width / height
        np.testing.assert_allclose([share.min(), share.max()], [0.2, 0.5], atol=0.01)
        np.testing.assert_allclose([aspect.min(), aspect.max()], [0.5, 2.0], atol=0.02)
        np.testing.assert_allclose(
            [share.mean(), aspect.mean()], [0.35, 1.25], atol=0.03
        )

    def test_box_gradient_matches_finite_differences(self):
        images = jnp.asarray(_images(1, 6, 6, 1))
        boxes = jnp.array([[1.1, 0.83, 3.37, 3.71]])

        def loss(boxes):
            return jnp.sum(RESIZED_CROP(images, boxes, size=3) ** 2)

        chex.assert_numerical_grads(
            jax.jit(loss), (boxes,), order=1, eps=1e-3, atol=1e-2
        )

    @parameterized.parameters(
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 1.5)},
        {"scale": (0.9, 0.5)},
        {"aspect": (-1.0, 1.0)},
        {"size": 0},
    )
    def test_wrong_ranges_are_refused(self, **wrong):
        with self.assertRaises(ValueError):
            RANDOM_RESIZED_CROP(KEY, _images(1, 4, 4, 1), **{"size": 4, **wrong})


class FlipAndCropTest(chex.TestCase):
    @chex.all_variants(with_pmap=False)
    def test_each_image_is_kept_or_mirrored(self):
        images = _images(64, 3, 5, 2)
        got = np.asarray(self.variant(geometric.random_flip)(KEY, images))
        kept = (got == images).all(axis=(1, 2, 3))
        mirrored = (got == images[:, :, ::-1]).all(axis=(1, 2, 3))
        self.assertTrue((kept ^ mirrored).all())
        self.assertBetween(mirrored.mean(), 0.25, 0.75)

    def test_flip_twice_changes_nothing(self):
        images = _images(16, 4, 5, 3)
        flip = jax.jit(geometric.random_flip)
        twice = flip(KEY, flip(KEY, images))
        np.testing.assert_array_equal(twice, images)

    @parameterized.parameters((0.0, 1), (1.0, -1))
    def test_flip_with_certainty(self, probability, step):
        images = _images(8, 3, 4, 1)
        flip = jax.jit(geometric.random_flip)
        got = flip(KEY, images, probability=probability)
        np.testing.assert_array_equal(got, images[:, :, ::step])

    @chex.all_variants(with_pmap=False)
    def test_random_crops_are_slices(self):
        images = _images(40, 7, 6, 2)
        crop = functools.partial(geometric.random_crop, size=(5, 3))
        got = np.asarray(self.variant(crop)(KEY, images))
        self.assertEqual(got.shape, (40, 5, 3, 2))
        self.assertTrue(all(_is_window(w, i) for w, i in zip(got, images)))

    def test_random_crop_reaches_every_position(self):
        images = np.tile(
            np.arange(12, dtype=np.float32).reshape(1, 3, 4, 1), (400,) + (1,) * 3
        )
        corners = np.asarray(geometric.random_crop(KEY, images, size=2))[:, 0, 0, 0]
        self.assertEqual(set(corners.tolist()), {0, 1, 2, 4, 5, 6})

    @chex.all_variants(with_pmap=False)
    def test_centre_crop_is_the_middle_slice(self):
        images = _images(2, 7, 8, 1)
        crop = self.variant(functools.partial(geometric.centre_crop, size=(4, 4)))
        np.testing.assert_array_equal(crop(images), images[:, 1:5, 2:6])

    def test_crop_at_full_size_changes_nothing(self):
        images = _images(2, 5, 5, 1)
        np.testing.assert_array_equal(
            geometric.random_crop(KEY, images, size=5), images
        )
        np.testing.assert_array_equal(geometric.centre_crop(images, size=5), images)

    def test_integer_images_pass(self):
        images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1)
        for out in (
            geometric.random_flip(KEY, images),
            geometric.random_crop(KEY, images, size=3),
            geometric.centre_crop(images, size=3),
        ):
            self.assertEqual(out.dtype, jnp.uint8)

    @parameterized.parameters(6, (5, 6), (6, 5), 0)
    def test_wrong_sizes_are_refused(self, *size):
        size = size if len(size) > 1 else size[0]
        with self.assertRaises(ValueError):
            geometric.centre_crop(_images(1, 5, 5, 1), size=size)
        with self.assertRaises(ValueError):
            geometric.random_crop(KEY, _images(1, 5, 5, 1), size=size)


class RandomnessTest(chex.TestCase):
    @parameterized.named_parameters(*RANDOM_FUNCTIONS.items())
    def test_key_decides_and_images_differ(self, function):
        images = np.repeat(_images(1, 8, 8, 2), 24, axis=0)
        function = jax.jit(function)
        first = np.asarray(function(KEY, images))
        np.testing.assert_array_equal(first, function(KEY, images))
        self.assertTrue(
            (first != np.asarray(function(jax.random.key(8), images))).any()
        )
        self.assertTrue((first != first[:1]).any())

    @parameterized.named_parameters(*RANDOM_FUNCTIONS.items())
    def test_an_image_does_not_touch_its_neighbours(self, function):
        images = _images(6, 8, 8, 1)
        function = jax.jit(function)
        before = np.asarray(function(KEY, images))
        images[2] = 0.0
        after = np.asarray(function(KEY, images))
        others = [0, 1, 3, 4, 5]
        np.testing.assert_array_equal(before[others], after[others])
        self.assertTrue((before[2] != after[2]).any())

    def test_deterministic_functions_split_the_batch(self):
        images, matrices = _images(6, 7, 7, 1), _matrices(6)
        whole = AFFINE(images, matrices)
        parts = [AFFINE(images[i:j], matrices[i:j]) for i, j in [(0, 3), (3, 6)]]
        np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-6)
        boxes = _images(6, 4, seed=2) * 3 + 1
        whole = RESIZED_CROP(images, boxes, size=4)
        parts = [
            RESIZED_CROP(images[i:j], boxes[i:j], size=4) for i, j in [(0, 3), (3, 6)]
        ]
        np.testing.assert_allclose(whole, np.concatenate(parts), atol=1e-6)

    @chex.all_variants(with_pmap=False)
    def test_affine_without_bounds_changes_nothing(self):
        images = _images(5, 8, 9, 3)
        got = self.variant(geometric.random_affine)(KEY, images)
        np.testing.assert_allclose(got, images, atol=1e-6)

    def test_affine_bounds_have_gradients(self):
        images = _images(4, 8, 8, 1)
        bounds = {"rotation": 10.0, "scale": 0.1, "shear": 0.1, "translation": 1.0}

        def loss(bounds):
            return jnp.mean(geometric.random_affine(KEY, images, **bounds) ** 2)

        gradients = jax.jit(jax.grad(loss))(bounds)
        chex.assert_tree_all_finite(gradients)
        self.assertTrue(all(abs(g) > 0 for g in gradients.values()))


class PackageTest(chex.TestCase):
    def test_public_names_resolve(self):
        for name in augment.__all__:
            self.assertIsNotNone(getattr(augment, name), name)
            self.assertIn(name, dir(augment))
        with self.assertRaises(AttributeError):
            augment.missing  # noqa: B018

    def test_import_stays_light(self):
        code = "import augment, sys; assert 'jax' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True)
