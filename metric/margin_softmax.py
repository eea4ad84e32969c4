"""Softmax losses over cosines with class vectors, with and without a margin."""

import math
from collections.abc import Callable
from typing import Unpack

import jax
import jax.numpy as jnp

from metric import class_vectors as class_vectors_lib
from metric.class_vectors import Given
from metric.pairs import Pairs, Reduction


def normalized_softmax_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    *,
    temperature: float = 0.05,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Cross-entropy of cosines with the class vectors (Zhai & Wu 2019, section 3).

    With cos_k the cosine of an embedding and class vector k, and y its class:
    -log(exp(cos_y / temperature) / sum_k exp(cos_k / temperature)).

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids, or (B, C) weights >= 0 of the classes: the sum of
        each class's loss times its weight.
      class_vectors: (C, D) raw class vectors, normalised inside.
      temperature: divisor of the cosines, > 0.
      reduction: "mean", or "none" for the examples' values (B,), times their weights.
      **given: `valid`, `weights`, `axis_name`, `block_rows` of
        `metric.class_vectors.Given`.

    Returns:
      Scalar loss, float32 or float64.

    Raises:
      ValueError: an argument is out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    class_vectors_lib.check_positive("temperature", temperature)
    return _loss(
        lambda cosines: cosines, 1 / temperature,
        embeddings, labels, class_vectors, reduction, given,
    )  # fmt: skip


def proxy_nca_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    *,
    temperature: float = 1 / 9,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """ProxyNCA++: softmax over squared distances (Teh et al., ECCV 2020, equation 5).

    With d_k the distance of the unit embedding and unit class vector k:
    -log(exp(-d_y^2 / temperature) / sum_k exp(-d_k^2 / temperature)). As d^2 is
    2 - 2 cos, that is `normalized_softmax_loss` at half the temperature.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids, or (B, C) weights >= 0 of the classes.
      class_vectors: (C, D) raw proxies, normalised inside.
      temperature: divisor of the squared distances, > 0.
      reduction: "mean", or "none" for the examples' values (B,), times their weights.
      **given: see `normalized_softmax_loss`.

    Returns:
      Scalar loss, float32 or float64.

    Raises:
      ValueError: an argument is out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    return normalized_softmax_loss(
        embeddings, labels, class_vectors,
        temperature=temperature / 2, reduction=reduction, **given,
    )  # fmt: skip


def cosface_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    *,
    margin: float = 0.35,
    scale: float = 64.0,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Softmax with a margin on the own class's cosine (Wang et al., CVPR 2018, eq. 4).

    The own class scores scale (cos_y - margin), every other one scale cos_k.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids, or (B, C) weights >= 0 of the classes: the sum of
        each class's loss, with the margin on that class, times its weight.
      class_vectors: (C, D) raw class vectors, normalised inside.
      margin: what the own cosine must be ahead, >= 0.
      scale: factor of the cosines, > 0.
      reduction: "mean", or "none" for the examples' values (B,), times their weights.
      **given: see `normalized_softmax_loss`.

    Returns:
      Scalar loss, float32 or float64.

    Raises:
      ValueError: an argument is out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    class_vectors_lib.check_range("margin", margin, 0, math.inf)
    class_vectors_lib.check_positive("scale", scale)
    return _loss(
        lambda cosines: cosines - margin, scale,
        embeddings, labels, class_vectors, reduction, given,
    )  # fmt: skip


def arcface_loss(
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Softmax with a margin on the own class's angle (Deng et al., CVPR 2019, eq. 3).

    The own class, at angle t, scores scale cos(t + margin), every other one scale
    cos_k. Beyond t = pi - margin, where cos(t + margin) would rise again, it scores
    scale (cos t - margin sin(margin)) as in the authors' code: that falls on, from
    -cos(margin) - margin sin(margin), less than the -1 before it, so the score falls
    from t = 0 to pi. At both ends the angle has no direction: the gradient is 0.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids, or (B, C) weights >= 0 of the classes: the sum of
        each class's loss, with the margin on that class, times its weight.
      class_vectors: (C, D) raw class vectors, normalised inside.
      margin: angle in radians, in [0, pi / 2].
      scale: factor of the cosines, > 0.
      reduction: "mean", or "none" for the examples' values (B,), times their weights.
      **given: see `normalized_softmax_loss`.

    Returns:
      Scalar loss, float32 or float64.

    Raises:
      ValueError: an argument is out of range.
      AssertionError: shapes disagree (checked while tracing).
    """
    if isinstance(margin, int | float) and not 0 <= margin <= math.pi / 2:
        raise ValueError(f"margin is in radians, 0 to pi / 2, got {margin}")
    class_vectors_lib.check_positive("scale", scale)
    return _loss(
        lambda cosines: add_angle(cosines, margin), scale,
        embeddings, labels, class_vectors, reduction, given,
    )  # fmt: skip


def add_angle(cosines: jax.Array, margin: float) -> jax.Array:
    """cos(t + margin) from cos t, and cos t - margin sin(margin) beyond pi - margin."""
    squared = (1 - cosines) * (1 + cosines)
    flat = squared <= 0  # rounding may pass 1; False for NaN
    sines = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squared)))
    ahead = cosines * jnp.cos(margin) - sines * jnp.sin(margin)
    beyond = cosines < -jnp.cos(margin)
    return jnp.where(beyond, cosines - margin * jnp.sin(margin), ahead)


def own_score(scores: jax.Array, own: jax.Array) -> jax.Array:
    """(b,) the score of each row of (b, C) where its mask is True, once a row."""
    return jnp.sum(jnp.where(own, scores, 0), axis=1)


def rest_score(scores: jax.Array, own: jax.Array) -> jax.Array:
    """Log-sum-exp (b,) of each row's scores (b, C) but its own.

    Cross-entropy is softplus(rest - own), which keeps its digits where it is small.
    With one class alone the rest is as low as a number gets, and that is 0.
    """
    # Half of it: a difference of two scores must not overflow.
    lowest = jnp.finfo(scores.dtype).min / 2
    return jax.nn.logsumexp(jnp.where(own, lowest, scores), axis=1)


def all_rests(scores: jax.Array) -> jax.Array:
    """For each class of each row log-sum-exp of the other scores, (b, C).

    Taking one term out of a sum loses all digits where it is the sum, so the row's
    largest term is left out of a sum of its own; any other is at most one half.
    """
    top = jax.nn.one_hot(jnp.argmax(scores, axis=1), scores.shape[1], dtype=bool)
    without_top = rest_score(scores, top)
    whole = jax.nn.logsumexp(scores, axis=1, keepdims=True)
    share = jnp.where(top, 0, jnp.exp(scores - whole))
    return jnp.where(top, without_top[:, None], whole + jnp.log1p(-share))


def _loss(
    own_cosine: Callable[[jax.Array], jax.Array],
    scale: float | jax.Array,
    embeddings: jax.Array,
    labels: jax.Array,
    class_vectors: jax.Array,
    reduction: Reduction,
    given: Given,
) -> jax.Array:
    """Cross-entropy of scaled cosines, that of the own class changed first."""

    def rows(pairs: Pairs) -> jax.Array:
        cosines, soft = pairs.products(), pairs.extra.soft
        if soft is None:
            mine = own_cosine(own_score(cosines, pairs.positive))
            rest = rest_score(scale * cosines, pairs.positive)
            return jax.nn.softplus(rest - scale * mine)
        behind = all_rests(scale * cosines) - scale * own_cosine(cosines)
        return jnp.sum(soft * jax.nn.softplus(behind), axis=1)

    return class_vectors_lib.per_example(
        rows, embeddings, labels, class_vectors, reduction, **given
    )
