"""Steps a second of a training run against its bare jitted step in a Python loop.

python tests/benchmarks/engine_overhead.py [--classes P] [--steps N] [--out FILE]

Retrieval on Omniglot, small network, P classes of 4 images a batch: choose P for a step
of about 20 ms. A run reads, logs and saves at its defaults (50 and 500 steps) and does
not evaluate; its steps are timed from the 20th to the last, whose checkpoint counts.
The bare loop takes the same steps on the same batches, already on the device. Runs and
loops take turns, so that a drift of the machine's load hits both. One more run, apart
from these, tells on what the host's thread spends its time.
"""

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import machine
import numpy as np

from jaxfaces.engine import assembly, checkpoints, digests, logs, loop, mesh, reader
from jaxfaces.engine.options import Options
from jaxfaces.engine.program import Program
from jaxfaces.tasks.image_data import ImageData
from jaxfaces.tasks.retrieval import Retrieval

FIRST = 20  # steps before the clock starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    task = Retrieval(
        steps=args.steps,
        data=ImageData(dataset="omniglot_retrieval", grey=True, image_size=32),
        classes_per_batch=args.classes,
    )
    bare = Bare(task)
    counted = args.steps - FIRST
    runs: dict[str, list[dict]] = {"run": [], "bare": []}
    for repeat in range(args.repeats):
        sides = [("bare", bare), ("run", lambda: timed_run(task))]
        for name, side in sides[:: -1 if repeat % 2 else 1]:
            wall, processor = side()
            runs[name].append(
                {"step_ms": 1e3 * wall / counted, "cpu_ms": 1e3 * processor / counted}
            )
            print(name, runs[name][-1], flush=True)
    medians = {
        name: {key: statistics.median(run[key] for run in each) for key in each[0]}
        for name, each in runs.items()
    }
    report = {
        **machine.heading("jax", "jaxlib"),
        "batch": args.classes * task.images_per_class,
        "steps": counted,
        "median": medians,
        "overhead_percent": {key: overhead(runs, key) for key in medians["bare"]},
        "host_ms_a_step_by_part": parts(task, counted),
        "checkpoint": checkpoint_cost(task),
        "runs": runs,
    }
    print(json.dumps({k: v for k, v in report.items() if k != "runs"}, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def overhead(runs: dict[str, list[dict]], key: str) -> dict[str, float]:
    """Quartiles, in percent, of a run over the bare loop beside it."""
    ratios = [
        100 * (run[key] / bare[key] - 1)
        for run, bare in zip(runs["run"], runs["bare"], strict=True)
    ]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"lower_quartile": low, "median": middle, "upper_quartile": high}


class Bare:
    """The jitted step in a loop; calling it gives seconds of wall and processor."""

    def __init__(self, task: Retrieval):
        options = Options(devices=1)
        self.assembly = assembly.assemble(task, options)
        streams, timeline = self.assembly.streams, self.assembly.timeline
        self.program = self.assembly.program
        self.phase = timeline.phases[0]
        with reader.batches(timeline, streams, 0, options) as ahead:
            self.batches = [mesh.put(self.program.mesh, batch) for batch in ahead]

        def step(state, batch, root, n):
            return self.phase.step(state, batch, jax.random.fold_in(root, n))

        self.step = jax.jit(step, donate_argnums=0)

    def __call__(self) -> tuple[float, float]:
        # The steps of the run, from the same state: time depends on the numbers too.
        state = self.assembly.start()["state"]
        for n, batch in enumerate(self.batches):
            if n == FIRST:
                jax.block_until_ready(state)
                wall, processor = time.perf_counter(), time.process_time()
            state, metrics = self.step(state, batch, self.program.roots, np.int32(n))
            if n % loop.IN_FLIGHT == 0:  # else the queue grows without bound
                jax.block_until_ready(metrics)
        jax.block_until_ready(state)
        return time.perf_counter() - wall, time.process_time() - processor


def timed_run(task: Retrieval) -> tuple[float, float]:
    """Seconds of wall and processor of a run's steps after the first few."""
    began: list[float] = []

    def watch(batches: Iterator) -> Iterator:
        for n, batch in enumerate(batches):
            if n == FIRST:
                began.extend([time.perf_counter(), time.process_time()])
            yield batch

    inner = loop._Run._loop

    def timed(self, batches, profiler) -> None:
        inner(self, watch(batches), profiler)
        jax.block_until_ready(self.tree)
        began.extend([time.perf_counter(), time.process_time()])

    with replaced(loop._Run, "_loop", timed):
        run(task)
    return began[2] - began[0], began[3] - began[1]


def run(task: Retrieval) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loop.run(task, Path(folder) / "run", quiet=True, eval_every=0, devices=1)


def parts(task: Retrieval, counted: int) -> dict[str, float]:
    """Milliseconds a step that the thread of the loop spends on each of its parts."""
    spent: dict[str, float] = {}

    def clocked(name: str, function: Callable) -> Callable:
        spent[name] = 0.0

        def inner(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return inner

    class Clocked:
        """An iterator of batches whose waiting is clocked."""

        def __init__(self, batches: Iterator):
            self.next = clocked("wait for a batch", lambda: next(batches))

        def __iter__(self) -> Iterator:
            return self

        def __next__(self):
            return self.next()

    whole = loop._Run._loop

    def watched(self, batches, profiler) -> None:
        head = (next(batches) for _ in range(FIRST))
        whole(self, head, profiler)
        for name in spent:
            spent[name] = 0.0
        clocked("all", whole)(self, Clocked(batches), profiler)

    with contextlib.ExitStack() as stack:
        for owner, attribute, name in (
            (Program, "step", "move the batch and dispatch the step"),
            (loop._Run, "_log_totals", "log"),
            (loop._Run, "_save", "checkpoint"),
            (logs.Progress, "advance", "progress bar"),
        ):
            function = clocked(name, getattr(owner, attribute))
            stack.enter_context(replaced(owner, attribute, function))
        stack.enter_context(replaced(loop._Run, "_loop", watched))
        run(task)
    total = spent.pop("all")
    spent["wait for the device, and the rest"] = total - sum(spent.values())
    spent["all"] = total
    return {name: 1e3 * seconds / counted for name, seconds in spent.items()}


def checkpoint_cost(task: Retrieval) -> dict[str, float]:
    """Seconds that a checkpoint holds the loop up, and of them those for digests."""
    tree = assembly.assemble(task, Options(devices=1)).start()
    jax.block_until_ready(tree)
    held, digested = [], []
    with tempfile.TemporaryDirectory() as folder:
        with checkpoints.Checkpoints(Path(folder) / "checkpoints") as saver:
            for step in range(1, 6):
                start = time.perf_counter()
                saver.save(step, tree, {}, best=None)
                held.append(time.perf_counter() - start)
                saver._manager.wait_until_finished()
                start = time.perf_counter()
                digests.digests(tree)
                digested.append(time.perf_counter() - start)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes"))
    return {
        "mebibytes": size / 2**20,
        "save_returns_after": statistics.median(held),
        "digests": statistics.median(digested),
        "interval_steps": Options().checkpoint_every,
    }


@contextlib.contextmanager
def replaced(owner: object, attribute: str, value: object) -> Iterator[None]:
    before = getattr(owner, attribute)
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


if __name__ == "__main__":
    main()
