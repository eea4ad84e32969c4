"""Residual networks and embedders: shapes, sizes, types, statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.engine import net
from jaxfaces.models import embedder, resnet


def parameters(module, shape):
    variables = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros(shape), train=False)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("make", "features", "count"),
    # The published counts without the classifier: 11,689,512 - 513,000 and
    # 25,557,032 - 2,049,000.
    [(resnet.resnet18, 512, 11_176_512), (resnet.resnet50, 2048, 23_508_032)],
)
def test_the_published_networks_have_their_number_of_parameters(make, features, count):
    module = make()
    assert parameters(module, (1, 224, 224, 3)) == count
    out = jax.eval_shape(
        lambda: module.init_with_output(
            jax.random.key(0), jnp.zeros((2, 224, 224, 3)), train=False
        )[0]
    )
    chex.assert_shape(out, (2, features))


def stage_shapes(module, size):
    """Side of the feature map after each block."""
    x = jnp.zeros((1, size, size, 3))

    def run():
        variables = module.init(jax.random.key(0), x, train=False)
        return module.apply(variables, x, train=False, capture_intermediates=True)[1]

    outs = jax.eval_shape(run)["intermediates"]
    blocks = sorted(name for name in outs if "Block" in name)
    return [outs[name]["__call__"][0].shape[1] for name in blocks]


@pytest.mark.parametrize(
    ("stem", "expected"),
    [("large", [8, 4, 2]), ("strided", [16, 8, 4]), ("plain", [32, 16, 8])],
)
def test_stems_set_the_resolution_of_the_stages(stem, expected):
    module = resnet.ResNet((1, 1, 1), width=4, stem=stem)
    assert stage_shapes(module, 32) == expected


class EmbedderTest(chex.TestCase):
    def setUp(self):
        super().setUp()
        self.images = jax.random.uniform(jax.random.key(1), (4, 16, 16, 1))

    @chex.all_variants(with_pmap=False)
    def test_embeddings_have_shape_type_and_depend_on_the_image(self):
        for dtype in ("float32", "bfloat16"):
            module = embedder.make(
                "small", size=6, width=4, pool="flatten", dtype=dtype
            )
            network = net.from_linen(module)
            params, rest = network.init(jax.random.key(0), self.images)
            apply = self.variant(
                lambda p, r, x, f=network: f.apply(p, r, x, train=False)
            )
            out, same = apply(params, rest, self.images)
            chex.assert_shape(out, (4, 6))
            chex.assert_type(out, jnp.float32)
            chex.assert_trees_all_equal(same, rest)
            chex.assert_tree_all_finite(out)
            self.assertGreater(float(jnp.std(out, axis=0).min()), 0)
            for leaf in jax.tree.leaves(params):
                chex.assert_type(leaf, jnp.float32)

    def test_training_moves_the_statistics_towards_the_batch(self):
        network = net.from_linen(
            embedder.make("small", size=6, width=4, dtype="float32")
        )
        params, rest = network.init(jax.random.key(0), self.images)
        _, moved = network.apply(params, rest, self.images, train=True)
        before, after = jax.tree.leaves(rest), jax.tree.leaves(moved)
        self.assertTrue(any(np.any(a != b) for a, b in zip(before, after)))

    def test_half_precision_is_close(self):
        outs = []
        for dtype in ("float32", "bfloat16"):
            module = embedder.make("small", size=6, width=4, dtype=dtype)
            network = net.from_linen(module)
            params, rest = network.init(jax.random.key(0), self.images)
            outs.append(network.apply(params, rest, self.images, train=False)[0])
        np.testing.assert_allclose(outs[0], outs[1], atol=0.05)


def test_a_block_begins_as_the_identity():
    # The last norm of a block has scale 0, so the first block passes its input on.
    module = resnet.ResNet((1,), width=4, stem="plain")
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    variables = module.init(jax.random.key(1), x, train=False)
    _, state = module.apply(variables, x, train=False, capture_intermediates=True)
    block = state["intermediates"]["BasicBlock_0"]["__call__"][0]
    stem = state["intermediates"]["BatchNorm_0"]["__call__"][0]
    np.testing.assert_allclose(block, jax.nn.relu(stem), rtol=1e-6)
