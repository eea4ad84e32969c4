"""Times one training step of a ResNet, ours against torch, with copied weights.

python tests/benchmarks/resnet_step.py [--out docs/results/bench_resnet_step.json]
    [--network=resnet18 --size=80,32 --batch=32,128 --dtype=float32]
    [--cpu_conv=off,auto] [--seconds=25] [--peak_tflops=N] [--loss=softmax] [--shapes]

A step is the loss (softmax over 100 classes, or with --loss=ranked_list that of 100-d
embeddings, four of a class), its gradients and an update by SGD with momentum. All take
turns in one process. On a CPU, torch runs channels last on one thread and on two, of
which the faster counts; on a GPU it is torch.compile. Without torch ours are timed
alone. --shapes times single convolutions instead.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax
import resnet_torch

import metric
from jaxfaces.models import convolution, embedder

CLASSES = 100
# Dense TFLOP/s of the data sheets (SXM): bfloat16, and TF32 for float32.
PEAKS = {
    "H100": {"bfloat16": 989.0, "float32": 494.5},
    "H200": {"bfloat16": 989.0, "float32": 494.5},
    "A100": {"bfloat16": 312.0, "float32": 156.0},
}
# Of outputs (B, 100) and labels; the peer's ranked list differentiates weights too.
LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "softmax": lambda x, y: optax.softmax_cross_entropy_with_integer_labels(
        x, y
    ).mean(),
    "ranked_list": functools.partial(metric.ranked_list_loss, gradient="full"),
}
VERSIONS = ("jax", "jaxlib", "flax", "numpy", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--size", default="80,32")
    parser.add_argument("--batch", default="32,128")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cpu_conv", default="off,auto")
    parser.add_argument("--seconds", type=float, default=25, help="a comparison")
    parser.add_argument("--peak_tflops", type=float, default=0)
    parser.add_argument("--loss", choices=list(LOSSES), default="softmax")
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    compare = compare_shapes if args.shapes else compare_steps
    results = [
        result
        for dtype in args.dtype.split(",")
        for size in map(int, args.size.split(","))
        for batch in map(int, args.batch.split(","))
        for result in compare(args, dtype, size, batch)
    ]
    report = {
        **machine.heading(*VERSIONS, device=jax.devices()[0].device_kind),
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def compare_steps(args: Any, dtype: str, size: int, batch: int) -> list[dict]:
    """Agreement of logits, then medians of steps that take turns."""
    rng = np.random.default_rng(0)
    images = rng.random((batch, size, size, 3), np.float32)
    labels = rng.integers(0, CLASSES, batch)
    if args.loss != "softmax":
        labels = np.arange(batch) // 4
    settings = args.cpu_conv.split(",") if jax.default_backend() == "cpu" else ["off"]
    variables = initial(args.network, images)
    ours = {
        f"ours_{s}": Ours(args.network, dtype, s, variables, images, labels, args.loss)
        for s in settings
    }
    runs: dict[str, Callable[[], object]] = {n: run.step for n, run in ours.items()}
    errors: dict[str, float] = {}
    if resnet_torch.torch is not None:
        how = (args.network, dtype, variables, images, labels, args.loss)
        peer = resnet_torch.Peer(*how)
        for name, run in ours.items():
            errors[name] = agreement(run, peer, exact=dtype == "float32")
        runs = {**peer.runs(), **runs}
    seconds = take_turns(runs, args.seconds)
    medians = {name: 1e3 * statistics.median(s) for name, s in seconds.items()}
    theirs = min((t for n, t in medians.items() if n.startswith("torch")), default=0.0)
    first = next(iter(ours.values()))
    peak = args.peak_tflops or known_peak(dtype)
    result = {
        "network": args.network,
        "loss": args.loss,
        "loss_alone_ms": loss_alone(args.loss, batch, labels),
        "dtype": dtype,
        "size": size,
        "batch": batch,
        "logits_differ": errors,
        "median_ms": medians,
        "best_ms": {name: 1e3 * min(s) for name, s in seconds.items()},
        "repeats": min(map(len, seconds.values())),
        "speedup_over_torch": {n: theirs / medians[n] for n in ours if theirs},
        "speedup_over_plain": {
            n: medians["ours_off"] / medians[n] for n in ours if "ours_off" in medians
        },
        "images_per_second": {n: 1e3 * batch / t for n, t in medians.items()},
        "share_of_peak": {
            n: first.flops / (1e9 * medians[n] * peak) for n in ours if peak
        },
        "step_gflop": first.flops / 1e9,
        "compile_s": {n: run.compile_seconds for n, run in ours.items()},
        "temporary_mib": {n: run.temporary_mib for n, run in ours.items()},
    }
    print(json.dumps(result, indent=2), flush=True)
    return [result]


def loss_alone(name: str, batch: int, labels: np.ndarray) -> float:
    """Milliseconds of our loss and its gradient without the network."""
    rows = jax.random.normal(jax.random.key(0), (batch, CLASSES))
    f = jax.jit(jax.value_and_grad(LOSSES[name]))
    seconds = []
    for _ in range(20):
        begin = time.perf_counter()
        jax.block_until_ready(f(rows, jnp.asarray(labels)))
        seconds.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(seconds)


def known_peak(dtype: str) -> float:
    kind = jax.devices()[0].device_kind
    return next((peaks[dtype] for name, peaks in PEAKS.items() if name in kind), 0.0)


def initial(network: str, images: np.ndarray) -> Any:
    module = embedder.make(network, size=CLASSES, dtype="float32")
    variables = jax.jit(functools.partial(module.init, train=False))(
        jax.random.key(0), images[:2]
    )
    # Blocks begin as the identity: scales of 0 would hide most of the network.
    variables["params"] = jax.tree.map(
        lambda p: p + 0.1 if p.ndim == 1 else p, variables["params"]
    )
    return jax.device_get(variables)


class Ours:
    """Our step, compiled, on data already on the device."""

    def __init__(
        self,
        network: str,
        dtype: str,
        cpu_conv: str,
        variables: Any,
        images: np.ndarray,
        labels: np.ndarray,
        loss: str,
    ) -> None:
        self.module = embedder.make(
            network, size=CLASSES, dtype=dtype, cpu_conv=cpu_conv
        )
        self.variables, self.images = variables, jnp.asarray(images)
        self.labels = jnp.asarray(labels)
        tx = optax.sgd(resnet_torch.LEARNING_RATE, momentum=resnet_torch.MOMENTUM)

        def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
            params, stats, opt = state

            def value(params: Any) -> Any:
                logits, changed = self.module.apply(
                    {"params": params, "batch_stats": stats},
                    images,
                    train=True,
                    mutable=["batch_stats"],
                )
                return LOSSES[loss](logits, labels), changed["batch_stats"]

            (paid, stats), grads = jax.value_and_grad(value, has_aux=True)(params)
            updates, opt = tx.update(grads, opt, params)
            return (optax.apply_updates(params, updates), stats, opt), paid

        params, stats = jax.tree.map(
            jnp.array, (variables["params"], variables["batch_stats"])
        )
        self.state = params, stats, tx.init(params)
        start = time.perf_counter()
        data = self.images, self.labels
        self.program = jax.jit(step, donate_argnums=0).lower(self.state, *data)
        self.program = self.program.compile()
        self.compile_seconds = time.perf_counter() - start
        # What the mathematics asks for, counted on the plain program.
        cost = jax.jit(step).lower(self.state, *data).cost_analysis() or {}
        self.flops = float(cost.get("flops", 0.0))
        memory = self.program.memory_analysis()
        self.temporary_mib = memory.temp_size_in_bytes / 2**20

    def step(self) -> float:
        """One step; waits for its loss."""
        self.state, value = self.program(self.state, self.images, self.labels)
        return float(value)

    def logits(self, *, train: bool) -> np.ndarray:
        """Of the initial variables."""
        apply = jax.jit(
            lambda v, x: self.module.apply(v, x, train=train, mutable=["batch_stats"])
        )
        return np.asarray(apply(self.variables, self.images)[0])


def agreement(ours: Ours, peer: Any, *, exact: bool) -> float:
    """Largest difference of logits, relative to the largest; checked for float32."""
    worst = 0.0
    for train in (False, True):
        wanted = peer.logits(train=train)
        error = np.abs(ours.logits(train=train) - wanted).max() / np.abs(wanted).max()
        worst = max(worst, float(error))
    if exact and jax.default_backend() == "cpu":
        assert worst < 1e-4, f"logits differ by {worst}"
    return worst


def take_turns(
    runs: dict[str, Callable[[], object]], budget: float, least: int = 5
) -> dict[str, list[float]]:
    """Seconds of each run, again and again in turn, within a budget of seconds."""
    for run in runs.values():
        run(), run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    start, repeats = time.perf_counter(), 0
    while time.perf_counter() - start < budget or repeats < least:
        repeats += 1
        for name, run in runs.items():
            run()  # threads of the other library still spin, and caches are cold
            for _ in range(2):
                begin = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def convolutions(size: int) -> list[tuple[str, int, int, int, int, int]]:
    """Name, side, channels, features, kernel and stride of ResNet-18's."""
    side, features = (size // 2 + 1) // 2, 64
    found = [("stem", size, 3, 64, 7, 2), ("stage1", side, 64, 64, 3, 1)]
    for stage in (2, 3, 4):
        wide = 2 * features
        found.append((f"stage{stage}_down", side, features, wide, 3, 2))
        found.append((f"stage{stage}_shortcut", side, features, wide, 1, 2))
        side, features = (side + 1) // 2, wide
        found.append((f"stage{stage}", side, wide, wide, 3, 1))
    return found


def compare_shapes(args: Any, dtype: str, size: int, batch: int) -> list[dict]:
    """Value and gradients of every convolution, bare and inside lax.cond."""
    return [
        compare_one(args, dtype, batch, size, *which) for which in convolutions(size)
    ]


def compare_one(
    args: Any,
    dtype: str,
    batch: int,
    size: int,
    name: str,
    side: int,
    channels: int,
    features: int,
    kernel: int,
    stride: int,
) -> dict:
    """One convolution: forward, gradient of images and of weights, native in cond."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, side, side, channels), np.float32)
    w = rng.standard_normal((kernel, kernel, channels, features), np.float32) / kernel
    edge = kernel // 2
    geometry = convolution.Geometry((stride, stride), ((edge, edge), (edge, edge)))
    plan = convolution.by_shape(jnp.asarray(x, dtype), jnp.asarray(w), geometry)
    dy = rng.standard_normal(convolution.native(x, w, geometry).shape, np.float32)
    x, w, dy = (jnp.asarray(a, dtype) for a in (x, w, dy))
    runs: dict[str, Callable[[], object]] = {}
    for form, f in convolution.FORMS.items():
        for which, g in products(functools.partial(f, geometry=geometry)).items():
            runs[f"{which} {form}"] = compiled(g, x, w, dy)
            if form in ("native", "columns", "taps") and which == "weights":
                runs[f"{which} {form} in cond"] = compiled(in_cond(g), x, w, dy)
    if resnet_torch.torch is not None:
        runs |= resnet_torch.products(x, w, dy, stride, edge)
    seconds = take_turns(runs, args.seconds / 25, least=3)
    medians = {n: 1e3 * statistics.median(s) for n, s in seconds.items()}
    print(f"\n{name}: {batch} x {side}x{side}x{channels} -> {features}, {plan}")
    for run, time_ms in medians.items():
        print(f"  {run:32s}{time_ms:10.2f} ms", flush=True)
    return {
        "name": name,
        "size": size,
        "batch": batch,
        "images": x.shape,
        "weights": w.shape,
        "stride": stride,
        "plan": plan and vars(plan),
        "median_ms": medians,
    }


def products(f: Callable) -> dict[str, Callable]:
    """The three products of a convolution, as functions of images, weights, change."""
    return {
        "forward": lambda x, w, dy: f(x, w),
        "inputs": lambda x, w, dy: jax.linear_transpose(lambda x: f(x, w), x)(dy)[0],
        "weights": lambda x, w, dy: jax.linear_transpose(lambda w: f(x, w), w)(dy)[0],
    }


def in_cond(f: Callable) -> Callable:
    def run(x: jax.Array, w: jax.Array, dy: jax.Array) -> jax.Array:
        result = jax.eval_shape(f, x, w, dy)
        zeros = jnp.zeros(result.shape, result.dtype)
        return jax.lax.cond(
            jnp.isfinite(w[0, 0, 0, 0]), lambda: f(x, w, dy), lambda: zeros
        )

    return run


def compiled(f: Callable, *operands: jax.Array) -> Callable[[], object]:
    program = jax.jit(f).lower(*operands).compile()
    return lambda: jax.block_until_ready(program(*operands))


if __name__ == "__main__":
    main()
