"""Networks that map images to embeddings."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import bn_inception, branches, layers, resnet

BACKBONES: dict[str, Any] = {
    "small": resnet.small,
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "bn_inception": bn_inception.BNInception,
    "bn_inception_torch": functools.partial(bn_inception.BNInception, projection=128),
}


class Embedder(nn.Module):
    """A backbone with one linear head without bias, or with branches of several levels.

    Of the ranked list loss's branches, "H" is the head on the pooled features of the
    last stage, "M" and "L" are auxiliary blocks with a head on the two stages before.

    Attributes:
      backbone: a network with `maps`, from images (B, H, W, C) in [0, 1] to the maps
        of its stages, three or more where L or M is asked for.
      size: number of dimensions of each branch's embedding.
      levels: branches, some of "H", "L", "M", in any order.
      reduced: features of the auxiliary blocks' convolution.
      hidden: of their hidden layer.
    """

    backbone: nn.Module
    size: int
    levels: Sequence[str] = ("H",)
    reduced: int = branches.REDUCED
    hidden: int = branches.HIDDEN

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Raw embeddings (B, branches * size), float32, in the order H, L, M.

        Training normalises each branch on its own (`split`), retrieval the whole row:
        how long a branch's part is says how much it counts.
        """
        maps = self.backbone.maps(images, train=train)
        parts = []
        for level in in_order(self.levels):
            x = maps[branches.STAGE[level]]
            if level == "H":
                pooled = layers.pooled(x, self.backbone.pool)
                parts.append(branches.head(self.size)(pooled))
            else:
                branch = branches.Branch(branches.blocks(self), self.size, name=level)
                parts.append(branch(x, train=train))
        return jnp.concatenate(parts, axis=-1)


def in_order(chosen: Sequence[str]) -> list[str]:
    """Branches in the order in which their embeddings are concatenated: H, L, M."""
    return [level for level in branches.ORDER if level in chosen]


def split(embeddings: jax.Array, chosen: Sequence[str]) -> dict[str, jax.Array]:
    """Each branch's part of embeddings (B, branches * size), by name."""
    levels = in_order(chosen)
    return dict(zip(levels, jnp.split(embeddings, len(levels), axis=-1)))


def make(
    backbone: str,
    *,
    size: int,
    width: int = 0,
    pool: str = "average",
    dtype: str,
    cpu_conv: str = "off",
    levels: Sequence[str] = ("H",),
    colours: str = "own",
) -> Embedder:
    """An embedder by the name of its backbone.

    Args:
      backbone: one of BACKBONES.
      size: number of dimensions of each branch's embedding.
      width: features of the first stage; 0 is the backbone's own. Auxiliary blocks
        get narrower or wider with it.
      pool: "average" or "flatten" the last feature map.
      dtype: "float32" or "bfloat16" for convolutions.
      cpu_conv: "auto", "on" or "off", see `resnet.ResNet`.
      levels: branches, some of "H", "L", "M".
      colours: "own", the backbone's, or another of `layers.COLOURS`.

    Raises:
      ValueError: no branch, one twice, or one that does not exist.
    """
    if not levels or sorted(levels) != sorted(in_order(levels)):
        raise ValueError(
            f"branches are some of H, L, M, each once; got {tuple(levels)}"
        )
    network = make_backbone(
        backbone,
        width=width,
        pool=pool,
        dtype=dtype,
        cpu_conv=cpu_conv,
        colours=colours,
    )
    wide = network.width / BACKBONES[backbone]().width
    reduced, hidden = (
        max(1, round(each * wide)) for each in (branches.REDUCED, branches.HIDDEN)
    )
    return Embedder(network, size, tuple(levels), reduced, hidden)


def make_backbone(
    name: str,
    *,
    width: int = 0,
    pool: str = "average",
    dtype: str = "float32",
    cpu_conv: str = "off",
    colours: str = "own",
) -> Any:
    """A backbone by its name; the arguments are those of `make`."""
    changes: dict[str, Any] = {"width": width} if width else {}
    if colours != "own":
        changes["colours"] = colours
    return BACKBONES[name](
        pool=pool == "average",
        dtype=jnp.dtype(dtype),
        cpu_conv=cpu_conv,
        **changes,
    )
