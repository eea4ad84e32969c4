"""What the residual networks for CIFAR's images of 32 pixels share."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import convolution, layers

# Normal with deviation sqrt(2 / (k * k * outputs)).
FAN_OUT_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class Parts:
    """How a network's convolutions and norms are made, handed to its blocks.

    Attributes:
      train: norms take the batch's statistics, blocks draw.
      dtype: compute type.
      cpu_conv: "auto", "on" or "off", as `resnet.ResNet` has it.
      keep: how much of their statistics norms keep a step.
      torch_init: convolutions are drawn as torch draws them, or by FAN_OUT_NORMAL.
    """

    train: bool
    dtype: Any
    cpu_conv: str
    keep: float = 0.9
    torch_init: bool = False

    def conv(
        self,
        x: jax.Array,
        features: int,
        side: int,
        stride: int = 1,
        *,
        bias: bool = False,
    ) -> jax.Array:
        """A convolution inside a module; a bias is drawn as torch draws it."""
        uniform = layers.fan_in_uniform(side * side * x.shape[-1])
        return layers.convolution(
            features,
            (side, side),
            stride,
            kernel_init=uniform if self.torch_init else FAN_OUT_NORMAL,
            bias_init=uniform if bias else None,
            dtype=self.dtype,
            conv_general_dilated=convolution.injected(self.cpu_conv),
        )(x)

    def norm(self, x: jax.Array) -> jax.Array:
        """A batch norm inside a module."""
        return layers.norm(train=self.train, keep=self.keep, dtype=self.dtype)(x)


@dataclasses.dataclass(frozen=True)
class Planned:
    """A block of a network.

    Attributes:
      features: of the block, as its module counts them.
      stride: 1 or 2.
      arguments: further attributes of its module.
    """

    features: int
    stride: int
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)


class CifarNetwork(nn.Module, kw_only=True):
    """A stem, three stages of blocks, an end; the last two stages halve the sides.

    A subclass says which: `block`, a module of (features, stride, parts), `plan`,
    `stem` and, where they differ, `parts` and `end`.

    Attributes:
      pool: average the last map over space, or flatten it.
      dtype: compute type; parameters and statistics stay float32.
      cpu_conv: "auto", "on" or "off", as `resnet.ResNet` has it.
      colours: what the network takes images as, see `layers.standardize`.
      remat: keep only the inputs of blocks for the gradient and compute the rest again:
        WRN-40-2 keeps a ninth, but XLA's plan for a CPU takes as much either way.
    """

    block: ClassVar[Any]

    pool: bool = True
    dtype: Any = jnp.float32
    cpu_conv: str = "off"
    colours: str = "cifar"
    remat: bool = False

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images (B, H, W, C) in [0, 1] to features (B, F), float32."""
        return layers.pooled(self.maps(images, train=train)[-1], self.pool)

    @nn.compact
    def maps(self, images: jax.Array, *, train: bool) -> list[jax.Array]:
        """The maps (B, H', W', F) after each stage, the last one after the end."""
        parts = self.parts(train)
        block = nn.remat(self.block) if self.remat else self.block
        x = layers.standardize(images, self.colours).astype(self.dtype)
        x = self.stem(x, parts)
        found = []
        for stage, blocks in enumerate(self.plan(), 1):
            for number, each in enumerate(blocks, 1):
                # Named: what remat wraps would have another name.
                name = f"stage{stage}_block{number}"
                x = block(
                    each.features, each.stride, parts, name=name, **each.arguments
                )(x)
            found.append(x)
        return [*found[:-1], self.end(x, parts)]

    def plan(self) -> Sequence[Sequence[Planned]]:
        """The blocks of the three stages."""
        raise NotImplementedError

    def parts(self, train: bool) -> Parts:
        """What its layers are made by."""
        return Parts(train, self.dtype, self.cpu_conv)

    def stem(self, x: jax.Array, parts: Parts) -> jax.Array:
        """From standardised images to the input of the first block."""
        raise NotImplementedError

    def end(self, x: jax.Array, parts: Parts) -> jax.Array:
        """From the output of the last block to what is pooled."""
        return nn.relu(parts.norm(x))


def blocks_a_stage(depth: int, *, layers_a_stage: int, others: int) -> int:
    """How many blocks each of three stages has in a network of so many layers.

    Args:
      depth: layers with weights, shortcuts not counted.
      layers_a_stage: layers of three blocks, one of each stage.
      others: layers outside blocks.

    Raises:
      ValueError: not a whole number, or none.
    """
    blocks, left = divmod(depth - others, layers_a_stage)
    if left or blocks < 1:
        raise ValueError(
            f"the depth must be {layers_a_stage}n + {others} with n >= 1, got {depth}"
        )
    return blocks


def by_stages(blocks: int, widths: Sequence[int]) -> list[list[Planned]]:
    """Stages of as many blocks each, of one width a stage."""
    return [
        [Planned(width, 2 if stage and not index else 1) for index in range(blocks)]
        for stage, width in enumerate(widths)
    ]
