"""Times every loss, value and gradient, against pytorch-metric-learning.

python tests/benchmarks/metric_losses.py [--out docs/results/bench_metric_losses.json]
    [--only NAMES] [--repeats N]

All run in one process on the same data, taking turns, B = 256 and 1024, D = 128, four
items a class; the values are compared first. Torch is timed on one thread and on two,
and the faster counts. Where the peer has no such loss (OSM+CAA), ours is timed alone.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import machine
import numpy as np
import torch
from pytorch_metric_learning import distances, losses, miners
from ranked_list import on_threads

import metric

SIZES, WIDTH = (256, 1024), 128
# How far values may lie apart, else 1e-6: the peer's ranked list adds 1e-5 a pair to
# its weights, its margin loss averages over triplets and not over pairs.
APART = {"ranked list": 2e-3, "margin": 2e-3}
# Theirs sets all positive pairs against all negative pairs there: 10 GB and more.
TOO_LARGE = {("lifted structure", 1024)}
TURN = 0.03  # seconds of a turn
WARM = 3  # turns before the clock counts


def contenders(classes: int) -> dict[str, tuple[Callable, Callable | None]]:
    """Ours and theirs by name: functions of (embeddings, labels[, class vectors])."""
    part = functools.partial

    def mined(loss: Callable, miner: Callable) -> Callable:
        return lambda x, y: loss(x, y, miner(x, y))

    def ours_mined(loss: Callable, mine: Callable) -> Callable:
        return lambda x, y: loss(x, y, pairs=mine(x, y))

    euclid = distances.LpDistance
    return {
        "ranked list": (
            part(metric.ranked_list_loss, gradient="full"),
            losses.RankedListLoss(margin=0.4, Tn=10, alpha=1.2, imbalance=0.5),
        ),
        "contrastive": (metric.contrastive_loss, losses.ContrastiveLoss(0, 1)),
        "triplet, all": (
            part(metric.triplet_loss, margin=0.2, kind="all"),
            losses.TripletMarginLoss(margin=0.2),
        ),
        "triplet, semi-hard": (
            part(metric.triplet_loss, margin=0.2, kind="semihard"),
            mined(
                losses.TripletMarginLoss(margin=0.2),
                miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard"),
            ),
        ),
        "margin": (
            part(metric.margin_loss, beta=1.2, margin=0.2),
            losses.MarginLoss(margin=0.2, beta=1.2),
        ),
        "lifted structure": (
            part(metric.lifted_structure_loss, pos_margin=0.0, neg_margin=1.0),
            losses.LiftedStructureLoss(neg_margin=1, pos_margin=0, distance=euclid()),
        ),
        "multi-similarity": (
            metric.multi_similarity_loss,
            losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
        ),
        "multi-similarity, mined": (
            ours_mined(metric.multi_similarity_loss, metric.multi_similarity_pairs),
            mined(
                losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
                miners.MultiSimilarityMiner(epsilon=0.1),
            ),
        ),
        "SupCon": (
            part(metric.supcon_loss, temperature=0.1),
            losses.SupConLoss(temperature=0.1),
        ),
        "normalised softmax": (
            part(metric.normalized_softmax_loss, temperature=0.05),
            losses.NormalizedSoftmaxLoss(classes, WIDTH, temperature=0.05),
        ),
        "ArcFace": (
            part(metric.arcface_loss, margin=0.5, scale=64),
            losses.ArcFaceLoss(classes, WIDTH, margin=np.degrees(0.5), scale=64),
        ),
        "CosFace": (
            part(metric.cosface_loss, margin=0.35, scale=64),
            losses.CosFaceLoss(classes, WIDTH, margin=0.35, scale=64),
        ),
        "Proxy-NCA++": (
            part(metric.proxy_nca_loss, temperature=1 / 9),
            losses.ProxyNCALoss(classes, WIDTH, softmax_scale=9),
        ),
        "Proxy-Anchor": (
            part(metric.proxy_anchor_loss, margin=0.1, alpha=32),
            losses.ProxyAnchorLoss(classes, WIDTH, margin=0.1, alpha=32),
        ),
        "OSM+CAA": (
            lambda x, y, w: metric.osm_caa_loss(x, y, context_vectors=w),
            None,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    results = []
    for batch in SIZES:
        for name, (ours, theirs) in contenders(batch // 4).items():
            if args.only in name:
                theirs = None if (name, batch) in TOO_LARGE else theirs
                row = compare(name, ours, theirs, batch, args.repeats)
                results.append(row)
                print(*row.values(), sep="  ", flush=True)
    report = {
        **machine.heading("jax", "jaxlib", "torch", "pytorch-metric-learning"),
        "width": WIDTH,
        "repeats": args.repeats,
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def compare(
    name: str, ours: Callable, theirs: Callable | None, batch: int, repeats: int
) -> dict:
    """Agreement and medians of runs in turns, in milliseconds."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(batch // 4), 4)
    # A direction of its own for each class: neighbours and strangers both pay.
    rows = rng.standard_normal((batch, WIDTH)) + rng.standard_normal(WIDTH)
    rows = (rows + rng.standard_normal((batch // 4, WIDTH))[labels]).astype(np.float32)
    vectors = class_vectors(theirs, batch // 4, name)

    data = [jnp.asarray(rows), jnp.asarray(labels)]
    varied = (0,) if vectors is None else (0, 2)
    data += [] if vectors is None else [jnp.asarray(vectors)]
    step = jax.jit(jax.value_and_grad(ours, varied)).lower(*data).compile()
    runs = {"ours": lambda: jax.block_until_ready(step(*data))}
    value, wanted = float(step(*data)[0]), None
    if theirs is not None:
        x, y = torch.tensor(rows, requires_grad=True), torch.tensor(labels)
        wanted = float(theirs(x, y).detach())
        near = APART.get(name, 1e-6)
        assert abs(value - wanted) < near * abs(wanted), (name, value, wanted)
        for threads in (1, 2):
            run = functools.partial(backward, theirs, x, y)
            runs[f"torch_{threads}"] = functools.partial(on_threads, threads, run)
    seconds: dict[str, list[float]] = {side: [] for side in runs}
    for repeat in range(repeats + WARM):
        for side, run in runs.items():
            spent = machine.one_turn(run, TURN)
            if repeat >= WARM:
                seconds[side].append(spent)
    medians = {side: 1e3 * statistics.median(each) for side, each in seconds.items()}
    best = min((ms for side, ms in medians.items() if side != "ours"), default=None)
    return {
        "loss": name,
        "batch": batch,
        "ours_ms": medians["ours"],
        "theirs_ms": best,
        "ratio": best and best / medians["ours"],
        "value": value,
        "their_value": wanted,
        "ours_mib": step.memory_analysis().temp_size_in_bytes / 2**20,
    }


def class_vectors(theirs: Callable | None, classes: int, name: str):
    """Their class vectors (C, D), ones of our own where there is no peer, or None."""
    if theirs is None and name == "OSM+CAA":
        rng = np.random.default_rng(1)
        return rng.standard_normal((classes, WIDTH)).astype(np.float32)
    for attribute in ("W", "proxies"):
        found = getattr(theirs, attribute, None)
        if found is not None:
            found = found.detach().numpy()
            return found.T if attribute == "W" else found
    return None


def backward(loss: Callable, x: torch.Tensor, y: torch.Tensor) -> None:
    x.grad = None
    loss(x, y).backward()


if __name__ == "__main__":
    main()
