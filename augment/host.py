"""Policies on NumPy arrays, for a loader on the host."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from augment import image_ops, policy
from augment.policy import Policy


class HostPolicy:
    """Applies a policy to the images of NumPy examples, on the CPU.

    An instance is what grain's `dataset.random_map(...)` takes, and a plain function
    for any other loader. It compiles once for each shape of image; threads may share
    it. A call has a cost of its own: with small images batch first, then map.

        change = augment.HostPolicy(augment.trivial_augment())
        dataset = dataset.batch(64).random_map(change)
    """

    def __init__(self, policy: Policy, *, field: str = "image"):
        """Prepares the policy: its arrays come to the host, once.

        Args:
          policy: what to draw from.
          field: entry of an example that holds its image.
        """
        # NumPy, not an array of a CPU device: a worker to which this is pickled would
        # put that on an accelerator.
        self.policy = jax.device_get(policy)
        self.field = field

    def __call__(
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Changes the image of one example, or each image of a batch.

        Args:
          example: entries by name; `field` is an image (H, W, C) or a batch
            (B, H, W, C), uint8, C = 1 or 3.
          rng: where the randomness comes from; the same state repeats the result.

        Returns:
          The same entries with the image changed, uint8.

        Raises:
          TypeError: the example is no mapping, or `rng` no generator.
          KeyError: there is no entry `field`.
          ValueError: the image is not as above.
        """
        if not isinstance(example, Mapping) or not isinstance(rng, np.random.Generator):
            raise TypeError(
                "expected an example such as {'image': array} and a generator such as "
                f"np.random.default_rng(0), got {type(example).__name__} and "
                f"{type(rng).__name__}"
            )
        if self.field not in example:
            raise KeyError(
                f"no entry {self.field!r} in an example with {sorted(example)}; name "
                "the image's entry by field=…"
            )
        image = np.asarray(example[self.field])
        image_ops.check_images(image, "reference", rank=4 if image.ndim == 4 else 3)
        batch = image if image.ndim == 4 else image[None]
        seed = rng.integers(1 << 32, dtype=np.uint32)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            changed = np.asarray(_apply(self.policy, seed, batch))
        return {**example, self.field: changed.reshape(image.shape)}

    def random_map(
        self, element: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, Any]:
        """The same, by the name that grain's transformations have."""
        return self(element, rng)


@jax.jit
def _apply(policy_: Policy, seed: jax.Array, images: jax.Array) -> jax.Array:
    key = jax.random.key(seed)
    return policy.apply(policy_, key, images, grouping=len(images))
