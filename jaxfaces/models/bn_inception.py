"""BN-Inception, "GoogLeNet V2" (Ioffe & Szegedy 2015, figure 5)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import layers, pooling
from jaxfaces.models.layers import convolution_unit

WIDTH = 64  # of the first convolution as published


class Mixed(NamedTuple):
    """Widths of the four paths of an inception module.

    Attributes:
      single: of the 1x1 convolution; 0 is no such path, and stride 2.
      three: of 1x1, 3x3.
      double: of 1x1, 3x3, 3x3.
      projected: of the 1x1 convolution after pooling; 0 is none.
      pool: "average" or "max", 3x3.
    """

    single: int
    three: tuple[int, int]
    double: tuple[int, int, int]
    projected: int
    pool: str = "average"


MODULES = {
    "3a": Mixed(64, (64, 64), (64, 96, 96), 32),
    "3b": Mixed(64, (64, 96), (64, 96, 96), 64),
    "3c": Mixed(0, (128, 160), (64, 96, 96), 0, "max"),
    "4a": Mixed(224, (64, 96), (96, 128, 128), 128),
    "4b": Mixed(192, (96, 128), (96, 128, 128), 128),
    "4c": Mixed(160, (128, 160), (128, 160, 160), 96),
    "4d": Mixed(96, (128, 192), (160, 192, 192), 96),
    "4e": Mixed(0, (128, 192), (192, 256, 256), 0, "max"),
    "5a": Mixed(352, (192, 320), (160, 224, 224), 128),
    "5b": Mixed(352, (192, 320), (192, 224, 224), 128, "max"),
}
STAGES = ("3c", "4e", "5b")  # whose outputs are the maps of low, middle, high level
Unit = Callable[..., jax.Array]


class Inception(nn.Module):
    """Four paths side by side: 1x1, 3x3, twice 3x3, and pooling.

    Where there is no 1x1 path, the last 3x3 of each other path and the pooling have
    stride 2, as in the released networks.

    Attributes:
      widths: of the paths.
      unit: `(x, features, side, stride, name=) -> x`, convolution, norm and ReLU.
      native_pool: maxima as XLA computes them.
    """

    widths: Mixed
    unit: Unit
    native_pool: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (B, H, W, C) to (B, H / stride, W / stride, features)."""
        single, three, double, projected, _ = self.widths
        stride = 1 if single else 2
        paths = [self.unit(x, single, 1, name="1x1")] if single else []
        y = self.unit(x, three[0], 1, name="3x3_reduce")
        paths.append(self.unit(y, three[1], 3, stride, name="3x3"))
        y = self.unit(x, double[0], 1, name="double_3x3_reduce")
        y = self.unit(y, double[1], 3, name="double_3x3_1")
        paths.append(self.unit(y, double[2], 3, stride, name="double_3x3_2"))
        y = self._pool(x, stride)
        paths.append(self.unit(y, projected, 1, name="pool_proj") if projected else y)
        return jnp.concatenate(paths, axis=-1)

    def _pool(self, x: jax.Array, stride: int) -> jax.Array:
        if self.widths.pool == "average":
            return pooling.average_pool(x, size=3, stride=stride, padding=1)
        return pooling.max_pool(
            x,
            size=3,
            stride=stride,
            padding=1 if stride == 1 else 0,
            ceil=True,
            native=self.native_pool,
        )


class BNInception(nn.Module):
    """BN-Inception from images to pooled features.

    No convolution has a bias; each is followed by a norm with scale and offset and by
    ReLU. Max-pooling keeps the windows that begin inside the image (`ceil`), average
    pooling counts its padding as zeros, both as in Caffe.

    Attributes:
      width: features of the first convolution; the others go with it.
      projection: features after pooling in 4c and 4d: 96 as published and as the
        authors of the ranked list loss trained it, or 128 as in the weights that were
        ported to torch (`pretrainedmodels`).
      pool: average the last map over space, or flatten it.
      dtype: compute type of convolutions; parameters and statistics stay float32.
      cpu_conv: "auto", "on" or "off", as `resnet.ResNet` has it.
      colours: what the network takes images as, see `layers.standardize`.
    """

    width: int = WIDTH
    projection: int = 96
    pool: bool = True
    dtype: Any = jnp.float32
    cpu_conv: str = "off"
    colours: str = "caffe"

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Maps images (B, H, W, C) in [0, 1] to features (B, F), float32."""
        return layers.pooled(self.maps(images, train=train)[-1], self.pool)

    @nn.compact
    def maps(self, images: jax.Array, *, train: bool) -> list[jax.Array]:
        """The maps after 3c, 4e and 5b: 14, 7 and 7 pixels a side of 224 or 227.

        Raises:
          ValueError: the sides of the images do not fit the strides.
        """
        check_sides(images.shape[1:3])
        unit = functools.partial(
            convolution_unit, train=train, dtype=self.dtype, cpu_conv=self.cpu_conv
        )
        pool = functools.partial(
            pooling.max_pool, size=3, stride=2, ceil=True, native=self._native_pool
        )
        x = layers.standardize(images, self.colours).astype(self.dtype)
        x = pool(unit(x, self._wide(64), 7, 2, name="conv1_7x7_s2"))
        x = unit(x, self._wide(64), 1, name="conv2_3x3_reduce")
        x = pool(unit(x, self._wide(192), 3, name="conv2_3x3"))
        found = []
        for name, widths in MODULES.items():
            widths = self._widths(name, widths)
            x = Inception(widths, unit, self._native_pool, name=f"inception_{name}")(x)
            if name in STAGES:
                found.append(x)
        return found

    @property
    def _native_pool(self) -> bool:
        return self.cpu_conv == "off"

    def _wide(self, features: int) -> int:
        return max(1, features * self.width // WIDTH) if features else 0

    def _widths(self, name: str, widths: Mixed) -> Mixed:
        projected = self.projection if name in ("4c", "4d") else widths.projected
        return Mixed(
            self._wide(widths.single),
            (self._wide(widths.three[0]), self._wide(widths.three[1])),
            tuple(map(self._wide, widths.double)),  # type: ignore[arg-type]
            self._wide(projected),
            widths.pool,
        )


def check_sides(sides: tuple[int, ...]) -> None:
    """Raises ValueError unless convolutions and pooling halve every map alike."""
    for side in sides:
        x = (side - 1) // 2 + 1  # after the first convolution
        for _ in range(2):
            x = pooling.output_side(x, 3, 2, 0, True)
        for _ in range(2):
            if x > 1 and x % 2:
                raise ValueError(
                    f"BN-Inception cannot take images of {side} pixels a side: a map "
                    f"of {x} pixels would be halved. 224, 227 and multiples of 32 fit"
                )
            x = (x + 1) // 2
