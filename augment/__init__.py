"""Augmentation of image batches as pure, jittable and differentiable functions.

The names below load on first use (PEP 562), so that importing this package does not
import JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from augment.geometric import affine as affine
    from augment.geometric import affine_matrices as affine_matrices
    from augment.geometric import centre_crop as centre_crop
    from augment.geometric import random_affine as random_affine
    from augment.geometric import random_crop as random_crop
    from augment.geometric import random_flip as random_flip
    from augment.geometric import random_resized_crop as random_resized_crop
    from augment.geometric import resized_crop as resized_crop

_MODULES = {
    "affine": "geometric",
    "affine_matrices": "geometric",
    "centre_crop": "geometric",
    "random_affine": "geometric",
    "random_crop": "geometric",
    "random_flip": "geometric",
    "random_resized_crop": "geometric",
    "resized_crop": "geometric",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
