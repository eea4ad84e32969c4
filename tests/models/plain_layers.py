"""Layers read plainly in float64, and variables to read them with."""

import itertools

import jax
import numpy as np

EPSILON = 1e-5


def drawn(shapes, seed=0):
    """Variables of such shapes, random in all that init leaves at 0 or 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape)
        if kind in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(0, 0.3, leaf.shape)

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: draw(path, leaf).astype(np.float32), shapes
    )


def drawn_for(module, images, seed=0):
    """The same for a network whose call takes `train`."""
    return drawn(
        jax.eval_shape(
            lambda x: module.init(jax.random.key(0), x, train=False), images
        ),
        seed,
    )


class Plain:
    """The layers of a module by the path of their variables.

    `moved` collects the running statistics after a step of training.
    """

    def __init__(self, variables, *, train, keep):
        self.variables, self.train, self.keep = variables, train, keep
        self.moved = {}

    def at(self, path, collection="params"):
        node = self.variables[collection]
        for name in path.split("/"):
            node = node[name]
        return {name: np.asarray(leaf, np.float64) for name, leaf in node.items()}

    def conv(self, path, x, stride=1):
        layer = self.at(path)
        kernel, bias = layer["kernel"], layer.get("bias", 0.0)
        side = kernel.shape[0]
        low = side // 2
        x = np.pad(x, ((0, 0), (low, low), (low, low), (0, 0)))
        rows, cols = ((n - side) // stride + 1 for n in x.shape[1:3])
        y = np.zeros((len(x), rows, cols, kernel.shape[-1]))
        for i, j in itertools.product(range(rows), range(cols)):
            top, left = i * stride, j * stride
            window = x[:, top : top + side, left : left + side]
            y[:, i, j] = np.tensordot(window, kernel, 3)
        return y + bias

    def norm(self, path, x):
        layer, running = self.at(path), self.at(path, "batch_stats")
        mean, var = running["mean"], running["var"]
        if self.train:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.moved[path] = {
                "mean": self.keep * running["mean"] + (1 - self.keep) * mean,
                "var": self.keep * running["var"] + (1 - self.keep) * var,
            }
        return (x - mean) / np.sqrt(var + EPSILON) * layer["scale"] + layer["bias"]


def relu(x):
    return np.maximum(x, 0)


def close(found, wanted, tolerance=1e-4):
    """Equal up to a part of the largest value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


def moved_alike(found, plain):
    """The statistics that a module gave back are those of a plain reading."""
    assert plain.moved
    for path, wanted in plain.moved.items():
        node = found
        for name in path.split("/"):
            node = node[name]
        for kind, value in wanted.items():
            close(node[kind], value)
    assert len(jax.tree.leaves(found)) == 2 * len(plain.moved)
