"""Times the input pipeline alone, images a second, against torch's DataLoader.

python tests/benchmarks/input_pipeline.py [--repeats N] [--out FILE]

Shuffled batches of 128 through `reader.batches`, as a training run gets them, with 0, 1
and 2 workers; Omniglot and CIFAR-10 from columns in memory, Caltech-101 at 80 pixels
decoded batch by batch. Their side is DataLoader with as many workers: a TensorDataset
in its usual form, rows gathered one by one, and with a BatchSampler as its sampler,
whole batches indexed at once; for photographs a dataset that decodes JPEG bytes held in
a list with Pillow (ours reads them from its record file). Both sides give uint8.

Each loader runs in the order ours, theirs, theirs, ours … so that a drift of the
machine's load hits both. The rate leaves out the first batches, which wait for workers
to start and find others read ahead; `start` is the time to the first batch. Threads are
at their defaults: 2 that read for 0 workers of ours, 1 in each worker of torch.
"""

import argparse
import dataclasses
import io
import json
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import machine
import numpy as np
import torch
from PIL import Image
from torch.utils import data as torch_data

from jaxfaces.data import array_records, encoded, sources, streams
from jaxfaces.engine import reader
from jaxfaces.engine.options import Options
from jaxfaces.engine.task import Phase
from jaxfaces.engine.timeline import Timeline

BATCH, SIZE = 128, 80
SKIPPED = 12  # batches, more than either side reads ahead
WORKERS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sets", default="omniglot,cifar10,caltech101")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {}
    for name in args.sets.split(","):
        results[name] = compare(*SETS[name](), repeats=args.repeats)
        show(name, results[name])
    report = {
        **machine.heading("torch", "grain", "numpy", "pillow", "array_record"),
        "batch": BATCH,
        "repeats": args.repeats,
        "images_per_second": results,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


class Photographs(torch_data.Dataset):
    """JPEG bytes in a list, decoded and fitted one at a time."""

    def __init__(self, examples: list[encoded.Example]):
        self.encoded = [example.image for example in examples]
        self.labels = [example.label for example in examples]

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(io.BytesIO(self.encoded[row])) as image:
            square = image.convert("RGB").resize(
                (SIZE, SIZE), Image.Resampling.BILINEAR
            )
        return torch.from_numpy(np.array(square)), self.labels[row]


def omniglot() -> tuple:
    return in_memory("omniglot_retrieval", image_size=32, grey=True)


def cifar10() -> tuple:
    return in_memory("cifar10")


def in_memory(name: str, **settings: object) -> tuple:
    source = sources.load(name, "train", **settings)
    columns = source.read(np.arange(len(source)))
    pixels, labels = (torch.from_numpy(columns[key]) for key in ("image", "label"))
    return source, torch_data.TensorDataset(pixels, labels), 300


def caltech101() -> tuple:
    name = "caltech101_retrieval"
    source = sources.load(name, "train", image_size=SIZE, memory_limit=0)
    stored = array_records.from_tfds(array_records.find(name, ""), "train")
    return source, Photographs(stored.fetch(np.arange(stored.examples))), 40


SETS = {"omniglot": omniglot, "cifar10": cifar10, "caltech101": caltech101}


def compare(source, dataset, batches: int, repeats: int) -> dict:
    agree(source, dataset)
    sides = {"ours": ours(source), "torch": theirs(dataset)}
    if isinstance(dataset, torch_data.TensorDataset):
        sides["torch, whole batches"] = whole_batches(dataset)
    results = {}
    for workers in WORKERS:
        runs: dict[str, list] = {side: [] for side in sides}
        for repeat in range(repeats):
            order = list(sides)[:: -1 if repeat % 2 else 1]
            for side in order:
                loader = sides[side](workers, SKIPPED + batches)
                runs[side].append(timed(loader, batches))
        results[f"{workers} workers"] = {
            side: {
                "rate": statistics.median(rate for rate, *_ in each),
                "rates": [round(rate) for rate, *_ in each],
                "processor_seconds": statistics.median(each[2] for each in each),
                "start": statistics.median(each[1] for each in each),
            }
            for side, each in runs.items()
        }
    return results


def timed(loader: Iterable, batches: int) -> tuple[float, float, float]:
    """Images a second after the first batches, seconds to the first of all."""
    began = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    first = time.perf_counter() - began
    for _ in range(SKIPPED - 1):
        next(iterator)
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(iterator)
    seconds = time.perf_counter() - began
    worked = time.process_time() - worked
    for _ in iterator:  # to the end, where it frees its workers
        pass
    return batches * BATCH / seconds, first, worked


def ours(source):
    def stream(seed: int) -> streams.Stream:
        plan = streams.shuffled_plan(len(source), BATCH, seed=seed)
        sweep = streams.batches_to_cover(len(source), BATCH)
        sizes = (len(source), source.classes, sweep)
        return streams.Stream(plan, source.read, *sizes, in_memory=source.in_memory)

    def loader(workers: int, batches: int) -> Iterator:
        timeline = Timeline([Phase("train", None, no_step)], batches)
        options = dataclasses.replace(Options(), workers=workers)
        with reader.batches(timeline, {"train": stream(0)}, 0, options) as ahead:
            yield from ahead

    return loader


def no_step(state, batch, key):
    raise NotImplementedError("only read here")


def theirs(dataset):
    def loader(workers: int, batches: int) -> torch_data.DataLoader:
        rows = torch_data.RandomSampler(dataset, num_samples=batches * BATCH)
        return torch_data.DataLoader(
            dataset, BATCH, sampler=rows, num_workers=workers, drop_last=True
        )

    return loader


def whole_batches(dataset):
    def loader(workers: int, batches: int) -> torch_data.DataLoader:
        rows = torch_data.RandomSampler(dataset, num_samples=batches * BATCH)
        groups = torch_data.BatchSampler(rows, BATCH, drop_last=True)
        return torch_data.DataLoader(
            dataset, batch_size=None, sampler=groups, num_workers=workers
        )

    return loader


def agree(source, dataset) -> None:
    """The batches of one reader hold the pixels and labels of the other's rows."""
    rows = 0
    for batch in ours(source)(0, 3):
        batch = batch["train"]
        for image, label, row in zip(batch["image"], batch["label"], batch["index"]):
            pixels, expected = dataset[int(row)]
            assert int(expected) == label, f"row {row}: {expected} and {label}"
            assert np.array_equal(pixels.numpy(), image), f"row {row} differs"
            rows += 1
    assert rows == 3 * BATCH


def show(name: str, results: dict) -> None:
    for workers, sides in results.items():
        best = max(v["rate"] for k, v in sides.items() if k != "ours")
        for side, found in sides.items():
            print(
                f"{name:<12}{workers:<10}{side:<22}{found['rate']:10,.0f} images/s"
                f"  first batch {found['start']:6.2f} s"
                f"  cpu {found['processor_seconds']:6.2f} s"
            )
        print(f"{'':<22}ours / best of theirs {sides['ours']['rate'] / best:8.2f}")


if __name__ == "__main__":
    main()
