"""Times exact retrieval measures of 60,000 x 512 embeddings against faiss-cpu.

python tests/benchmarks/retrieval.py [--rows N] [--out FILE]

Each side runs in a process of its own on two threads, one after the other, in the order
ours, theirs, theirs, ours, so that a drift of the machine's load hits both. Their side
is IndexFlatIP, k = 31, and the same measures from its lists (its MRR stops at rank 30).
Compilation counts as ours.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine

THREADS = 2
WIDTH, PER_CLASS = 512, 30
KS = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", choices=("ours", "theirs"), help="run one side only")
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args.side, args.rows)))
        return
    runs: dict[str, list[dict]] = {"ours": [], "theirs": []}
    for side in ("ours", "theirs", "theirs", "ours"):
        runs[side].append(in_a_process(side, args.rows))
        print(side, runs[side][-1], flush=True)
    for name in ("recall_at_k", "map_at_r", "r_precision"):
        agree(
            name, runs["ours"][0]["measures"][name], runs["theirs"][0]["measures"][name]
        )
    seconds = {s: statistics.median(r["seconds"] for r in runs[s]) for s in runs}
    report = {
        **machine.heading("jax", "numpy", "faiss-cpu", threads=THREADS),
        "rows": args.rows,
        "width": WIDTH,
        "per_class": PER_CLASS,
        "median_seconds": seconds,
        "speedup": seconds["theirs"] / seconds["ours"],
        "peak_mib_over_input": {
            s: max(r["peak_mib_over_input"] for r in runs[s]) for s in runs
        },
        "runs": runs,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def in_a_process(side: str, rows: int) -> dict:
    command = [sys.executable, __file__, "--side", side, "--rows", str(rows)]
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(side: str, rows: int) -> dict:
    """One run: seconds of wall and processor, memory over the input, the measures."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(rows) % (rows // PER_CLASS)
    # Half noise, half class, so that the measures are neither 0 nor 1.
    noise = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    embeddings = noise + 0.35 * noise[: rows // PER_CLASS][labels]
    del noise
    run = {"ours": ours, "theirs": theirs}[side]
    run(embeddings[:3000], labels[:3000] % 100)  # libraries loaded, threads started
    reset_peak()
    before = resident_mib()
    start, worked = time.perf_counter(), time.process_time()
    measures = run(embeddings, labels)
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - worked,
        "peak_mib_over_input": peak_mib() - before,
        "measures": measures,
    }


def ours(embeddings, labels) -> dict:
    from metric import retrieval_measures

    return retrieval_measures(embeddings, labels, ks=KS)


def theirs(embeddings, labels) -> dict:
    import faiss
    import numpy as np

    unit = embeddings.copy()
    faiss.normalize_L2(unit)
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    _, found = index.search(unit, PER_CLASS + 1)
    mine = found == np.arange(len(unit))[:, None]
    mine[~mine.any(axis=1), -1] = True  # where even the query itself is missing
    hits = labels[found[~mine].reshape(len(unit), -1)] == labels[:, None]
    r = np.bincount(labels)[labels] - 1
    position = np.arange(1, hits.shape[1] + 1)
    within = hits & (position <= r[:, None])
    precision = np.cumsum(within, axis=1) / position
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    return {
        "recall_at_k": {k: float(np.mean(first <= k)) for k in KS},
        "map_at_r": float(np.mean(np.sum(precision * within, axis=1) / r)),
        "r_precision": float(np.mean(within.sum(axis=1) / r)),
        "mrr": float(np.mean(1 / first)),
    }


def agree(name: str, ours, theirs) -> None:
    # Products of another order of summation swap near ties, a handful in 60,000 lists.
    pairs = (
        zip(ours.values(), theirs.values())
        if name == "recall_at_k"
        else [(ours, theirs)]
    )
    for a, b in pairs:
        assert abs(a - b) < 1e-4, f"{name} differs: {ours} and {theirs}"


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def resident_mib() -> float:
    return (
        int(Path("/proc/self/statm").read_text().split()[1])
        * os.sysconf("SC_PAGE_SIZE")
        / 2**20
    )


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
