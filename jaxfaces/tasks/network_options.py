"""What all networks of images have in common, by flag."""

import dataclasses
from typing import Any, Self

from jaxfaces.engine.config import knob
from jaxfaces.models import layers


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """How a network is made; the networks of tasks build on it."""

    width: int = knob(
        0, "Features of its first stage; 0 is its own.", lower=0, upper=4096
    )
    pool: str = knob(
        "average",
        "Average its last map, or flatten it to keep positions.",
        choices=("average", "flatten"),
    )
    colours: str = knob(
        "own",
        "How it takes images: its own way; red, green, blue by ImageNet's or CIFAR's "
        "mean and deviation; blue, green, red from 0 to 255 less Caffe's mean; or "
        "as they are.",
        choices=("own", *layers.COLOURS),
    )
    dtype: str = knob(
        "float32", "Type that the network computes in.", choices=("float32", "bfloat16")
    )
    cpu_conv: str = knob(
        "auto",
        "On a CPU, our own convolutions where they are faster, always, or never.",
        choices=("auto", "on", "off"),
    )

    def arguments(self) -> dict[str, Any]:
        """Keywords of what makes the module."""
        fields = dataclasses.fields(NetworkOptions)
        return {field.name: getattr(self, field.name) for field in fields}

    def smoke(self) -> Self:
        """The same network, narrow and quick to compile."""
        return dataclasses.replace(self, width=8, cpu_conv="off")
