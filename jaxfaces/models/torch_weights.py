"""Weights of networks trained with torch, for the backbones here.

The names are those of torchvision's ResNets and of `pretrainedmodels`' BN-Inception:

    here                                    torch
    Conv_0, BatchNorm_0                     conv1, bn1                    (ResNet)
    BottleneckBlock_3/Conv_1, /BatchNorm_1  layer2.0.conv2, layer2.0.bn2
    BottleneckBlock_3/shortcut              layer2.0.downsample.0
    BottleneckBlock_3/shortcut_norm         layer2.0.downsample.1
    conv1_7x7_s2, conv1_7x7_s2_bn           the same                      (BN-Inception)
    inception_3a/3x3_reduce                 inception_3a_3x3_reduce
    kernel (H, W, in, out)                  weight (out, in, H, W)
    scale, bias, mean, var                  weight, bias, running_mean, running_var

Blocks are numbered through all stages here, within a stage there. A bias of a
convolution, which ours have not, is taken off the mean of the norm behind it: that
changes nothing. Classifiers (`fc`, `last_linear`) and `num_batches_tracked` are left
out.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfaces.models.bn_inception import BNInception
from jaxfaces.models.resnet import ResNet

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
IGNORED = ("fc.", "last_linear.")
PARTS = {"Conv": "conv", "BatchNorm": "bn"}
SHORTCUTS = {"shortcut": "downsample.0", "shortcut_norm": "downsample.1"}
SHOWN = 3


def convert(
    weights: Mapping[str, np.ndarray], network: Any, fresh: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The variables of a backbone from torch's.

    Args:
      weights: arrays by torch's key.
      network: `resnet.ResNet` or `bn_inception.BNInception`.
      fresh: its variables as initialised, or their shapes, by path: "Conv_0/kernel".

    Returns:
      All of them, by the same paths, float32.

    Raises:
      ValueError: keys are missing, unexpected or of another shape; names the first few.
      TypeError: no names are known for this kind of network.
    """
    wrong, used, found = [], set(), {}
    for path, leaf in fresh.items():
        key = key_of(network, path)
        used.add(key)
        if key not in weights:
            wrong.append(f"{key} is missing")
            continue
        value, wanted = weights[key], _shape(leaf.shape)
        if tuple(value.shape) != wanted:
            wrong.append(
                f"{key} is {list(value.shape)} in the file, {list(wanted)} in the "
                "network"
            )
            continue
        found[path] = _laid_out(np.asarray(value, np.float32))
        bias = _bias_before(key)
        if isinstance(network, BNInception) and bias in weights:
            used.add(bias)
            found[path] = found[path] - np.asarray(weights[bias], np.float32)
    wrong += [
        f"{key} is unexpected"
        for key in weights
        if key not in used
        and not key.startswith(IGNORED)
        and not key.endswith(".num_batches_tracked")
    ]
    if wrong:
        more = f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(f"{'; '.join(wrong[:SHOWN])}{more}")
    return found


def key_of(network: Any, path: str) -> str:
    """Torch's key for a variable of a backbone, such as "Conv_0/kernel"."""
    *modules, leaf = path.split("/")
    if isinstance(network, BNInception):
        layer = "_".join(modules)
    elif isinstance(network, ResNet):
        layer = _residual(network, modules)
    else:
        raise TypeError(f"no torch names are known for a {type(network).__name__}")
    return f"{layer}.{LEAVES[leaf]}"


def _residual(network: ResNet, modules: list[str]) -> str:
    *outer, inner = modules
    if inner in SHORTCUTS:
        layer = SHORTCUTS[inner]
    else:
        kind, number = inner.split("_")
        layer = f"{PARTS[kind]}{int(number) + 1}"
    if not outer:
        return layer
    stage, index = 1, int(outer[0].split("_")[1])
    while index >= network.stage_sizes[stage - 1]:
        index -= network.stage_sizes[stage - 1]
        stage += 1
    return f"layer{stage}.{index}.{layer}"


def _bias_before(key: str) -> str:
    """The key of the bias that a running mean contains; "" for other keys."""
    if not key.endswith("_bn.running_mean"):
        return ""
    return key.removesuffix("_bn.running_mean") + ".bias"


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Torch's shape of a variable of ours."""
    if len(shape) != 4:
        return tuple(shape)
    height, width, inputs, outputs = shape
    return outputs, inputs, height, width


def _laid_out(value: np.ndarray) -> np.ndarray:
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
