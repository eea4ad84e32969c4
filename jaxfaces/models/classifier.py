"""Networks that map images to logits, by name."""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import layers, pyramidnet, resnet, shake_shake, wide_resnet

NETWORKS: dict[str, Callable[..., Any]] = {
    "resnet18": resnet.resnet18,
    "resnet18_cifar": functools.partial(resnet.resnet18, stem="plain", colours="cifar"),
    "resnet50": resnet.resnet50,
    "resnet200": resnet.resnet200,
    "shake_shake_32": functools.partial(shake_shake.ShakeShake, width=32),
    "shake_shake_96": functools.partial(shake_shake.ShakeShake, width=96),
    "shake_shake_112": functools.partial(shake_shake.ShakeShake, width=112),
}
# Depth, and factor or alpha.
SIZED = re.compile(r"(wrn|pyramidnet)_([1-9]\d{0,3})_([1-9]\d{0,3})")


class Classifier(nn.Module):
    """A backbone and a linear layer in float32, drawn as torch draws it.

    Attributes:
      backbone: a network from images (B, H, W, C) in [0, 1] to features (B, F).
      classes: number of classes.
      zero_bias: the linear layer's bias begins as 0.
    """

    backbone: nn.Module
    classes: int
    zero_bias: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Logits (B, classes), float32."""
        features = self.backbone(images, train=train)
        uniform = layers.fan_in_uniform(features.shape[-1])
        return nn.Dense(
            self.classes,
            kernel_init=uniform,
            bias_init=nn.initializers.zeros if self.zero_bias else uniform,
            dtype=jnp.float32,
            name="head",
        )(features)


def known(name: str) -> Callable[..., Any]:
    """What makes the backbone of a name.

    Args:
      name: one of NETWORKS, wrn_DEPTH_FACTOR or pyramidnet_DEPTH_ALPHA.

    Raises:
      ValueError: there is no such network.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    sized = SIZED.fullmatch(name)
    if not sized:
        raise ValueError(
            f"the network {name!r} is none of: {', '.join(NETWORKS)}, nor wrn_D_K, a "
            "wide residual network of depth D and factor K such as wrn_40_2, nor "
            "pyramidnet_D_A such as pyramidnet_272_200"
        )
    kind, (depth, size) = sized[1], map(int, sized.groups()[1:])
    blocks, module = {
        "wrn": (wide_resnet.blocks, wide_resnet.WideResNet),
        "pyramidnet": (pyramidnet.blocks, pyramidnet.PyramidNet),
    }[kind]
    try:
        blocks(depth)
    except ValueError as error:
        raise ValueError(f"there is no network {name!r}: {error}") from error
    return functools.partial(module, depth, size)


def make(
    name: str,
    classes: int,
    *,
    width: int = 0,
    pool: str = "average",
    dtype: str = "float32",
    cpu_conv: str = "off",
    colours: str = "own",
    remat: bool = False,
) -> Classifier:
    """A classifier by the name of its network.

    Args:
      name: see `known`.
      classes: number of classes.
      width: features of the first convolution, or of the first stage of a Shake-Shake
        network; the others go with it; 0 is the network's own.
      pool: "average" or "flatten" the last feature map.
      dtype: "float32" or "bfloat16" for all but the last layer.
      cpu_conv: "auto", "on" or "off", see `resnet.ResNet`.
      colours: "own", the network's, or another of `layers.COLOURS`; "none" for images
        that `layers.standardize` has seen already.
      remat: compute blocks twice instead of keeping their activations.

    Raises:
      ValueError: there is no such network.
    """
    changes: dict[str, Any] = {"width": width} if width else {}
    if colours != "own":
        changes["colours"] = colours
    backbone = known(name)(
        pool=pool == "average",
        dtype=jnp.dtype(dtype),
        cpu_conv=cpu_conv,
        remat=remat,
        **changes,
    )
    # As Gastaldi's release has it.
    zero_bias = isinstance(backbone, shake_shake.ShakeShake)
    return Classifier(backbone, classes, zero_bias)
