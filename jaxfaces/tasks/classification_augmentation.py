"""Augmentation of images to classify by flag: crop, flip, colour, policy, cutout."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

import augment
from jaxfaces.engine import sharding
from jaxfaces.engine.config import knob
from jaxfaces.tasks.image_framing import ImageFraming

NAMES = (
    *("none", "cutout", "autoaugment", "dada", "randaugment", "trivialaugment"),
    *("unsearched", "random"),
)
MOST_SEEDS = 1 << 32
# The published policy for each data set: those found on CIFAR-10 are the usual choice
# for small images, those found on ImageNet for all others.
FOUND = {
    "autoaugment": {"svhn_cropped": "svhn", "imagenet2012": "imagenet"},
    "dada": {
        "svhn_cropped": "svhn",
        "imagenet2012": "imagenet",
        "cifar100": "cifar100",
    },
}


# What may follow a name and a colon; after random it is a number.
VARIANTS = {
    "autoaugment": ("cifar10", "svhn", "imagenet"),
    "dada": ("cifar10", "cifar100", "svhn", "imagenet"),
    "trivialaugment": ("standard", "wide"),
}


@dataclasses.dataclass(frozen=True)
class ClassificationAugmentation(ImageFraming):
    """What happens to a training image, in this order; a task nests it for its flags.

    Crop and flip, colour jitter, the policy, lighting, cutout. A policy sees uint8.
    """

    policy: str = knob(
        "none",
        "none, without cutout; cutout alone; autoaugment, dada, randaugment, "
        "trivialaugment with cutout; of a data set such as dada:cifar100; "
        "trivialaugment:standard of narrower ranges; unsearched, where a search "
        "begins; random:SEED, 25 random pairs; a policy FILE.json; or dada:FILE.json, "
        "the 25 best of one.",
    )
    randaugment_count: int = knob(2, "Operations an image, N.", lower=1, upper=4)
    randaugment_magnitude: int = knob(9, "Their strength, M.", lower=0, upper=30)

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        super().__post_init__()
        name, colon, of = self.policy.partition(":")
        if self.policy.endswith(".json"):
            return
        if name not in NAMES:
            raise ValueError(
                f"--policy={self.policy} is none of {', '.join(NAMES)}, nor a .json "
                "file"
            )
        variants = VARIANTS.get(name, ())
        seeded = name == "random" and of.isdecimal() and int(of) < MOST_SEEDS
        if colon and of not in variants and not seeded:
            known = ", ".join(f"{name}:{each}" for each in variants)
            known = f"random:0 … {MOST_SEEDS - 1}" if name == "random" else known
            known += " and dada:FILE.json" if name == "dada" else ""
            raise ValueError(f"--policy={self.policy}; there is {known or name}")

    @property
    def policy_file(self) -> Path | None:
        """The file that --policy names, if any."""
        if not self.policy.endswith(".json"):
            return None
        return Path(self.policy.removeprefix("dada:"))

    def make_policy(self, dataset: str) -> Any:
        """The policy for a data set; None for "none" and "cutout".

        Raises:
          ValueError: there is none of that name, or its file is damaged or missing.
        """
        name, _, of = self.policy.partition(":")
        try:
            if self.policy_file:
                policy = augment.load_policy(self.policy_file)
                return augment.best_sub_policies(policy) if name == "dada" else policy
            if name == "randaugment":
                return augment.rand_augment(
                    count=self.randaugment_count, magnitude=self.randaugment_magnitude
                )
            if name == "trivialaugment":
                return augment.trivial_augment(wide=of != "standard")
            if name == "unsearched":
                return augment.unsearched_policy()
            if name == "random":
                return augment.random_policy(jax.random.key(int(of or 0)))
            if name in FOUND:
                make = augment.auto_augment if name == "autoaugment" else augment.dada
                return make(of or FOUND[name].get(dataset, "cifar10"))
        except (ValueError, OSError) as error:
            raise ValueError(f"--policy={self.policy}: {error}") from error
        return None

    def train(
        self, key: jax.Array, images: jax.Array, policy: Any, colours: str
    ) -> jax.Array:
        """Augments a batch.

        Args:
          key: PRNG key.
          images: (B, H, W, C) uint8.
          policy: what `make_policy` gave.
          colours: of the network, whose mean colour fills what cutout covers.

        Returns:
          (B, H', W', C) float32 in [0, 1], lighting apart, which is not clipped.
        """
        crop, flip, jitter, policies, lighting, cutout = jax.random.split(key, 6)
        images = self.before(crop, flip, jitter, images)
        if policy is not None:
            mesh = sharding.devices()
            images = augment.apply(policy, policies, images, mesh=mesh)
        covers = self.policy != "none"
        return self.after(lighting, cutout, images, colours, covers=covers)
