"""Times the ranked list loss, value and gradient, against pytorch-metric-learning.

python tests/benchmarks/ranked_list.py [--out docs/results/bench_ranked_list.json]

All run in one process on the same data, taking turns; the values (and the gradients of
gradient="full", the peer's convention) are compared first. Torch is timed on one thread
and on two, since on a busy machine two can be the slower, and the faster counts.
"""

import argparse
import functools
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import machine
import numpy as np
import torch
from pytorch_metric_learning import losses

from metric import ranked_list_loss

SIZES = ((180, 512), (512, 128), (1024, 128))
REPEATS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    report = {
        **machine.heading("jax", "numpy", "torch", "pytorch-metric-learning"),
        "repeats": REPEATS,
        "results": [compare(*size) for size in SIZES],
    }
    text = json.dumps(report, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")


def compare(batch: int, width: int) -> dict:
    """Agreement, medians of alternating runs and temporary memory at one size."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(batch // 3 + 1), 3)[:batch]
    # A shared direction brings all rows about 1 apart: most pairs of both kinds pay.
    rows = rng.standard_normal((batch, width)) + rng.standard_normal(width)
    rows = rows.astype(np.float32)

    ours = {mode: compiled(rows, labels, mode) for mode in ("query", "full")}
    theirs = functools.partial(
        peer,
        losses.RankedListLoss(margin=0.4, Tn=10, alpha=1.2, imbalance=0.5),
        torch.tensor(rows, requires_grad=True),
        torch.tensor(labels),
    )
    value, slope = map(np.asarray, ours["full"]())
    wanted, expected = theirs()
    error = abs(value - wanted) / wanted
    slope_error = np.abs(slope - expected).max() / np.abs(expected).max()
    # The peer adds 1e-5 a row to weight sums, the least of which, 2 positives, is 2.
    assert error < max(1e-3, 1e-5 * batch / 2), f"values differ: {value} and {wanted}"
    assert slope_error < 1e-2, f"gradients differ by {slope_error}"

    runs = {
        "theirs_1_thread": functools.partial(on_threads, 1, theirs),
        "theirs_2_threads": functools.partial(on_threads, 2, theirs),
    } | {f"ours_{mode}": f for mode, f in ours.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(REPEATS + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat >= 3:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: 1e3 * statistics.median(s) for name, s in seconds.items()}
    best = {name: 1e3 * min(s) for name, s in seconds.items()}
    peak = {name: f.temporaries for name, f in ours.items()}
    return {
        "batch": batch,
        "width": width,
        "value": float(value),
        "value_error": float(error),
        "gradient_error": float(slope_error),
        "median_ms": medians,
        "best_ms": best,  # what a quiet machine would show
        "speedup": {mode: ratio(medians, mode) for mode in ours},
        "speedup_of_best": {mode: ratio(best, mode) for mode in ours},
        "memory_mib": {
            "ours_query": peak["query"],
            "ours_full": peak["full"],
            "theirs": peer_memory(theirs),
        },
    }


def ratio(milliseconds: dict[str, float], mode: str) -> float:
    theirs = min(milliseconds["theirs_1_thread"], milliseconds["theirs_2_threads"])
    return theirs / milliseconds[f"ours_{mode}"]


def compiled(rows: np.ndarray, labels: np.ndarray, mode: str):
    """Our jitted value and gradient on data already on the device."""
    data = jnp.asarray(rows), jnp.asarray(labels)
    loss = functools.partial(ranked_list_loss, gradient=mode)
    program = jax.jit(jax.value_and_grad(loss)).lower(*data).compile()

    def run():
        return jax.block_until_ready(program(*data))

    run.temporaries = program.memory_analysis().temp_size_in_bytes / 2**20
    return run


def on_threads(threads: int, run) -> None:
    torch.set_num_threads(threads)
    run()


def peer(loss, rows, labels) -> tuple[float, np.ndarray]:
    rows.grad = None
    value = loss(rows, labels)
    value.backward()
    return value.item(), rows.grad.numpy()


def peer_memory(run) -> float:
    """Largest sum of live allocations of one call, in MiB, from torch's profiler."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    live = peak = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 2**20


if __name__ == "__main__":
    main()
