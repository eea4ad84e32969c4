"""Residual networks: ResNet-18, 50, 200 (He et al. 2016), one for small images."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import convolution, layers, pooling

# Size and stride of the first convolution.
STEMS = {"large": (7, 2), "strided": (5, 2), "plain": (3, 1)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left)."""

    features: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, features)."""
        y = self.conv(self.features, (3, 3), self.stride)(x)
        y = nn.relu(self.norm()(y))
        y = self.conv(self.features, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + self._shortcut(x, y.shape[-1]))

    def _shortcut(self, x: jax.Array, features: int) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == features:
            return x
        x = self.conv(features, (1, 1), self.stride, name="shortcut")(x)
        return self.norm(name="shortcut_norm")(x)


class BottleneckBlock(BasicBlock):
    """1x1, 3x3, 1x1 with four times the features at its end (He et al. 2016, fig. 5).

    Differs: the stride is on the 3x3 convolution, as in every released weight file.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, 4 * features)."""
        y = nn.relu(self.norm()(self.conv(self.features, (1, 1))(x)))
        y = nn.relu(self.norm()(self.conv(self.features, (3, 3), self.stride)(y)))
        y = self.conv(4 * self.features, (1, 1))(y)
        y = self.norm(scale_init=nn.initializers.zeros)(y)
        return nn.relu(y + self._shortcut(x, y.shape[-1]))


class ResNet(nn.Module):
    """Residual network from images to pooled features.

    Attributes:
      stage_sizes: blocks a stage; every stage but the first halves the resolution.
      block: BasicBlock or BottleneckBlock.
      width: features of the first stage, doubled by each further stage.
      stem: "large", a 7x7 convolution of stride 2 and max-pooling; "strided", a
        5x5 convolution of stride 2; "plain", a 3x3 convolution of stride 1.
      pool: average the last map over space, or flatten it, which keeps where
        things are (aligned images such as characters and digits).
      dtype: compute type of convolutions; parameters and statistics stay float32.
      cpu_conv: on a CPU, compute convolutions and max-pooling as XLA does ("off"), by
        our own forms where they are faster ("auto"), or always ("on").
      colours: what the network takes images as, see `layers.standardize`.
      remat: keep only the inputs of blocks for the gradient and compute the rest again.
    """

    stage_sizes: Sequence[int]
    block: type[BasicBlock] = BasicBlock
    width: int = 64
    stem: str = "large"
    pool: bool = True
    dtype: Any = jnp.float32
    cpu_conv: str = "off"
    colours: str = "imagenet"
    remat: bool = False

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images (B, H, W, C) in [0, 1] to features (B, F), float32."""
        return layers.pooled(self.maps(images, train=train)[-1], self.pool)

    @nn.compact
    def maps(self, images: jax.Array, *, train: bool) -> list[jax.Array]:
        """The maps (B, H', W', F) after each stage."""
        norm = functools.partial(layers.norm, train=train, dtype=self.dtype)
        conv = functools.partial(
            layers.convolution,
            dtype=self.dtype,
            conv_general_dilated=convolution.injected(self.cpu_conv),
        )
        x = layers.standardize(images, self.colours).astype(self.dtype)
        x = self._stem(x, conv, norm)
        block = nn.remat(self.block) if self.remat else self.block
        found, number = [], 0
        for stage, blocks in enumerate(self.stage_sizes):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                features = self.width << stage
                # Named: what remat wraps would have another name.
                name = f"{self.block.__name__}_{number}"
                x = block(features, stride, conv, norm, name=name)(x)
                number += 1
            found.append(x)
        return found

    def _stem(
        self,
        x: jax.Array,
        conv: Callable[..., nn.Module],
        norm: Callable[..., nn.Module],
    ) -> jax.Array:
        size, stride = STEMS[self.stem]
        x = nn.relu(norm()(conv(self.width, (size, size), stride)(x)))
        if self.stem != "large":
            return x
        # Ours on a GPU too: XLA's own has no deterministic gradient there.
        native = self.cpu_conv == "off"
        return pooling.max_pool(x, size=3, stride=2, padding=1, native=native)


small = functools.partial(ResNet, stage_sizes=(1, 1, 1), width=32, stem="strided")
resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2))
resnet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock)
resnet200 = functools.partial(ResNet, stage_sizes=(3, 24, 36, 3), block=BottleneckBlock)
