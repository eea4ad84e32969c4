"""kornia, albumentations and torchvision, as the benchmark of augmentation times them.

Each function gives runs by name for an operation or policy, none where the library is
not installed or has nothing of the kind. Ranges are ours, resampling is nearest where
the library lets one choose.
"""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Runs = dict[str, Callable]


def peers(name: str, images: np.ndarray) -> Runs:
    """Runs of all peers that have an operation or policy of this kind."""
    return {
        **kornia_runs(name, images),
        **albumentations_runs(name, images),
        **torchvision_runs(name, images),
    }


def kornia_runs(name: str, images: np.ndarray) -> Runs:
    """A batch of float32 tensors at once; a policy draws once for the batch."""
    try:
        import kornia.augmentation as K
        from kornia.augmentation import auto
    except ImportError:
        return {}
    torch = threaded_torch()
    nearest: Any = {"resample": "NEAREST", "p": 1.0}
    operations: dict[str, Callable] = {
        "ShearX": lambda: K.RandomShear((-17.0, 17.0), **nearest),
        "ShearY": lambda: K.RandomShear((0.0, 0.0, -17.0, 17.0), **nearest),
        "TranslateX": lambda: K.RandomTranslate((-0.45, 0.45), None, **nearest),
        "TranslateY": lambda: K.RandomTranslate(None, (-0.45, 0.45), **nearest),
        "Rotate": lambda: K.RandomRotation(30.0, **nearest),
        "AutoContrast": lambda: K.RandomAutoContrast(p=1.0),
        "Invert": lambda: K.RandomInvert(p=1.0),
        "Equalize": lambda: K.RandomEqualize(p=1.0),
        "Solarize": lambda: K.RandomSolarize(p=1.0),
        "Posterize": lambda: K.RandomPosterize((4.0, 8.0), p=1.0),
        "Contrast": lambda: K.RandomContrast((0.1, 1.9), p=1.0),
        "Color": lambda: K.RandomSaturation((0.1, 1.9), p=1.0),
        "Brightness": lambda: K.RandomBrightness((0.1, 1.9), p=1.0),
        "Sharpness": lambda: K.RandomSharpness((0.1, 1.9), p=1.0),
        "Cutout": lambda: K.RandomErasing((0.01, 0.04), p=1.0),
    }
    policies: dict[str, Callable] = {
        "AutoAugment": lambda: auto.AutoAugment("cifar10"),
        "RandAugment": lambda: auto.RandAugment(2, 9),
        "TrivialAugment": lambda: auto.TrivialAugment(),
    }
    made = {**operations, **policies}
    if name not in made:
        return {}
    change = made[name]()
    batch = torch.tensor(images).permute(0, 3, 1, 2).float() / 255

    def run():
        with torch.inference_mode():
            return change(batch)

    return {"kornia, one draw" if name in policies else "kornia": run}


def albumentations_runs(name: str, images: np.ndarray) -> Runs:
    """One image after another. It has no AutoAugment; the other two are put together
    from its operations: `OneOf` fourteen and `SomeOf` fourteen, two of them.
    """
    try:
        import albumentations as A
    except ImportError:
        return {}
    near: Any = {"interpolation": 0, "p": 1}
    made: dict[str, Callable] = {
        "ShearX": lambda: A.Affine(shear={"x": (-17, 17), "y": 0}, **near),
        "ShearY": lambda: A.Affine(shear={"x": 0, "y": (-17, 17)}, **near),
        "TranslateX": lambda: A.Affine(
            translate_percent={"x": (-0.45, 0.45), "y": 0}, **near
        ),
        "TranslateY": lambda: A.Affine(
            translate_percent={"x": 0, "y": (-0.45, 0.45)}, **near
        ),
        "Rotate": lambda: A.Rotate((-30, 30), **near),
        "AutoContrast": lambda: A.AutoContrast(p=1),
        "Invert": lambda: A.InvertImg(p=1),
        "Equalize": lambda: A.Equalize(p=1),
        "Solarize": lambda: A.Solarize(p=1),
        "Posterize": lambda: A.Posterize((4, 7), p=1),
        "Contrast": lambda: A.ColorJitter(0, (0.1, 1.9), 0, 0, p=1),
        "Color": lambda: A.ColorJitter(0, 0, (0.1, 1.9), 0, p=1),
        "Brightness": lambda: A.ColorJitter((0.1, 1.9), 0, 0, 0, p=1),
        "Sharpness": lambda: A.Sharpen(p=1),
        "Cutout": lambda: A.CoarseDropout(p=1),
        "TrivialAugment": lambda: A.OneOf(
            fourteen(
                shear=44.7,
                shift={"translate_px": (-32, 32)},
                turn=135,
                blend=(0.01, 2),
                sharpen=(0, 1),
                threshold=(0, 1),
                bits=(2, 7),
            ),
            p=1,
        ),
        "RandAugment": lambda: A.SomeOf(
            fourteen(  # magnitude 9 of 30
                shear=5.1,
                shift={"translate_percent": (-0.136, 0.136)},
                turn=9,
                blend=(0.73, 1.27),
                sharpen=(0.27, 0.27),
                threshold=(0.7, 0.7),
                bits=(7, 7),
            ),
            n=2,
            replace=True,
        ),
    }
    if name not in made:
        return {}
    change = made[name]()
    kind = {"TrivialAugment": " OneOf", "RandAugment": " SomeOf"}.get(name, "")
    return {
        f"albumentations{kind}": lambda: [
            change(image=each)["image"] for each in images
        ]
    }


def fourteen(
    *,
    shear: float,
    shift: dict[str, tuple[float, float]],
    turn: float,
    blend: tuple[float, float],
    sharpen: tuple[float, float],
    threshold: tuple[float, float],
    bits: tuple[int, int],
) -> list:
    """The operations of TrivialAugment and RandAugment, by albumentations' names."""
    import albumentations as A

    near: Any = {"interpolation": 0, "p": 1}
    [(unit, span)] = shift.items()
    return [
        A.NoOp(p=1),
        A.Affine(shear={"x": (-shear, shear), "y": 0}, **near),
        A.Affine(shear={"x": 0, "y": (-shear, shear)}, **near),
        A.Affine(**{unit: {"x": span, "y": 0}}, **near),
        A.Affine(**{unit: {"x": 0, "y": span}}, **near),
        A.Rotate((-turn, turn), **near),
        A.ColorJitter(blend, 0, 0, 0, p=1),
        A.ColorJitter(0, blend, 0, 0, p=1),
        A.ColorJitter(0, 0, blend, 0, p=1),
        A.Sharpen(sharpen, p=1),
        A.Posterize(bits, p=1),
        A.Solarize(threshold, p=1),
        A.AutoContrast(p=1),
        A.Equalize(p=1),
    ]


def torchvision_runs(name: str, images: np.ndarray) -> Runs:
    """uint8 tensors: one image after another, and a batch that shares one draw."""
    v2, _ = torchvision_transforms()
    if v2 is None:
        return {}
    made: dict[str, Callable] = {
        "AutoAugment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
        "RandAugment": lambda: v2.RandAugment(2, 9),
        "TrivialAugment": lambda: v2.TrivialAugmentWide(),
    }
    if name not in made:
        return {}
    torch, change = threaded_torch(), made[name]()
    batch = torch.tensor(images).permute(0, 3, 1, 2).contiguous()

    def each():
        with torch.inference_mode():
            return [change(image) for image in batch]

    def together():
        with torch.inference_mode():
            return change(batch)

    return {"torchvision": each, "torchvision, one draw": together}


@functools.cache
def torchvision_transforms() -> tuple[Any, str]:
    """Its transforms and what there is to say of them; None and why not.

    torchvision 0.28 from the package index does not load beside torch's CPU build: it
    describes two compiled operators that are not there. The transforms use neither, so
    that their names are declared and the import is tried again.
    """
    try:
        from torchvision.transforms import v2
    except ImportError as reason:
        return None, f"left out, cannot be imported: {reason}"
    except RuntimeError as reason:
        return _with_declared_operators(reason)
    return v2, "as installed"


def _with_declared_operators(reason: RuntimeError) -> tuple[Any, str]:
    import torch

    for name in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    form = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    try:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", form)
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as again:
        return None, f"left out, cannot be imported: {reason}; then: {again}"
    return v2, f"without its compiled operators, which fail to register: {reason}"


def threaded_torch():
    """torch with as many threads as this process has cores."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch
