"""Steps of several seeds at once against the same seeds one after another.

python tests/benchmarks/seeds_at_once.py [--seeds N] [--out FILE]

Retrieval on digits as in configs/quickstart.cfg, 60 images a batch: narrow networks on
small images, and a wider one on larger. Both sides take the same steps with one
compiled program each, in turn, on batches that lie ready.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import machine

from jaxfaces.engine import assembly, commandline, mesh, reader
from jaxfaces.engine.options import Options

CASES = ((8, 16, 30), (16, 16, 30), (32, 32, 10))  # width, pixels, steps


class Side:
    """Steps of one program; calling it gives seconds of wall and of processor."""

    def __init__(self, words: list[str], seeds: int, steps: int):
        own = [f"--parallel_seeds={seeds}", f"--steps={steps}", "--devices=1"]
        built, task = commandline.parse([*words, *own], {"options": Options()})
        self.parts = assembly.assemble(task, built["options"])
        self.program = self.parts.program
        timeline = self.parts.timeline
        self.phase = timeline.phases[0]
        ahead = reader.batches(timeline, self.parts.streams, 0, built["options"])
        with ahead as batches:
            self.batches = [mesh.feed(self.program.mesh, batch) for batch in batches]
        self.tree = self.parts.start()
        self()

    def __call__(self) -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        for n, batch in enumerate(self.batches):
            self.tree, token = self.program.step(self.phase, self.tree, batch, n)
            jax.block_until_ready(token)
        return time.perf_counter() - wall, time.process_time() - processor


def measured(width: int, size: int, steps: int, args: argparse.Namespace) -> dict:
    """Milliseconds a step and seed of both sides, and the gain, medians of turns."""
    words = ["--flagfile=configs/quickstart.cfg", f"--width={width}"]
    words += [f"--image_size={size}"]
    one, many = (Side(words, seeds, steps) for seeds in (1, args.seeds))
    apart, together = [], []
    for _ in range(args.repeats):
        apart.append(one())
        together.append(many())
    found: dict = {"width": width, "image_size": size}
    for i, kind in enumerate(("wall_ms", "cpu_ms")):
        a = [1000 * turn[i] / steps for turn in apart]
        b = [1000 * turn[i] / steps / args.seeds for turn in together]
        found[kind] = {
            "apart": statistics.median(a),
            "at_once": statistics.median(b),
            "gain": statistics.median([x / y for x, y in zip(a, b)]),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = {
        **machine.heading("jax", "jaxlib"),
        "device": jax.devices()[0].device_kind,
        "seeds": args.seeds,
        "a_step_and_seed": [measured(*case, args) for case in CASES],
    }
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
