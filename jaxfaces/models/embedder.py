"""Networks that map images to embeddings."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import resnet

BACKBONES = {
    "small": resnet.small,
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
}


class Embedder(nn.Module):
    """A backbone and a linear head without bias.

    Attributes:
      backbone: module from images (B, H, W, C) in [0, 1] to features (B, F).
      size: number of dimensions of the embedding.
    """

    backbone: nn.Module
    size: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images (B, H, W, C) in [0, 1] to raw embeddings (B, size), float32."""
        features = self.backbone(images, train=train)
        head = nn.Dense(
            self.size,
            use_bias=False,
            kernel_init=nn.initializers.xavier_uniform(),
            name="head",
        )
        return head(features)


def make(
    backbone: str,
    *,
    size: int,
    width: int = 0,
    pool: str = "average",
    dtype: str,
    cpu_conv: str = "off",
) -> Embedder:
    """An embedder by the name of its backbone.

    Args:
      backbone: one of BACKBONES.
      size: number of dimensions of the embedding.
      width: features of the first stage; 0 is the backbone's own.
      pool: "average" or "flatten" the last feature map.
      dtype: "float32" or "bfloat16" for convolutions.
      cpu_conv: "auto", "on" or "off", see `resnet.ResNet`.
    """
    changes: dict[str, Any] = {"width": width} if width else {}
    network = BACKBONES[backbone](
        pool=pool == "average",
        dtype=jnp.dtype(dtype),
        cpu_conv=cpu_conv,
        **changes,
    )
    return Embedder(network, size)
