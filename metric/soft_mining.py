"""Online soft mining with class-aware attention (Wang et al., AAAI 2019)."""

from typing import Any, Literal, Unpack, cast

import jax
import jax.numpy as jnp

from metric import layout
from metric import pairs as pairs_lib
from metric.attention import class_aware_attention
from metric.pairs import Given, Pairs, Reduction, Term

SigmaConvention = Literal["paper", "normal"]

_CHOICES = {
    "mining": ("soft", "none"),
    "attention": ("prob", "gauss", "none"),
    "sigma_convention": ("paper", "normal"),
    "pair": ("min", "product"),
    "gradient": ("weights_const", "full"),
}


def osm_caa_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    logits: jax.Array | None = None,
    context_vectors: jax.Array | None = None,
    ref_logits: jax.Array | None = None,
    alpha: float = 1.2,
    sigma: float = 0.8,
    balance: float = 0.5,
    mining: Literal["soft", "none"] = "soft",
    attention: Literal["prob", "gauss", "none"] = "prob",
    attention_width: float = 0.68,
    sigma_convention: SigmaConvention = "paper",
    pair: Literal["min", "product"] = "min",
    gradient: Literal["weights_const", "full"] = "weights_const",
    legacy_pair_scale: bool = False,
    reduction: Reduction = "mean",
    **given: Unpack[Given],
) -> jax.Array:
    """Contrastive loss whose pairs are weighed by closeness and trust in their items.

    With d the distance of unit embeddings, s the scores of `online_soft_mining` and a
    the values of `class_aware_attention`, pairs weigh w_ij = s_ij min(a_i, a_j) and

        L_P = 1/2 sum w d² / sum w              over positive pairs,
        L_N = 1/2 sum w max(0, alpha - d)² / sum w      over negative pairs,
        loss = (1 - balance) L_P + balance L_N,

    each sum over the pairs of the whole batch; a set without weight pays nothing.
    `mining="none"` is s = 1, `attention="none"` a = 1; both together average the plain
    squared contrastive terms over all pairs.

    Differs: the released code is `logits=` of its classifier, `attention="gauss"`,
    `sigma_convention="normal"`, `legacy_pair_scale=True`.

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids, columns of the logits; with attention "none"
        `same=` does as well.
      logits: (B, C) of a classifier over the classes.
      context_vectors: (C, D) class context vectors in place of logits, the rows of a
        classifier (the transpose of a Dense kernel).
      ref_logits: (G, C) of separate references, needed with `ref=` and `logits=`.
      alpha: distance in [0, 2] beyond which negatives pay nothing.
      sigma: width > 0 of the positive score.
      balance: share of the negative pairs, in [0, 1].
      mining: "soft" or "none".
      attention: "prob", "gauss" (see `class_aware_attention`) or "none".
      attention_width: width > 0 of "gauss".
      sigma_convention: "paper" is exp(-d²/sigma²), "normal" exp(-d²/(2 sigma²)).
      pair: a pair's attention is the "min" of its items' (paper) or their "product".
      gradient: "weights_const" keeps weights constant, so that context vectors and
        logits get no gradient; "full" differentiates everything.
      legacy_pair_scale: divide by the number of pairs, as the released code does to its
        gradient: 1540 for 56 items. Compare with it so, do not train so.
      reduction: "mean", or "none" for shares (B,) that add up to the loss.
      **given: `valid`, `same`, `ref`, `pairs` … of `metric.pairs.Given`; a pair's
        weight multiplies w.

    Returns:
      Scalar loss, float32 or float64; 0 where no pair has weight.

    Raises:
      ValueError: an argument is unknown, out of range or missing.
      AssertionError: shapes disagree (checked while tracing).
    """
    _check(
        {"sigma": sigma, "attention_width": attention_width}, mining=mining, pair=pair,
        attention=attention, sigma_convention=sigma_convention, gradient=gradient,
    )  # fmt: skip
    own, others = None, None
    if attention != "none":
        own, others = _attention_of_both(
            embeddings, labels, logits, context_vectors, ref_logits, given,
            attention=attention, attention_width=attention_width,
        )  # fmt: skip

    def rows(pairs: Pairs) -> tuple[Term, Term]:
        d = pairs.distances()
        near = _hinge(alpha, d)
        closeness = (
            _closeness(d, near, sigma, sigma_convention)
            if mining == "soft"
            else (jnp.ones_like(d), jnp.ones_like(d))
        )
        trust = 1.0 if others is None else _both(pairs.extra, others, pair)

        def term(mask: jax.Array, score: jax.Array, paid: jax.Array) -> Term:
            w = jnp.where(mask, pairs.weighed(mask) * score * trust, 0)
            if gradient == "weights_const":
                w = jax.lax.stop_gradient(w)
            paid = jnp.where(mask, paid, 0)
            return Term(jnp.sum(w * paid, axis=1) / 2, jnp.sum(w, axis=1))

        far_term = term(pairs.positive, closeness[0], jnp.square(d))
        near_term = term(pairs.negative, closeness[1], jnp.square(near))
        return (
            far_term._replace(total=(1 - balance) * far_term.total),
            near_term._replace(total=balance * near_term.total),
        )

    loss = pairs_lib.per_pair(rows, embeddings, labels, reduction, extra=own, **given)
    if not legacy_pair_scale:
        return loss
    return loss / jnp.maximum(_pair_count(embeddings, labels, given), 1)


def online_soft_mining(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    alpha: float = 1.2,
    sigma: float = 0.8,
    sigma_convention: SigmaConvention = "paper",
    **given: Unpack[Given],
) -> tuple[jax.Array, jax.Array]:
    """Scores of all pairs: near positives and near negatives score high.

    exp(-d²/sigma²) for positive pairs and max(0, alpha - d) for negative ones, where d
    is the distance of unit embeddings (Wang et al. 2019).

    Args:
      embeddings: (B, D) raw network outputs, normalised inside.
      labels: (B,) integer class ids.
      alpha: distance in [0, 2] beyond which a negative pair scores 0.
      sigma: width > 0 of the positive score.
      sigma_convention: "paper" as above, "normal" for exp(-d²/(2 sigma²)).
      **given: see `metric.pairs.Given`; a pair's weight multiplies its score.

    Returns:
      Scores (B, G) of the positive pairs and of the negative ones, 0 elsewhere.
    """
    _check({"sigma": sigma}, sigma_convention=sigma_convention)

    def rows(pairs: Pairs) -> tuple[jax.Array, jax.Array]:
        d = pairs.distances()
        far, near = _closeness(d, _hinge(alpha, d), sigma, sigma_convention)
        return (
            jnp.where(pairs.positive, pairs.weighed(pairs.positive) * far, 0),
            jnp.where(pairs.negative, pairs.weighed(pairs.negative) * near, 0),
        )

    return pairs_lib.over_blocks(rows, layout.prepare(embeddings, labels, **given))


def _attention_of_both(
    embeddings: jax.Array,
    labels: jax.Array | None,
    logits: jax.Array | None,
    context_vectors: jax.Array | None,
    ref_logits: jax.Array | None,
    given: Given,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """Attention of the queries (B,) and of the references (G,)."""
    if labels is None:
        raise ValueError(
            'attention needs labels: with same= alone use attention="none"'
        )
    options |= {"context_vectors": context_vectors}
    options |= {"block_rows": given.get("block_rows")}
    own = class_aware_attention(
        embeddings, labels, logits=logits, valid=given.get("valid"), **options
    )
    ref, ref_labels = given.get("ref"), given.get("ref_labels")
    if ref is None:
        return own, layout.gathered(own, given.get("axis_name"))
    if ref_labels is None or (ref_logits is None) != (logits is None):
        raise ValueError(
            "attention of ref= needs ref_labels=, and ref_logits= with logits="
        )
    others = class_aware_attention(
        ref, ref_labels, logits=ref_logits, valid=given.get("ref_valid"), **options
    )
    return own, others


def _both(own: jax.Array, others: jax.Array, pair: str) -> jax.Array:
    join = jnp.minimum if pair == "min" else jnp.multiply
    return cast(jax.Array, join(own[:, None], others[None]))


def _hinge(alpha: float, d: jax.Array) -> jax.Array:
    return jnp.where(d >= alpha, 0, alpha - d)  # NaN stays NaN


def _closeness(
    d: jax.Array, near: jax.Array, sigma: float, convention: str
) -> tuple[jax.Array, jax.Array]:
    """Scores as a positive pair and as a negative pair."""
    scaled = jnp.square(d / sigma)
    return jnp.exp(-scaled if convention == "paper" else -scaled / 2), near


def _pair_count(
    embeddings: jax.Array, labels: jax.Array | None, given: Given
) -> jax.Array:
    """Pairs that take part; in a batch before itself each is seen from both ends."""
    ready = layout.prepare(jax.lax.stop_gradient(embeddings), labels, **given)
    seen = pairs_lib.over_blocks(
        lambda pairs: jnp.sum(pairs.weighed(pairs.positive | pairs.negative), axis=1),
        ready,
    )
    return ready.sum(seen) / (2 if given.get("ref") is None else 1)


def _check(widths: dict[str, Any], **choices: str) -> None:
    for name, value in choices.items():
        if value not in _CHOICES[name]:
            allowed = ", ".join(_CHOICES[name])
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    for name, value in widths.items():
        if isinstance(value, int | float) and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
