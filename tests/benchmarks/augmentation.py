"""Images a second of every operation and policy, against Pillow and its peers.

python tests/benchmarks/augmentation.py [--out docs/results/bench_augmentation.json]
    [--only NAMES] [--sides 32,224] [--batch N] [--cores N] [--repeats N]

All run in one process, on as many cores as asked for, taking turns. Ours takes a batch
of uint8 images, each with a level and a key of its own; Pillow takes one image after
another, from array to array; the other peers, where they are installed, are described
in augmentation_peers.py. Pillow's results are compared with ours first. Compilation is
not timed, but reported. `HostPolicy` takes NumPy images, one or 64 a call.
"""

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np
from augmentation_peers import peers, torchvision_transforms

sys.path.append(str(Path(__file__).parents[1] / "augment"))

HOST_BATCH = 64  # images a call of `HostPolicy`
TURN = 0.2  # seconds of a turn, so that short runs are repeated inside it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--sides", default="32,224")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    # Before jax and torch count the cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    results = []
    for side in map(int, args.sides.split(",")):
        images = pictures(args.batch, side)
        for name, runs in contenders(images).items():
            if args.only in name:
                row = compare(name, runs, images, args.repeats)
                results.append(row)
                print(json.dumps(row), flush=True)
    packages = ("jax", "jaxlib", "pillow", "kornia", "torch", "torchvision")
    report = {
        **machine.heading(*packages, "albumentations", used_cores=args.cores),
        "torchvision": torchvision_transforms()[1],
        "batch": args.batch,
        "repeats": args.repeats,
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def pictures(count: int, side: int) -> np.ndarray:
    """Blurred noise: neither flat nor without any structure."""
    noise = np.random.default_rng(0).normal(128, 90, (count, side, side, 3))
    smooth = sum(np.roll(noise, (i, j), (1, 2)) for i in range(3) for j in range(3)) / 4
    return np.clip(smooth - 160, 0, 255).astype(np.uint8)


def contenders(images: np.ndarray) -> dict[str, dict[str, Callable]]:
    """Functions without arguments by task and library."""
    import jax

    import augment

    keys = jax.random.split(jax.random.key(0), len(images))
    levels = np.random.default_rng(1).random(len(images), np.float32)
    tasks: dict[str, dict[str, Callable]] = {}
    for each in augment.OPERATIONS:
        run = jax.jit(jax.vmap(each.function("reference")))
        tasks[each.name] = {
            "ours": functools.partial(finished, run, images, levels, keys),
            "pillow": functools.partial(by_pillow, each, images, levels, keys),
            **peers(each.name, images),
        }
    policies = {
        "AutoAugment": augment.auto_augment("cifar10"),
        "RandAugment": augment.rand_augment(),
        "TrivialAugment": augment.trivial_augment(),
        "DADA": augment.dada("cifar10"),
    }
    for name, policy in policies.items():
        run = jax.jit(augment.apply, static_argnames="grouping")
        key = jax.random.key(1)
        several = itertools.cycle(jax.random.split(key, 50))  # one draw: another a call
        tasks[name] = {
            "ours": functools.partial(finished, run, policy, key, images),
            "ours, 16 draws": functools.partial(
                finished, run, policy, key, images, grouping=16
            ),
            "ours, one draw": functools.partial(
                by_turns, run, policy, several, images, grouping=1
            ),
            "pillow": functools.partial(policy_by_pillow, policy, images),
            **peers(name, images),
        }
    for name in ("AutoAugment", "TrivialAugment"):
        change = augment.HostPolicy(policies[name])
        for count, form in (
            (1, "an image a call"),
            (HOST_BATCH, f"{HOST_BATCH} a call"),
        ):
            tasks[f"HostPolicy {name}, {form}"] = {
                "ours": functools.partial(by_host, change, images, count),
                "pillow": functools.partial(policy_by_pillow, policies[name], images),
            }
    return tasks


def by_host(change: Callable, images: np.ndarray, count: int) -> np.ndarray:
    """NumPy images in calls of `count`, as a loader's `map` before or after `batch`."""
    rng = np.random.default_rng(0)
    parts = [images[i : i + count] for i in range(0, len(images), count)]
    if count == 1:
        parts = [each[0] for each in parts]
    return np.stack([change({"image": each}, rng)["image"] for each in parts])


def finished(run: Callable, *args, **kwargs):
    import jax

    return jax.block_until_ready(run(*args, **kwargs))


def by_turns(run: Callable, policy: Any, keys: Iterator, images: Any, **given: Any):
    """A batch by the next of the keys."""
    return finished(run, policy, next(keys), images, **given)


def by_pillow(each, images: np.ndarray, levels: np.ndarray, keys) -> np.ndarray:
    """The same values as ours, one image after another."""
    from pillow_ops import pillow

    flips, centres = coins(each.mirror is not None, keys, *images.shape[1:3])
    values = [float(level) * (each.high - each.low) + each.low for level in levels]
    values = [-v if flip else v for v, flip in zip(values, flips)]
    return np.stack(
        [pillow(each.name, *row) for row in zip(images, values, centres.tolist())]
    )


def coins(signed: bool, keys, height: int, width: int):
    """Signs and centres that ours draws; drawn once, outside the clock."""
    place = (signed, height, width, len(keys))
    if place not in COINS:
        import jax

        from augment import image_ops, reference_ops

        flips, inner = jax.vmap(image_ops.coin)(keys)
        draw = functools.partial(
            reference_ops.random_centre, height=height, width=width
        )
        COINS[place] = np.asarray(flips) & signed, np.asarray(jax.vmap(draw)(inner))
    return COINS[place]


COINS: dict = {}


def policy_by_pillow(policy, images: np.ndarray) -> np.ndarray:
    """Draws and applies with NumPy and Pillow, an image at a time."""
    from pillow_ops import pillow

    names = [each.name for each in policy.table]
    table, rng = policy.table, np.random.default_rng(0)
    rows, chances = np.asarray(policy.operations), np.asarray(policy.probabilities)
    levels, results = np.asarray(policy.levels), []
    for image in images:
        which = rng.integers(len(rows))
        for row, chance, level in zip(rows[which], chances[which], levels[which]):
            if rng.random() < chance:
                each = table[row]
                v = float(level) * (each.high - each.low) + each.low
                if each.mirror is not None and rng.random() < 0.5:
                    v = 2 * each.mirror - v
                centre = 1 + rng.random(2) * (image.shape[0] - 1)
                image = pillow(names[row], image, v, centre.tolist())
        results.append(image)
    return np.stack(results)


def compare(
    name: str, runs: dict[str, Callable], images: np.ndarray, repeats: int
) -> dict:
    """Medians of images a second, the libraries in turns."""
    start = time.perf_counter()
    ours = np.asarray(runs["ours"]())
    compiled = time.perf_counter() - start
    theirs = runs["pillow"]()
    drawn = "ours, 16 draws" in runs or name.startswith("HostPolicy")
    same = None if drawn else bool(np.array_equal(ours, theirs))
    rates: dict[str, list[float]] = {library: [] for library in runs}
    for repeat in range(repeats + 1):
        for library, run in runs.items():
            rate = len(images) / machine.one_turn(run, TURN)
            if repeat:  # the first turn warms up
                rates[library].append(rate)
    medians = {library: statistics.median(each) for library, each in rates.items()}
    others = [
        rate for library, rate in medians.items() if not library.startswith("ours")
    ]
    return {
        "name": name,
        "side": images.shape[1],
        "images_per_second": {
            library: round(rate) for library, rate in medians.items()
        },
        "ratio_to_the_fastest_peer": round(medians["ours"] / max(others), 2),
        "equal_to_pillow": same,
        "compile_seconds": round(compiled, 2),
    }


if __name__ == "__main__":
    main()
