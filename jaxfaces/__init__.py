"""Differentiable JAX pipelines for faces, fine-grained images and finance."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxfaces.engine.exporting import load_exported as load_exported
    from jaxfaces.engine.loading import Trained as Trained
    from jaxfaces.engine.loading import load as load
    from jaxfaces.engine.loop import run as run

__version__ = "0.1.0"

# Imported on first use: jax and orbax take seconds, `--help` should not.
_PUBLIC = {
    "Trained": "jaxfaces.engine.loading",
    "load": "jaxfaces.engine.loading",
    "load_exported": "jaxfaces.engine.exporting",
    "run": "jaxfaces.engine.loop",
}

__all__ = ["Trained", "load", "load_exported", "run"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
