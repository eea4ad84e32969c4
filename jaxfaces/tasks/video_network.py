"""A network with a classifier on each of three levels, by flag."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfaces.engine.config import knob
from jaxfaces.models import branches, embedder, layers
from jaxfaces.tasks.image_network import ImageNetwork


@dataclasses.dataclass(frozen=True)
class SupervisedNetwork:
    """`branches.DeeplySupervised`; a task nests it to get its flags."""

    backbone: str = knob("small", "Network.", choices=tuple(embedder.BACKBONES))
    width: int = knob(
        0, "Features of its first stage; 0 is its own.", lower=0, upper=4096
    )
    embedding_size: int = knob(
        branches.HIDDEN, "Features of the hidden layers.", lower=1, upper=65536
    )
    colours: str = knob(
        "own",
        "How it takes images: its own way, by ImageNet's mean and deviation, or as "
        "Caffe does.",
        choices=("own", *layers.COLOURS),
    )
    pretrained: str = knob(
        "", "FILE.safetensors with torch's weights of the backbone to start from."
    )
    dtype: str = knob(
        "float32", "Type that the network computes in.", choices=("float32", "bfloat16")
    )
    cpu_conv: str = knob(
        "auto",
        "On a CPU, our own convolutions where they are faster, always, or never.",
        choices=("auto", "on", "off"),
    )

    def make(self, classes: int) -> branches.DeeplySupervised:
        """The module, for so many people to train on."""
        backbone = embedder.make_backbone(
            self.backbone,
            width=self.width,
            dtype=self.dtype,
            cpu_conv=self.cpu_conv,
            colours=self.colours,
        )
        return branches.DeeplySupervised(backbone, classes, hidden=self.embedding_size)

    def check_side(self, side: int) -> None:
        """Raises ValueError for images of a size that the backbone cannot take."""
        self._plain.check_side(side)

    def imported(self, fresh: Mapping[str, Any]) -> Any:
        """What `--pretrained` names, and the variables of the backbone from it."""
        return self._plain.imported(fresh)

    @property
    def _plain(self) -> ImageNetwork:
        """The backbone as other tasks have it."""
        names = ("backbone", "width", "colours", "pretrained", "dtype", "cpu_conv")
        return ImageNetwork(**{name: getattr(self, name) for name in names})

    def smoke(self) -> "SupervisedNetwork":
        """The same network, narrow and not pretrained."""
        return dataclasses.replace(self, width=8, embedding_size=16, pretrained="")
