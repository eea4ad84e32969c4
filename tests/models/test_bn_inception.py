"""BN-Inception, its branches and auxiliary classifiers: shapes, widths, colours."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.models import branches, embedder, layers
from jaxfaces.models.bn_inception import BNInception


def shapes(module, side, method=None):
    """Outputs and variables of two images of a side, as shapes."""

    def run():
        images = jnp.zeros((2, side, side, 3))
        return module.init_with_output(
            jax.random.key(0), images, train=False, method=method
        )

    return jax.eval_shape(run)


def filled(module, images):
    """Variables without running `init`, which would have to compile."""
    rng = np.random.default_rng(0)
    shaped = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, train=False), images
    )
    return jax.tree.map(
        lambda x: rng.uniform(0.1, 1.0, x.shape).astype(np.float32), shaped
    )


@pytest.mark.parametrize("side", [224, 227])
def test_the_stages_are_those_of_the_table(side):
    module = BNInception()
    maps, variables = shapes(module, side, "maps")
    expected = [(2, 14, 14, 576), (2, 7, 7, 1024), (2, 7, 7, 1024)]
    assert [x.shape for x in maps] == expected
    features, _ = shapes(module, side)
    chex.assert_shape(features, (2, 1024))
    widths = {
        name: sum(
            inner[path]["kernel"].shape[-1]
            for path in ("1x1", "3x3", "double_3x3_2", "pool_proj")
            if path in inner
        )
        for name, inner in variables["params"].items()
        if name.startswith("inception")
    }
    # The strided modules pass their input on: 256 + 320, 448 + 576.
    expected = [256, 320, 256, 576, 576, 576, 576, 448, 1024, 1024]
    assert list(widths.values()) == expected
    leaves = jax.tree_util.tree_leaves_with_path(variables["params"])
    biased = {path[-2].key for path, _ in leaves if path[-1].key == "bias"}
    assert all(name.endswith("_bn") for name in biased)


def test_weights_ported_to_torch_have_wider_projections():
    # 11,295,240 as published there, less the classifier and the biases.
    _, variables = shapes(embedder.make_backbone("bn_inception_torch"), 224)
    params = variables["params"]
    biases = sum(x.size for x in jax.tree.leaves(params) if x.ndim == 1) // 2
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count + biases == 11_295_240 - 1_025_000


@pytest.mark.parametrize("side", [200, 72])
def test_sides_that_cannot_be_halved_alike_are_refused(side):
    with pytest.raises(ValueError, match=f"images of {side} pixels a side"):
        shapes(BNInception(width=4), side)


@pytest.mark.parametrize("name", ["bn_inception", "small", "resnet18"])
def test_any_backbone_carries_branches(name):
    module = embedder.make(name, size=6, dtype="float32", levels=("L", "M", "H"))
    out, variables = shapes(module, 64)
    chex.assert_shape(out, (2, 18))
    params = variables["params"]
    for level in ("L", "M"):
        block = params[level]["block"]
        assert block["conv"]["kernel"].shape[-1] == 128
        assert block["fc"]["kernel"].shape[-1] == 1024
        assert params[level]["head"]["kernel"].shape == (1024, 6)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert sum(branches.in_head(path) for path in paths) == 3


def test_the_branches_at_227_pixels_have_the_sizes_of_the_table():
    module = embedder.make("bn_inception", size=512, dtype="float32", levels="LMH")
    out, variables = shapes(module, 227)
    chex.assert_shape(out, (2, 1536))
    params = variables["params"]
    chex.assert_shape(params["L"]["block"]["conv"]["kernel"], (1, 1, 576, 128))
    chex.assert_shape(params["L"]["block"]["fc"]["kernel"], (4 * 4 * 128, 1024))
    chex.assert_shape(params["M"]["block"]["conv"]["kernel"], (1, 1, 1024, 128))
    chex.assert_shape(params["M"]["block"]["fc"]["kernel"], (2 * 2 * 128, 1024))
    chex.assert_shape(params["head"]["kernel"], (1024, 512))


def test_embeddings_lie_side_by_side_as_high_low_middle():
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))

    def apply(levels, variables):
        module = embedder.make("small", size=5, width=4, dtype="float32", levels=levels)
        return jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)

    module = embedder.make("small", size=5, width=4, dtype="float32", levels="LMH")
    variables = filled(module, images)
    whole = apply("LMH", variables)
    parts = embedder.split(whole, ("M", "L", "H"))
    assert list(parts) == ["H", "L", "M"]
    np.testing.assert_array_equal(np.concatenate(list(parts.values()), 1), whole)
    for level, part in parts.items():
        kept = {"backbone", "head" if level == "H" else level}
        alone = {
            kind: {name: x for name, x in tree.items() if name in kept}
            for kind, tree in variables.items()
        }
        np.testing.assert_allclose(apply((level,), alone), part, rtol=1e-5)


@pytest.mark.parametrize("levels", [(), ("H", "H"), ("S",)])
def test_branches_that_do_not_exist_are_refused(levels):
    with pytest.raises(ValueError, match="branches are some of H, L, M"):
        embedder.make("small", size=4, dtype="float32", levels=levels)


class SupervisedTest(chex.TestCase):
    @chex.variants(with_jit=True)
    def test_it_gives_the_middle_features_and_three_logits(self):
        backbone = embedder.make_backbone("small", width=4)
        module = branches.DeeplySupervised(backbone, 7, reduced=4, hidden=12)
        images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
        variables = filled(module, images)
        found = self.variant(lambda v, x: module.apply(v, x, train=False))(
            variables, images
        )
        chex.assert_shape(found.embedding, (2, 12))
        assert [x.shape for x in found.logits] == [(2, 7)] * 3
        chex.assert_tree_all_finite(found)
        layer = variables["params"]["classifier2"]
        logits = found.embedding @ layer["kernel"] + layer["bias"][None]
        np.testing.assert_allclose(found.logits[1], logits, rtol=1e-5)


def test_the_released_auxiliary_network_has_1024_features_on_three_levels():
    backbone = embedder.make_backbone("bn_inception")
    found, variables = shapes(branches.DeeplySupervised(backbone, 100), 224)
    chex.assert_shape(found.embedding, (2, 1024))
    for number in (1, 2, 3):
        layer = variables["params"][f"classifier{number}"]
        chex.assert_shape(layer["kernel"], (1024, 100))
    # The first block sees 3c, pooled to 4 x 4, the second one 4e, pooled to 2 x 2.
    for block, features, pixels in (("aux1", 576, 16), ("aux2", 1024, 4)):
        inside = variables["params"][block]
        chex.assert_shape(inside["conv"]["kernel"], (1, 1, features, 128))
        chex.assert_shape(inside["fc"]["kernel"], (pixels * 128, 1024))


def test_colours_are_taken_as_caffe_or_imagenet_did():
    pixel = np.array([1.0, 0.5, 0.0], np.float32).reshape(1, 1, 1, 3)
    caffe = layers.standardize(jnp.asarray(pixel), "caffe")
    np.testing.assert_allclose(caffe[0, 0, 0], [-104, 127.5 - 117, 255 - 123])
    found = layers.standardize(jnp.asarray(pixel), "imagenet")
    expected = [(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-6)
    for colours in layers.COLOURS:
        grey = layers.standardize(jnp.asarray(pixel[..., :1]), colours)
        np.testing.assert_allclose(grey, 1)
    with pytest.raises(ValueError, match="colours must be one of"):
        layers.standardize(jnp.asarray(pixel), "bgr")


def test_forms_for_a_cpu_are_close():
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    variables = filled(BNInception(width=4), images)
    plain, ours = (BNInception(width=4, cpu_conv=form) for form in ("off", "auto"))
    want = jax.jit(lambda v, x: plain.apply(v, x, train=False))(variables, images)
    found = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_half_precision_stays_inside_the_network():
    half = BNInception(width=4, dtype=jnp.bfloat16)
    maps, variables = shapes(half, 32, "maps")
    assert {x.dtype for x in maps} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert shapes(half, 32)[0].dtype == jnp.float32
