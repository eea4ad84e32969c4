"""What the networks share: convolutions, how they take colours, how they end."""

from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxfaces.models import convolution as cpu

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (104.0, 117.0, 123.0)  # blue, green, red
COLOURS = ("imagenet", "caffe")


def convolution(
    features: int, size: tuple[int, int], stride: int = 1, **kwargs: Any
) -> nn.Module:
    """A convolution without bias whose padding is half its size on every side."""
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


def convolution_unit(
    x: jax.Array,
    features: int,
    side: int,
    stride: int = 1,
    *,
    name: str,
    train: bool,
    dtype: Any,
    cpu_conv: str,
) -> jax.Array:
    """Convolution, norm and ReLU inside a module, as `name` and `name_bn`."""
    conv = convolution(
        features,
        (side, side),
        stride,
        dtype=dtype,
        conv_general_dilated=cpu.injected(cpu_conv),
        name=name,
    )
    return nn.relu(norm(train=train, dtype=dtype, name=f"{name}_bn")(conv(x)))


def norm(*, train: bool, **kwargs: Any) -> nn.Module:
    """A batch norm that moves its statistics by a tenth a step."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, **kwargs)


def standardize(images: jax.Array, colours: str) -> jax.Array:
    """Images in [0, 1] as a network was trained to see them.

    Args:
      images: (B, H, W, 3) red, green, blue, or (B, H, W, 1), which become [-1, 1].
      colours: "imagenet", (x - mean) / deviation by channel, as torchvision does; or
        "caffe", blue, green, red in [0, 255] less the mean (104, 117, 123).

    Raises:
      ValueError: `colours` is neither.
    """
    if colours not in COLOURS:
        raise ValueError(f"colours must be one of {COLOURS}, got {colours!r}")
    if images.shape[-1] != 3:
        return 2 * images - 1
    if colours == "caffe":
        return 255 * images[..., ::-1] - jnp.asarray(CAFFE_MEAN)[None, None, None]
    mean, std = jnp.asarray(IMAGENET_MEAN), jnp.asarray(IMAGENET_STD)
    return (images - mean[None, None, None]) / std[None, None, None]


def pooled(x: jax.Array, average: bool) -> jax.Array:
    """Features (B, F), float32, of a map (B, H, W, C): its mean, or all of it."""
    x = x.astype(jnp.float32)
    if average:
        return jnp.mean(x, axis=(1, 2))
    return einops.rearrange(x, "b h w c -> b (h w c)")
