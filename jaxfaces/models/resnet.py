"""Residual networks: ResNet-18/50 (He et al. 2016) and a small one for small images."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import convolution, pooling

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
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
      pool: average the last feature map over space, or flatten it, which keeps where
        things are (aligned images such as characters and digits).
      dtype: compute type of convolutions; parameters and statistics stay float32.
      cpu_conv: on a CPU, compute convolutions and max-pooling as XLA does ("off"), by
        our own forms where they are faster ("auto"), or always ("on").
    """

    stage_sizes: Sequence[int]
    block: type[BasicBlock] = BasicBlock
    width: int = 64
    stem: str = "large"
    pool: bool = True
    dtype: Any = jnp.float32
    cpu_conv: str = "off"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images (B, H, W, C) in [0, 1] to features (B, F), float32."""
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype
        )
        conv = functools.partial(
            _convolution,
            dtype=self.dtype,
            conv_general_dilated=convolution.injected(self.cpu_conv),
        )
        x = _standardize(images).astype(self.dtype)
        x = self._stem(x, conv, norm)
        for stage, blocks in enumerate(self.stage_sizes):
            for index in range(blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                features = self.width << stage
                x = self.block(features, stride, conv, norm)(x)
        x = x.astype(jnp.float32)
        if self.pool:
            return jnp.mean(x, axis=(1, 2))
        return einops.rearrange(x, "b h w c -> b (h w c)")

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
        if self.cpu_conv == "off":
            return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        # On a GPU too: XLA's own has no deterministic gradient there.
        return pooling.max_pool(x, size=3, stride=2, padding=1)


def _convolution(
    features: int, size: tuple[int, int], stride: int = 1, **kwargs: Any
) -> nn.Module:
    # Explicit padding: SAME shifts strided convolutions by a pixel on even sizes.
    return nn.Conv(
        features,
        size,
        (stride, stride),
        padding=[(k // 2, k // 2) for k in size],
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        **kwargs,
    )


def _standardize(images: jax.Array) -> jax.Array:
    """Colour by ImageNet's mean and deviation, grey from [0, 1] to [-1, 1]."""
    if images.shape[-1] == 3:
        mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
        return (images - mean[None, None, None]) / std[None, None, None]
    return 2 * images - 1


small = functools.partial(ResNet, stage_sizes=(1, 1, 1), width=32, stem="strided")
resnet18 = functools.partial(ResNet, stage_sizes=(2, 2, 2, 2))
resnet50 = functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BottleneckBlock)
