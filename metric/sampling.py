"""Batches of P classes x K images or tracklets, as a pure function of (seed, step)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

_IMAGE_WORDS = ("classes", "images")
_TRACKLET_WORDS = ("identities", "tracklets")


def class_balanced_plan(
    labels: ArrayLike,
    *,
    classes_per_batch: int,
    images_per_class: int,
    seed: int,
    min_images: int = 1,
) -> Callable[[int], np.ndarray]:
    """Plans batches of P classes x K images (the protocol of Wang et al. 2019's code).

    Every epoch permutes the classes, walks through them in groups of P and drops a last
    group that is short. A class of K images or more gives K of them without
    replacement, a smaller one repeats all of its images in turn; a class of one image
    then gives positives at distance 0, which `min_images=2` leaves out.

    Args:
      labels: (N,) class ids of any sortable type.
      classes_per_batch: P >= 1.
      images_per_class: K >= 1.
      seed: random seed, >= 0.
      min_images: classes of fewer images are never drawn.

    Returns:
      `plan`: plan(n) gives the (P * K,) int64 row numbers of the n-th batch, K
      consecutive ones a class, without replaying the batches before it.

    Raises:
      ValueError: fewer than P classes qualify, or P or K is below 1.
    """
    if images_per_class < 1:
        raise ValueError(f"images_per_class must be 1 or more, got {images_per_class}")
    members = _members(labels, min_images)
    per_epoch = _per_epoch(len(members), classes_per_batch, min_images)
    # A partial of a module's function, so that worker processes can be sent the plan.
    draw = functools.partial(_draw, count=images_per_class)
    return functools.partial(_batch, members, classes_per_batch, draw, per_epoch, seed)


def tracklet_plan(
    labels: ArrayLike,
    tracklets: ArrayLike,
    *,
    identities_per_batch: int,
    tracklets_per_identity: int,
    frames_per_tracklet: int,
    seed: int,
    min_tracklets: int = 1,
) -> Callable[[int], np.ndarray]:
    """Plans batches of P identities x T tracklets x F frames, to tell people apart.

    Every epoch permutes the identities and walks through them in groups of P, as
    `class_balanced_plan` does. An identity of T tracklets or more gives T different
    ones. One of fewer repeats all of them in turn, each time with frames of its own: an
    identity of one tracklet then gives positive pairs of one camera and one walk, which
    `min_tracklets=2` leaves out. A tracklet of F frames or more gives F of them without
    replacement, a shorter one repeats all of its frames in turn.

    Differs from the release of Wang et al. 2019 (Online Soft Mining), which draws
    identities anew for every batch and may draw one tracklet twice.

    Args:
      labels: (N,) identity of every frame, of any sortable type.
      tracklets: (N,) tracklet of every frame, likewise; one is of one identity.
      identities_per_batch: P >= 1.
      tracklets_per_identity: T >= 1.
      frames_per_tracklet: F >= 1.
      seed: random seed, >= 0.
      min_tracklets: identities of fewer tracklets are never drawn.

    Returns:
      `plan`: plan(n) gives the (P * T * F,) int64 row numbers of the n-th batch, F
      consecutive ones a tracklet and T * F an identity, without replaying the batches
      before it.

    Raises:
      ValueError: fewer than P identities qualify, P, T or F is below 1, or a tracklet
        has two identities.
    """
    for name, least in (
        ("tracklets_per_identity", tracklets_per_identity),
        ("frames_per_tracklet", frames_per_tracklet),
    ):
        if least < 1:
            raise ValueError(f"{name} must be 1 or more, got {least}")
    members = _walks(labels, tracklets, min_tracklets)
    per_epoch = _per_epoch(
        len(members), identities_per_batch, min_tracklets, _TRACKLET_WORDS
    )
    draw = functools.partial(
        _draw_frames, tracklets=tracklets_per_identity, frames=frames_per_tracklet
    )
    return functools.partial(
        _batch, members, identities_per_batch, draw, per_epoch, seed
    )


def tracklet_epoch_batches(
    labels: ArrayLike,
    tracklets: ArrayLike,
    identities_per_batch: int,
    min_tracklets: int = 1,
) -> int:
    """Number of batches of a `tracklet_plan` that offer every identity once."""
    available = len(_walks(labels, tracklets, min_tracklets))
    return _per_epoch(available, identities_per_batch, min_tracklets, _TRACKLET_WORDS)


def _walks(
    labels: ArrayLike, tracklets: ArrayLike, min_tracklets: int
) -> list[list[np.ndarray]]:
    """Row numbers of every tracklet of every identity of at least `min_tracklets`."""
    labels, tracklets = np.asarray(labels), np.asarray(tracklets)
    if labels.shape != tracklets.shape:
        raise ValueError(
            f"one label and one tracklet a frame, got {labels.shape} and "
            f"{tracklets.shape}"
        )
    found: dict[Any, list[np.ndarray]] = {}
    for rows in _members(tracklets, 1):
        if np.any(labels[rows] != labels[rows[0]]):
            raise ValueError(
                f"tracklet {tracklets[rows[0]]} has two identities, among them "
                f"{labels[rows].min()} and {labels[rows].max()}"
            )
        found.setdefault(labels[rows[0]].item(), []).append(rows)
    return [found[key] for key in sorted(found) if len(found[key]) >= min_tracklets]


def _batch(
    members: Sequence[Any],
    classes_per_batch: int,
    draw: Callable[[np.random.Generator, Any], np.ndarray],
    per_epoch: int,
    seed: int,
    n: int,
) -> np.ndarray:
    epoch, group = divmod(int(n), per_epoch)
    start = group * classes_per_batch
    order = _class_order(len(members), seed, epoch)
    # A third word keeps these streams apart from that of the epoch's permutation.
    rng = np.random.default_rng((seed, epoch, 1 + group))
    return np.concatenate(
        [draw(rng, members[c]) for c in order[start : start + classes_per_batch]]
    )


@functools.lru_cache(maxsize=16)
def _class_order(classes: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(classes)


def epoch_batches(
    labels: ArrayLike, classes_per_batch: int, min_images: int = 1
) -> int:
    """Number of batches after which every class was offered once.

    Args:
      labels: (N,) class ids.
      classes_per_batch: P >= 1.
      min_images: classes of fewer images do not count.

    Returns:
      Number of whole groups of P classes, >= 1.

    Raises:
      ValueError: fewer than P classes qualify, or P is below 1.
    """
    available = len(_members(labels, min_images))
    return _per_epoch(available, classes_per_batch, min_images)


def _per_epoch(
    available: int, wanted: int, least: int, words: tuple[str, str] = _IMAGE_WORDS
) -> int:
    classes, images = words
    if wanted < 1:
        raise ValueError(f"{classes}_per_batch must be 1 or more, got {wanted}")
    if available < wanted:
        raise ValueError(
            f"a batch needs {wanted} {classes} of at least {least} {images}, the "
            f"labels have {available}; lower {classes}_per_batch or min_{images}"
        )
    return available // wanted


def _members(labels: ArrayLike, min_images: int) -> list[np.ndarray]:
    """Row numbers of every class of at least `min_images` rows."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must have one axis, got shape {labels.shape}")
    order = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    classes = np.split(order, np.cumsum(counts)[:-1])
    return [rows for rows in classes if len(rows) >= max(1, min_images)]


def _draw(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    if len(rows) < count:
        return np.resize(rng.permutation(rows), count)
    return rng.choice(rows, count, replace=False)


def _draw_frames(
    rng: np.random.Generator, walks: list[np.ndarray], tracklets: int, frames: int
) -> np.ndarray:
    chosen = _draw(rng, np.arange(len(walks)), tracklets)
    return np.concatenate([_draw(rng, walks[t], frames) for t in chosen])
