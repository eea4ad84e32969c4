"""What the networks share: convolutions, how they take colours, how they end."""

from collections.abc import Callable
from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxfaces.models import convolution as cpu

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)
CAFFE_MEAN = (104.0, 117.0, 123.0)  # blue, green, red
COLOURS = ("imagenet", "caffe", "cifar", "none")

Initializer = Callable[..., jax.Array]
HE_NORMAL = nn.initializers.he_normal()


def convolution(
    features: int,
    size: tuple[int, int],
    stride: int = 1,
    *,
    kernel_init: Initializer = HE_NORMAL,
    bias_init: Initializer | None = None,
    **kwargs: Any,
) -> nn.Module:
    """A convolution whose padding is half its size on every side.

    It has a bias where `bias_init` is given.
    """
    # Explicit padding: SAME shifts strided convolutions by a pixel on even sizes.
    return nn.Conv(
        features,
        size,
        (stride, stride),
        padding=[(k // 2, k // 2) for k in size],
        use_bias=bias_init is not None,
        kernel_init=kernel_init,
        bias_init=bias_init or nn.initializers.zeros,
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


def fan_in_uniform(fan_in: int) -> Initializer:
    """Uniform between ±1 / sqrt(fan_in): torch's own, of kernels and of biases."""
    reach = fan_in**-0.5

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -reach, reach)

    return init


def norm(*, train: bool, keep: float = 0.9, **kwargs: Any) -> nn.Module:
    """A batch norm that keeps so much of its statistics a step."""
    return nn.BatchNorm(use_running_average=not train, momentum=keep, **kwargs)


def statistics(colours: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean colour and the deviation by which `standardize` maps images.

    What fills a hole with 0 in standardised images fills it with the mean colour; a
    change of 1 there is one of a deviation in the images.

    Args:
      colours: one of COLOURS.
      channels: of the images.

    Returns:
      Both (channels,), in the order and the units of the images.

    Raises:
      ValueError: `colours` is none of COLOURS.
    """
    if colours not in COLOURS:
        raise ValueError(f"colours must be one of {COLOURS}, got {colours!r}")
    if colours == "none":
        return np.zeros(channels), np.ones(channels)
    if channels != 3:
        return np.full(channels, 0.5), np.full(channels, 0.5)
    if colours == "caffe":
        return np.asarray(CAFFE_MEAN[::-1]) / 255, np.full(3, 1 / 255)
    if colours == "cifar":
        return np.asarray(CIFAR_MEAN), np.asarray(CIFAR_STD)
    return np.asarray(IMAGENET_MEAN), np.asarray(IMAGENET_STD)


def standardize(images: jax.Array, colours: str) -> jax.Array:
    """Images in [0, 1] as a network was trained to see them.

    Args:
      images: (B, H, W, 3) red, green, blue, or (B, H, W, 1), which become [-1, 1].
      colours: "imagenet", (x - mean) / deviation by channel, as torchvision does;
        "cifar", the same with CIFAR's; "caffe", blue, green, red in [0, 255] less the
        mean (104, 117, 123); or "none", images that are standardised already.

    Raises:
      ValueError: `colours` is none of these.
    """
    channels = images.shape[-1]
    mean, std = (jnp.asarray(each) for each in statistics(colours, channels))
    if colours == "none":
        return images
    if colours == "caffe" and channels == 3:
        return 255 * images[..., ::-1] - jnp.asarray(CAFFE_MEAN)[None, None, None]
    return (images - mean[None, None, None]) / std[None, None, None]


def pooled(x: jax.Array, average: bool) -> jax.Array:
    """Features (B, F), float32, of a map (B, H, W, C): its mean, or all of it."""
    x = x.astype(jnp.float32)
    if average:
        return jnp.mean(x, axis=(1, 2))
    return einops.rearrange(x, "b h w c -> b (h w c)")
