"""Wide residual networks (Zagoruyko & Komodakis 2016)."""

import flax.linen as nn
import jax

from jaxfaces.models import cifar


class WideBlock(nn.Module):
    """Norm-ReLU-convolution twice and a shortcut (fig. 1d, without dropout).

    Attributes:
      features: of the block's output.
      stride: of the second convolution.
      parts: makes its layers.
    """

    features: int
    stride: int
    parts: cifar.Parts

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, features)."""
        conv, norm = self.parts.conv, self.parts.norm
        y = conv(nn.relu(norm(x)), self.features, 3, bias=True)
        y = conv(nn.relu(norm(y)), self.features, 3, self.stride, bias=True)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = conv(x, self.features, 1, self.stride, bias=True)
        return x + y


class WideResNet(cifar.CifarNetwork):
    """WRN-depth-factor from images to pooled features.

    As released for the searches of augmentation policies (fast-autoaugment, DADA),
    which differs from the paper: convolutions have biases, the stride is on a block's
    second convolution, shortcuts see the raw input, all is drawn as torch draws it, and
    norms keep a tenth of their statistics a step (momentum 0.9 as torch counts it; the
    variance is the batch's own, where torch keeps n / (n - 1) of it).

    Attributes:
      depth: layers, 6n + 4.
      factor: how much wider than a residual network it is.
      width: features of the first convolution; the others go with it.
    """

    depth: int
    factor: int
    width: int = 16

    block = WideBlock

    def plan(self) -> list[list[cifar.Planned]]:
        """Three stages of factor * width features, twice and four times as many."""
        width = self.factor * self.width
        return cifar.by_stages(blocks(self.depth), [width, 2 * width, 4 * width])

    def parts(self, train: bool) -> cifar.Parts:
        """What its layers are made by."""
        return cifar.Parts(train, self.dtype, self.cpu_conv, keep=0.1, torch_init=True)

    def stem(self, x: jax.Array, parts: cifar.Parts) -> jax.Array:
        """A 3x3 convolution with a bias."""
        return parts.conv(x, self.width, 3, bias=True)


def blocks(depth: int) -> int:
    """Blocks a stage; ValueError for a depth that is not 6n + 4."""
    return cifar.blocks_a_stage(depth, layers_a_stage=6, others=4)
