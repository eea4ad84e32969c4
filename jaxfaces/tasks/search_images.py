"""The training batch of a search as its draws change it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import augment
from augment.relaxations import clamp
from jaxfaces.models import layers
from jaxfaces.tasks.image_augmentation import as_float
from jaxfaces.tasks.image_framing import ImageFraming


@dataclasses.dataclass(frozen=True)
class SearchImages:
    """A batch, cropped and flipped once for all draws, and the noise of each.

    Attributes:
      framing: what happens before and after a policy.
      colours: by whose statistics images are standardised.
      images: (B, H, W, C) uint8, as draws find them.
      keys: (D,) of signs and places of operations, one for each draw.
      lighting: PRNG key.
      cutout: PRNG key.
    """

    framing: ImageFraming
    colours: str
    images: jax.Array
    keys: jax.Array
    lighting: jax.Array
    cutout: jax.Array

    def changed(self, draw: augment.Draw) -> jax.Array:
        """(D, B, H, W, C) the batch by each of D draws, standardised."""
        return self._by(draw, self.images, self.keys, "reference")

    def smooth(
        self, draw: augment.Draw, number: jax.Array, levels: jax.Array
    ) -> jax.Array:
        """(B, H, W, C) by one of the draws at levels (1, n), differentiable in them.

        Bilinear and unrounded, signs and places as in `changed`. A level outside [0, 1]
        has the derivative at the end where it acts, so that it can return.
        """
        one = dataclasses.replace(
            draw,
            sub_policies=draw.sub_policies[number][None],
            operations=draw.operations[number][None],
            levels=clamp(levels),
            applied=draw.applied[number][None],
        )
        images, key = as_float(self.images), self.keys[number][None]
        return self._by(one, images, key, "smooth")[0]

    def _by(self, draw: augment.Draw, images: jax.Array, keys: Any, mode: Any) -> Any:
        count = len(draw.levels)
        # Of no mesh: parts of copies in a row are not where a device's images are.
        copies = augment.apply_draw(
            draw,
            jnp.tile(images, (count, 1, 1, 1)),
            keys,
            mode=mode,
        )
        return jax.vmap(self._finished)(copies.reshape(count, *images.shape))

    def _finished(self, images: jax.Array) -> jax.Array:
        colours = self.colours
        shown = self.framing.after(self.lighting, self.cutout, images, colours)
        return layers.standardize(shown, colours)


def search_images(
    framing: ImageFraming,
    colours: str,
    key: jax.Array,
    images: jax.Array,
    *,
    draws: int,
) -> SearchImages:
    """Crops and flips (B, H, W, C) uint8 images for so many draws of a policy."""
    crop, flip, jitter, acting, lighting, cutout = jax.random.split(key, 6)
    images = framing.before(crop, flip, jitter, images)
    keys = acting[None] if draws == 1 else jax.random.split(acting, draws)
    return SearchImages(framing, colours, images, keys, lighting, cutout)
