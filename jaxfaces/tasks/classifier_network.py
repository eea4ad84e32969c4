"""A network from images to logits by flag."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from jaxfaces.engine import net
from jaxfaces.engine.config import knob
from jaxfaces.models import classifier
from jaxfaces.tasks.network_options import NetworkOptions


@dataclasses.dataclass(frozen=True)
class ClassifierNetwork(NetworkOptions):
    """A network that tells classes apart; a task nests it to get its flags."""

    network: str = knob(
        "wrn_10_1",
        "wrn_DEPTH_FACTOR such as wrn_40_2, pyramidnet_DEPTH_ALPHA, "
        + ", ".join(classifier.NETWORKS)
        + ".",
    )
    remat: bool = knob(
        False, "Compute blocks twice to hold fewer activations in memory."
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        try:
            classifier.known(self.network)
        except ValueError as error:
            raise ValueError(f"--network={self.network}: {error}") from error
        if self.network.startswith("shake_shake") and self.width % 2:
            raise ValueError(f"--width={self.width} must be even for {self.network}")

    def net(self, classes: int) -> net.Net:
        """The pure functions, for so many classes."""
        return net.from_linen(self._module(classes))

    def _module(self, classes: int) -> classifier.Classifier:
        return classifier.make(
            self.network, classes, remat=self.remat, **self.arguments()
        )

    @property
    def taken_colours(self) -> str:
        """How the network takes images, a name of `layers.COLOURS`."""
        return self._module(2).backbone.colours

    @staticmethod
    def classes(params: Mapping[str, Any]) -> int:
        """How many classes trained parameters tell apart."""
        return len(params["head"]["bias"])

    def smoke(self) -> Self:
        """The same network, narrow, and shallow where its name says how deep it is."""
        kind = self.network.partition("_")[0]
        shallow = {"wrn": "wrn_10_1", "pyramidnet": "pyramidnet_11_8"}
        network = shallow.get(kind, self.network)
        return dataclasses.replace(super().smoke(), network=network)
