"""Generated images for tests and for trying a task on nothing but noise and stripes."""

import numpy as np

from jaxfaces.data.sources import Source, from_arrays


def made_up(
    classes: int = 4,
    images_per_class: int = 16,
    image_size: int = 16,
    channels: int = 3,
    seed: int = 0,
) -> Source:
    """Generated images whose class can be seen: noisy gratings, one direction a class.

    Args:
      classes: number of directions, evenly spread over half a turn.
      images_per_class: images of each, differing in phase and noise.
      image_size: side in pixels.
      channels: 1 or 3; with 3 the classes are tinted too.
      seed: of phase and noise.

    Returns:
      The source, its rows ordered by class.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), images_per_class)
    angle = np.pi * labels / classes
    y, x = np.mgrid[:image_size, :image_size] / image_size - 0.5
    along = np.multiply.outer(np.cos(angle), x) + np.multiply.outer(np.sin(angle), y)
    phase = rng.uniform(-0.15, 0.15, (len(labels), 1, 1))
    wave = np.sin(2 * np.pi * (3 * along + phase))[..., None]  # (N, H, W, 1)
    turn = 2 * np.pi * (labels[:, None] / classes + np.arange(channels) / 3)
    tint = 0.7 + 0.3 * np.cos(turn) if channels > 1 else np.ones((len(labels), 1))
    noise = rng.normal(0, 20, (len(labels), image_size, image_size, channels))
    pixels = 128 + 90 * wave * tint[:, None, None] + noise
    pixels = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    return from_arrays(pixels, labels, tuple(f"class {i}" for i in range(classes)))
