"""What hangs on the middle stages of a network: branches and auxiliary classifiers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import layers, pooling

REDUCED, HIDDEN = 128, 1024  # widths of an auxiliary block as published
ORDER = ("H", "L", "M")  # in which embeddings are concatenated
STAGE = {"L": -3, "M": -2, "H": -1}  # whose map a branch sees


class Auxiliary(nn.Module):
    """Average pooling 5/3, 1x1 convolution, and a hidden layer, both with norm, ReLU.

    The block of GoogLeNet's auxiliary classifiers with norms. 14 pixels a side become
    4, 7 become 2; a map smaller than the window is averaged whole.

    Attributes:
      reduced: features of the convolution.
      hidden: features of the hidden layer.
      dtype: compute type.
      cpu_conv: "auto", "on" or "off", as `resnet.ResNet` has it.
    """

    reduced: int = REDUCED
    hidden: int = HIDDEN
    dtype: Any = jnp.float32
    cpu_conv: str = "off"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps (B, H, W, C) to (B, hidden), float32."""
        x = pooling.average_pool(x, size=5, stride=3, ceil=True)
        how: dict[str, Any] = {"train": train, "dtype": self.dtype}
        x = layers.convolution_unit(
            x, self.reduced, 1, name="conv", cpu_conv=self.cpu_conv, **how
        )
        x = einops.rearrange(x, "b h w c -> b (h w c)")
        x = nn.Dense(
            self.hidden,
            use_bias=False,
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="fc",
        )(x)
        return nn.relu(layers.norm(name="fc_bn", **how)(x)).astype(jnp.float32)


class Branch(nn.Module):
    """An auxiliary block and a head: the branches L and M of the ranked list loss.

    Attributes:
      block: makes the block, by name.
      size: number of dimensions of the embedding.
    """

    block: Callable[..., Auxiliary]
    size: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps (B, H, W, C) to a raw embedding (B, size), float32."""
        return head(self.size)(self.block(name="block")(x, train=train))


def head(size: int) -> nn.Module:
    """A linear layer without bias, Xavier-initialised, named "head"."""
    return nn.Dense(
        size,
        use_bias=False,
        kernel_init=nn.initializers.xavier_uniform(),
        name="head",
    )


def in_head(path: tuple) -> bool:
    """Whether the path of a parameter (key entries) leads into a head."""
    return any(getattr(entry, "key", None) == "head" for entry in path)


class Supervised(NamedTuple):
    """What `DeeplySupervised` gives.

    Attributes:
      embedding: (B, hidden) raw, of the middle auxiliary block.
      logits: (B, classes) of the low, the middle and the high level; the last one's
        softmax is what class-aware attention is made of.
    """

    embedding: jax.Array
    logits: tuple[jax.Array, jax.Array, jax.Array]


class DeeplySupervised(nn.Module):
    """A classifier on each of three levels, the middle one's features the embedding.

    The network of online soft mining with class-aware attention (Wang et al. 2019) as
    released: auxiliary blocks of 1024 features on the first two stages, the pooled
    features of the last, a linear classifier with bias on each. Its release trains the
    biases at twice the rate and without weight decay.

    Attributes:
      backbone: a network with `maps`, three stages or more.
      classes: number of training classes.
      reduced: features of the blocks' convolution.
      hidden: of their hidden layer, hence dimensions of the embedding.
    """

    backbone: nn.Module
    classes: int
    reduced: int = REDUCED
    hidden: int = HIDDEN

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Supervised:
        """Maps images (B, H, W, C) in [0, 1] to an embedding and three logits."""
        maps = self.backbone.maps(images, train=train)
        low, middle = (
            blocks(self)(name=name)(maps[STAGE[level]], train=train)
            for name, level in (("aux1", "L"), ("aux2", "M"))
        )
        high = layers.pooled(maps[STAGE["H"]], self.backbone.pool)
        logits = [
            nn.Dense(
                self.classes,
                kernel_init=nn.initializers.xavier_uniform(),
                name=f"classifier{number}",
            )(features)
            for number, features in enumerate((low, middle, high), 1)
        ]
        return Supervised(middle, (logits[0], logits[1], logits[2]))


def blocks(network: Any) -> Callable[..., Auxiliary]:
    """Makes auxiliary blocks that compute as the backbone of a network does."""
    return functools.partial(
        Auxiliary,
        network.reduced,
        network.hidden,
        network.backbone.dtype,
        network.backbone.cpu_conv,
    )
