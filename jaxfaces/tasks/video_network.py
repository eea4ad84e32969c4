"""A network with a classifier on each of three levels, by flag."""

import dataclasses

from jaxfaces.engine.config import group, knob
from jaxfaces.models import branches
from jaxfaces.tasks.image_network import Backbone


@dataclasses.dataclass(frozen=True)
class SupervisedNetwork:
    """`branches.DeeplySupervised`; a task nests it to get its flags."""

    backbone: Backbone = group(Backbone(), prefix="")
    embedding_size: int = knob(
        branches.HIDDEN, "Features of the hidden layers.", lower=1, upper=65536
    )

    def make(self, classes: int) -> branches.DeeplySupervised:
        """The module, for so many classes to train on."""
        return branches.DeeplySupervised(
            self.backbone.make(), classes, hidden=self.embedding_size
        )

    def smoke(self) -> "SupervisedNetwork":
        """The same network, narrow and not pretrained."""
        return dataclasses.replace(
            self, backbone=self.backbone.smoke(), embedding_size=16
        )
