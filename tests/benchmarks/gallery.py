"""Calculates what exact search in a gallery split over devices takes. Nothing is run.

python tests/benchmarks/gallery.py [--rows 1e9] [--width 128] [--k 100] [--block 16]
    [--tflops 33.5] [--memory_tb 3.35] [--link nvlink_8_and_400g]

Of G rows of width D each of n devices holds G/n. A block of b queries, float32, takes

  computing         2 b (G/n) D flops
  reading rows      4 (G/n) D bytes of memory
  similarities      8 b (G/n) bytes of memory, written and read once
  sending           an all-reduce of 4 b D bytes (the queries, each from its shard) and
                    two all-gathers of 4 b k n (the k best of each shard)

The time of a block lies between the longest of these and their sum. Messages take what
`scaling.message` says. The defaults are half of the nominal 67 TFLOP/s of float32 and
the nominal memory bandwidth of an H100 with 80 GB: assumed, not measured.
"""

import argparse

import scaling

DEVICES = (8, 16, 32, 64, 256, 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e9)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--tflops", type=float, default=33.5)
    parser.add_argument("--memory_tb", type=float, default=3.35, help="a second")
    parser.add_argument("--link", choices=scaling.LINKS, default="nvlink_8_and_400g")
    args = parser.parse_args()
    print("| devices | GB each | compute | rows | similarities | sent | queries/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for devices in DEVICES:
        steps = block(args, devices)
        slow, quick = (args.block / f(steps.values()) for f in (sum, max))
        milliseconds = " | ".join(f"{1e3 * s:.2g}" for s in steps.values())
        held = 4 * args.rows / devices * args.width / 1e9
        rate = f"{slow:,.0f} – {quick:,.0f}"
        print(f"| {devices:,} | {held:.3g} | {milliseconds} | {rate} |")


def block(args: argparse.Namespace, devices: int) -> dict[str, float]:
    """Seconds of the steps of a block of queries."""
    local, link = args.rows / devices, scaling.LINKS[args.link]
    memory = args.memory_tb * 1e12
    lists = 4 * args.block * args.k * devices
    return {
        "compute": 2 * args.block * local * args.width / (args.tflops * 1e12),
        "rows": 4 * local * args.width / memory,
        "similarities": 8 * args.block * local / memory,
        "sent": scaling.message(
            "all-reduce", 4 * args.block * args.width, devices, link
        )
        + 2 * scaling.message("all-gather", lists, devices, link),
    }


if __name__ == "__main__":
    main()
