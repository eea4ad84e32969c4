"""Training labels made wrong on purpose, by flag."""

import dataclasses

import numpy as np

import metric
from jaxfaces.data.sources import Source
from jaxfaces.engine.config import knob

_MAKERS = {"symmetric": "symmetric_noise", "pair_flip": "pair_flip_noise"}


@dataclasses.dataclass(frozen=True)
class LabelNoise:
    """Which share of labels is wrong, and how; a task nests it to get its flags."""

    label_noise: float = knob(
        0.0, "Share of training labels that are made wrong.", lower=0.0, upper=0.99
    )
    label_noise_kind: str = knob(
        "symmetric",
        "A wrong label is any other class, or always the next.",
        choices=tuple(_MAKERS),
    )
    label_noise_seed: int = knob(0, "Which labels are wrong.", lower=0)

    def applied(self, source: Source) -> Source:
        """The source with labels 0 … C - 1 as training shall see them."""
        if not self.label_noise:
            return source
        make = getattr(metric, _MAKERS[self.label_noise_kind])
        labels, _ = make(self.label_noise_seed, source.labels, self.label_noise)
        return dataclasses.replace(source, labels=labels.astype(np.int32))
