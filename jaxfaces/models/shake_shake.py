"""Shake-Shake networks (Gastaldi 2017, "Shake-Shake regularization")."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxfaces.models import cifar, shaking


class ShakeBlock(nn.Module):
    """Two branches of ReLU-convolution-norm twice, mixed at random, and a shortcut.

    Attributes:
      features: of the block's output, even.
      stride: of the first convolution of each branch.
      parts: makes its layers.
    """

    features: int
    stride: int
    parts: cifar.Parts

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, features)."""
        one, other = self._branch(x), self._branch(x)
        if self.parts.train:
            # The name is flax's, of all that a network draws in training.
            y = shaking.shake(self.make_rng("dropout"), one, other)
        else:
            y = (one + other) / 2
        return self._shortcut(x) + y

    def _branch(self, x: jax.Array) -> jax.Array:
        conv, norm = self.parts.conv, self.parts.norm
        y = norm(conv(nn.relu(x), self.features, 3, self.stride))
        return norm(conv(nn.relu(y), self.features, 3))

    def _shortcut(self, x: jax.Array) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == self.features:
            return x
        x = nn.relu(x)
        # The second path sees the pixels below and to the right of the first one's.
        shifted = lax.pad(
            x, jnp.zeros((), x.dtype), [(0, 0, 0), (-1, 1, 0), (-1, 1, 0), (0, 0, 0)]
        )
        step = self.stride
        paths = [
            self.parts.conv(each[:, ::step, ::step], self.features // 2, 1)
            for each in (x, shifted)
        ]
        return self.parts.norm(jnp.concatenate(paths, axis=-1))


class ShakeShake(cifar.CifarNetwork):
    """Shake-Shake-depth 2 x (width)d from images to pooled features.

    As fast-autoaugment and DADA train it. Gastaldi's release differs: a norm instead
    of a bias behind the first convolution, and the shortcut's second path shifted to
    the other side.

    Attributes:
      width: features of the first stage, even; 32, 96 or 112 as published.
      depth: layers, 6n + 2.
    """

    width: int
    depth: int = 26

    block = ShakeBlock

    def plan(self) -> list[list[cifar.Planned]]:
        """Three stages of width, twice and four times as many features."""
        if self.width % 2:
            raise ValueError(f"the width must be even, got {self.width}")
        blocks = cifar.blocks_a_stage(self.depth, layers_a_stage=6, others=2)
        return cifar.by_stages(blocks, [self.width, 2 * self.width, 4 * self.width])

    def stem(self, x: jax.Array, parts: cifar.Parts) -> jax.Array:
        """A 3x3 convolution with a bias to 16 features."""
        return parts.conv(x, 16, 3, bias=True)

    def end(self, x: jax.Array, parts: cifar.Parts) -> jax.Array:
        """ReLU, blocks end with a norm."""
        return nn.relu(x)
