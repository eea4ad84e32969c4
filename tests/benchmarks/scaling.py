"""Predicts step times of retrieval training on 1 to 1,024 devices. Nothing is measured
on more devices than there are: what comes out is a prediction and says so.

python tests/benchmarks/scaling.py [--step_ms MS | --peak_tflops T --utilisation U]
    [--out docs/results/scaling_prediction.json]

What a step sends is read from the program that XLA compiles for four and for eight
simulated devices, each with the same number of rows: messages of one size in both are
sent on any number of devices, the others grow with it; likewise the operations. What a
device computes alone takes the time that is given, that follows from a peak and a share
of it, or (neither given) that a step on this machine takes.

n devices send a message of S bytes over links of B bytes/s with a latency of A s in

  all-gather, reduce-scatter   (n - 1)/n S/B + ceil(log2 n) A
  all-reduce                   2 (n - 1)/n S/B + 2 ceil(log2 n) A

Up to `island` devices the fast link of the interconnect is taken, beyond it the slow
one for the whole message. `step_ms` has no overlap of computing and sending,
`overlapped_ms` is the larger of the two: a real step lies between.
"""

import argparse
import collections
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

DEVICES = [2**n for n in range(11)]
# Name: devices that share the fast link, its bytes/s and s, the slow one's. Nominal
# figures a device and direction, not measured.
LINKS = {
    "ethernet_10g": (1, 1.25e9, 30e-6, 1.25e9, 30e-6),
    "ethernet_100g": (1, 12.5e9, 15e-6, 12.5e9, 15e-6),
    "nvlink_8_and_400g": (8, 450e9, 5e-6, 50e9, 10e-6),
    "tpu_ici_100GB": (1024, 100e9, 2e-6, 100e9, 2e-6),
}
WIDTHS = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "f64": 8, "s64": 8}
# It is looked at, not run: machine code need not be good.
UNOPTIMISED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
SENDS = re.compile(
    r" = (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rows", type=int, default=32, help="of each device")
    parser.add_argument("--embedding_size", type=int, default=512)
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument(
        "--step_ms", type=float, help="of one device, measured elsewhere"
    )
    parser.add_argument("--peak_tflops", type=float)
    parser.add_argument("--utilisation", type=float, default=0.4)
    parser.add_argument(
        "--hardware", default="", help="what --step_ms or the peak is of"
    )
    parser.add_argument("--links", nargs="*", choices=LINKS, default=list(LINKS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    programs = {
        choice: {n: compiled(args, n, choice) for n in (4, 8)}
        for choice in ("replicated", "full")
    }
    operations = line(*(programs["replicated"][n]["flops"] for n in (4, 8)))
    compute = one_device(args, operations(1))
    report = {
        "what": "a prediction; no step on several devices was timed",
        "command": " ".join(["python", *sys.argv]),
        "versions": {x: importlib.metadata.version(x) for x in ("jax", "jaxlib")},
        "setting": {k: v for k, v in vars(args).items() if k not in ("out", "links")},
        "compute_of_one_device": compute,
        "links": {name: LINKS[name] for name in args.links},
        "eight_devices": {c: summary(p[8]) for c, p in programs.items()},
        "predictions": {
            link: {
                choice: [
                    predict(compute["ms"], operations, pair, LINKS[link], n, args.rows)
                    for n in DEVICES
                ]
                for choice, pair in programs.items()
            }
            for link in args.links
        },
    }
    show(report)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


def make_program(args: argparse.Namespace, devices: int, choice: str) -> tuple:
    """A program with shapes of its state and of a batch."""
    from jaxfaces.engine import config, mesh
    from jaxfaces.engine.program import Program
    from jaxfaces.tasks.retrieval import Retrieval

    wanted = ("backbone", "image_size", "embedding_size", "optimizer")
    task = config.replace(Retrieval(), {name: getattr(args, name) for name in wanted})
    sizes = {"train": (10_000, 1_000)}
    program = Program(
        task, mesh.make(devices), sizes, seed=0, seeds=1, patience=None,
        deterministic=False, shard_state=choice, warn=print,
    )  # fmt: skip
    rows = args.rows * devices
    split = NamedSharding(program.mesh, PartitionSpec("data"))
    shapes = {
        "image": ((rows, args.image_size, args.image_size, 3), np.uint8),
        "label": ((rows,), np.int32),
        "index": ((rows,), np.int32),
        "valid": ((rows,), bool),
    }
    batch = {
        name: jax.ShapeDtypeStruct(shape, kind, sharding=split)
        for name, (shape, kind) in shapes.items()
    }
    return program, task.phases(sizes)[0], {"train": batch}


def compiled(args: argparse.Namespace, devices: int, choice: str) -> dict:
    """What the step for some devices sends, computes and holds, a device."""
    program, phase, batch = make_program(args, devices, choice)
    tree = program.like(batch, [phase])
    found = program.lower(phase, tree, batch).compile(UNOPTIMISED)
    memory = found.memory_analysis()
    messages: dict[str, list[int]] = collections.defaultdict(list)
    for text in found.as_text().splitlines():
        sends = SENDS.search(text)
        if sends:
            messages[sends[2]].append(size(sends[1]))
    return {
        "messages": dict(messages),
        "flops": found.cost_analysis()["flops"],
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "parameter_bytes": sum(
            x.size * x.dtype.itemsize for x in jax.tree.leaves(tree["state"].params)
        ),
    }


def size(shapes: str) -> int:
    """Bytes of what an instruction gives, from its type as HLO writes it."""
    return sum(
        WIDTHS.get(kind, 4) * math.prod(int(x) for x in dims.split(",") if x)
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    )


def line(at_four: float, at_eight: float):
    """The function of the number of devices through two points."""
    slope = (at_eight - at_four) / 4
    return lambda n: at_four + slope * (n - 4)


def one_device(args: argparse.Namespace, flops: float) -> dict:
    """Milliseconds of a step of one device, and where they are from."""
    if args.step_ms:
        return {"ms": args.step_ms, "from": f"measured on {args.hardware}"}
    if args.peak_tflops:
        ms = flops / (args.peak_tflops * 1e12 * args.utilisation) * 1e3
        share = f"{args.utilisation:.0%} of {args.peak_tflops} TFLOP/s"
        return {"ms": ms, "from": f"assumed: {share}, {args.hardware}"}
    program, phase, batch = make_program(args, 1, "replicated")
    batch = jax.tree.map(lambda x: jax.numpy.ones(x.shape, x.dtype), batch)
    labels = jax.numpy.arange(args.rows) // 4
    batch["train"] = batch["train"] | {"label": labels}
    tree, seconds, busy = program.start(batch, [phase]), [], []
    for n in range(4):
        begin, before = time.perf_counter(), time.process_time()
        tree, token = program.step(phase, tree, batch, n)
        token.block_until_ready()
        seconds.append(time.perf_counter() - begin)
        busy.append(time.process_time() - before)
    where = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    return {
        "ms": min(seconds[1:]) * 1e3,
        "from": f"measured here, {where}, the quickest of 3 steps",
        "cpu_seconds": min(busy[1:]),
        "load": os.getloadavg()[0],
        "gflops": flops / min(seconds[1:]) / 1e9,
    }


def predict(ms, operations, pair, link, devices: int, rows: int) -> dict:
    """Milliseconds of a step on some devices."""
    compute = ms * operations(devices) / operations(1)
    sent = collections.Counter()
    for kind, at_four, at_eight in matched(pair):
        bytes_ = max(0.0, line(at_four, at_eight)(devices))
        sent[kind] += message(kind, bytes_, devices, link) * 1e3
    total = sum(sent.values())
    return {
        "devices": devices,
        "compute_ms": round(compute, 3),
        "sending_ms": round(total, 3),
        **{f"{kind}_ms": round(value, 3) for kind, value in sent.items()},
        "step_ms": round(compute + total, 3),
        "overlapped_ms": round(max(compute, total), 3),
        "efficiency": round(ms / (compute + total), 3),
        "images_per_second": round(rows * devices / (compute + total) * 1e3, 1),
    }


def matched(pair: dict):
    """Each message with its bytes on four and on eight devices, in program order."""
    four, eight = pair[4]["messages"], pair[8]["messages"]
    for kind in sorted(set(four) | set(eight)):
        a, b = four.get(kind, []), eight.get(kind, [])
        if len(a) == len(b):
            yield from ((kind, x, y) for x, y in zip(a, b))
        else:  # merged otherwise: the same bytes in as many messages as on eight
            yield from ((kind, sum(a) / len(b), y) for y in b)


def message(kind: str, bytes_: float, devices: int, link: tuple) -> float:
    """Seconds of one message among some devices."""
    if devices == 1:
        return 0.0
    island, fast, quick, slow, late = link
    bandwidth, latency = (fast, quick) if devices <= island else (slow, late)
    times = 2 if kind == "all-reduce" else 1
    rounds = math.ceil(math.log2(devices))
    return times * ((devices - 1) / devices * bytes_ / bandwidth + rounds * latency)


def summary(program: dict) -> dict:
    """Numbers of messages and their bytes, by kind."""
    sent = {
        kind: {"messages": len(sizes), "bytes": sum(sizes)}
        for kind, sizes in program["messages"].items()
    }
    return {**{k: v for k, v in program.items() if k != "messages"}, "sends": sent}


def show(report: dict) -> None:
    """Prints what is sent, and the predictions as tables."""
    print(json.dumps(report["eight_devices"], indent=1))
    print("one device:", report["compute_of_one_device"])
    for link, choices in report["predictions"].items():
        for choice, rows in choices.items():
            print(f"\n{link}, state {choice} (prediction)\ndevices  compute  sending")
            for row in rows:
                print(
                    f"{row['devices']:7}  {row['compute_ms']:7.1f}  "
                    f"{row['sending_ms']:7.1f}  step {row['step_ms']:.1f} ms, "
                    f"overlapped {row['overlapped_ms']:.1f} ms, "
                    f"efficiency {row['efficiency']:.2f}"
                )


if __name__ == "__main__":
    main()
