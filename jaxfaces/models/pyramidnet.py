"""PyramidNet (Han et al. 2017) with ShakeDrop (Yamada et al. 2018)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import cifar, pooling, shaking

EXPANSION = 4  # a block's output, in multiples of its inner features
DROP = 0.5  # of the last block; it grows linearly from the first


class PyramidBlock(nn.Module):
    """Norm, then 1x1, 3x3, 1x1 convolutions, a norm after each, ReLU after two.

    (Han et al. 2017, fig. 6d.) The shortcut has no weights: it is averaged over 2x2
    pixels where the stride is 2, and filled up with features of 0.

    Attributes:
      features: inner ones; the output has four times as many.
      stride: of the 3x3 convolution.
      parts: makes its layers.
      drop: probability that ShakeDrop disturbs it.
    """

    features: int
    stride: int
    parts: cifar.Parts
    drop: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, 4 * features)."""
        conv, norm = self.parts.conv, self.parts.norm
        y = conv(norm(x), self.features, 1)
        y = conv(nn.relu(norm(y)), self.features, 3, self.stride)
        y = norm(conv(nn.relu(norm(y)), EXPANSION * self.features, 1))
        if self.parts.train:
            # The name is flax's, of all that a network draws in training.
            y = shaking.shake_drop(self.make_rng("dropout"), y, self.drop)
        else:
            y = y * (1 - self.drop)
        if self.stride > 1:
            x = pooling.average_pool(x, size=2, stride=2, ceil=True)
        missing = y.shape[-1] - x.shape[-1]
        return y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))


class PyramidNet(cifar.CifarNetwork):
    """A network whose features grow by the same number each block, to pooled features.

    As fast-autoaugment and DADA train it: no ReLU between the first norm and the first
    block. The inner features of block i of N are 16 + alpha * i / N, rounded.

    Attributes:
      depth: layers, 9n + 2; 272 as published.
      alpha: how many inner features are added in all; 200.
      width: features of the first convolution; the others go with it.
    """

    depth: int = 272
    alpha: float = 200.0
    width: int = 16

    block = PyramidBlock

    def plan(self) -> list[list[cifar.Planned]]:
        """Three stages of as many blocks."""
        count = blocks(self.depth)
        return [
            [self._planned(stage * count + index, 3 * count) for index in range(count)]
            for stage in range(3)
        ]

    def _planned(self, index: int, count: int) -> cifar.Planned:
        part = (index + 1) / count
        features = round((16 + self.alpha * part) * self.width / 16)
        stride = 2 if index in (count // 3, 2 * count // 3) else 1
        return cifar.Planned(features, stride, {"drop": DROP * part})

    def stem(self, x: jax.Array, parts: cifar.Parts) -> jax.Array:
        """A 3x3 convolution and a norm."""
        return parts.norm(parts.conv(x, self.width, 3))


def blocks(depth: int) -> int:
    """Blocks a stage; ValueError for a depth that is not 9n + 2."""
    return cifar.blocks_a_stage(depth, layers_a_stage=9, others=2)
