"""What a step of a search costs, and how exact its gradient in the levels is.

python tests/benchmarks/policy_search_step.py [--out FILE]
    [--network=wrn_10_1 --batch=64 --size=32 --draws=2] [--repeats=9] [--batches=8]

Timed are a plain training step with crop, flip and cutout, whole steps of a search with
one and with several draws, and the gradient of the validation loss after one step in
the levels by each order: the two that are exact and the finite difference. All are
compiled programs that take turns in one process.

The gradient in the levels of one pair is judged at the weights of --warm plain steps,
against the exact one in float64, over several batches: the median and the worst
relative error, and how often the sign is wrong, by the finite difference's distance.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax

import augment
from jaxfaces.data.made_up import made_up
from jaxfaces.engine import net, optimizers
from jaxfaces.engine.optimizers import Optimizer
from jaxfaces.models import classifier, layers
from jaxfaces.tasks.classification import Classification
from jaxfaces.tasks.classification_augmentation import ClassificationAugmentation
from jaxfaces.tasks.classifier_network import ClassifierNetwork
from jaxfaces.tasks.image_framing import ImageFraming
from jaxfaces.tasks.policy_search import PolicySearch
from jaxfaces.tasks.search_settings import SearchSettings

CLASSES, STEPS = 10, 5
ORDERS = ("forward", "reverse", "finite")
DISTANCES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
FRAMING = {"padding": 4, "flip": True, "cutout": 0.5}
TRAINING = Optimizer(optimizer="sgd", lr=0.1, weight_decay=2e-4, clip_norm=5.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="wrn_10_1")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--draws", type=int, default=2, help="of the second search")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batches", type=int, default=8, help="to judge by; 0: none")
    parser.add_argument("--warm", type=int, default=20, help="steps before judging")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = {
        **machine.heading("jax", "jaxlib", "flax"),
        "device": jax.devices()[0].device_kind,
        **{name: getattr(args, name) for name in ("network", "batch", "size")},
        **costs(args),
        **(errors(args) if args.batches else {}),
    }
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def costs(args: argparse.Namespace) -> dict[str, Any]:
    """Medians of seconds, ratios within turns, memory and compilations."""
    programs = {
        "plain": Steps(plain(args), args),
        **{order: Meta(order, args) for order in ORDERS},
        "search": Steps(search(args, 1), args),
        "search_draws": Steps(search(args, args.draws), args),
    }
    turns = [
        {name: machine.one_turn(run, 0) for name, run in programs.items()}
        for _ in range(args.repeats)
    ]

    def median(of: Callable[[dict[str, float]], float]) -> float:
        return round(statistics.median(map(of, turns)), 4)

    more = args.draws - 1
    return {
        "seconds": {name: median(lambda t, n=name: t[n]) for name in programs},
        "seconds_of_one_more_draw": median(
            lambda t: (t["search_draws"] - t["search"]) / more
        ),
        "over_a_plain_step": {
            name: median(lambda t, n=name: t[n] / t["plain"]) for name in programs
        }
        | {
            "one_more_draw": median(
                lambda t: (t["search_draws"] - t["search"]) / more / t["plain"]
            )
        },
        "over_finite": {
            order: median(lambda t, n=order: t[n] / t["finite"]) for order in ORDERS
        },
        "temporary_mib": {
            name: round(run.temporary / 2**20, 1) for name, run in programs.items()
        },
        f"compilations_in_{STEPS}_steps": {
            name: run.compilations() for name, run in programs.items()
        },
    }


def plain(args: argparse.Namespace) -> Classification:
    return Classification(
        network=ClassifierNetwork(network=args.network),
        augmentation=ClassificationAugmentation(policy="cutout", **FRAMING),
        batch_size=args.batch,
        optimizer=TRAINING,
    )


def search(args: argparse.Namespace, draws: int) -> PolicySearch:
    return PolicySearch(
        network=ClassifierNetwork(network=args.network),
        framing=ImageFraming(**FRAMING),
        search=SearchSettings(draws=draws, initial_level=0.9),
        batch_size=args.batch,
        optimizer=TRAINING,
    )


def batch_of(args: argparse.Namespace, number: int) -> dict[str, Any]:
    """A batch to train on and one to judge by; others for each number."""
    count = -(-2 * args.batch // CLASSES)
    source = made_up(CLASSES, count, args.size, seed=number)
    order = np.random.default_rng(number).permutation(len(source))[: 2 * args.batch]
    both = {}
    for name, rows in zip(("train", "validation"), np.split(order, 2)):
        found = source.read(rows)
        kept = {key: jnp.asarray(found[key]) for key in ("image", "label")}
        both[name] = kept | {"valid": jnp.ones(args.batch, bool)}
    return both


class Program:
    """What is timed: a jitted function, its memory and how often it was compiled."""

    def __init__(self, function: Callable, *given: Any, donated: bool = False):
        self.traced = 0

        def counted(*arguments: Any) -> Any:
            self.traced += 1
            return function(*arguments)

        self.jitted = jax.jit(counted, donate_argnums=(0,) if donated else ())
        compiled = self.jitted.lower(*given).compile()
        memory = compiled.memory_analysis()
        self.temporary = memory.temp_size_in_bytes

    def compilations(self) -> int:
        """How many there are in some calls, which follow each other."""
        for _ in range(STEPS):
            self()
        return self.traced

    def __call__(self) -> None:
        raise NotImplementedError


class Steps(Program):
    """Steps of a task, each from the state that the last one left."""

    def __init__(self, task: Any, args: argparse.Namespace):
        self.batch = batch_of(args, 0)
        sizes = dict.fromkeys(self.batch, (args.batch, CLASSES))
        self.state = task.init(jax.random.key(0), self.batch, sizes)
        self.state = jax.tree.map(jnp.array, self.state)
        self.key = jax.random.key(1)
        step = task.phases(sizes)[0].step
        super().__init__(step, self.state, self.batch, self.key, donated=True)

    def __call__(self) -> None:
        self.state, metrics = self.jitted(self.state, self.batch, self.key)
        jax.block_until_ready((self.state, metrics))


class Meta(Program):
    """The gradient in the levels, and what a step of training needs beside it."""

    def __init__(self, order: str, args: argparse.Namespace):
        problem = Problem(args, "float32")
        self.given = (problem.start(), problem.batch(0))
        super().__init__(functools.partial(problem.gradient, order), *self.given)

    def __call__(self) -> None:
        jax.block_until_ready(self.jitted(*self.given))


class Problem:
    """The levels of one pair of operations, both applied, as `judge` shapes them."""

    def __init__(self, args: argparse.Namespace, dtype: str):
        self.args, self.dtype = args, dtype
        module = classifier.make(args.network, CLASSES, dtype=dtype, colours="none")
        self.net = net.from_linen(module)
        self.colours = ClassifierNetwork(network=args.network).taken_colours

    def start(self) -> Any:
        """Parameters, statistics and the momentum's buffer."""
        params, rest = self.net.init(jax.random.key(0), self.batch(0)["train"][0][:1])
        return params, rest, jax.tree.map(jnp.zeros_like, params)

    def batch(self, number: int) -> Any:
        """Standardised images and labels of both halves."""
        return {
            name: (
                layers.standardize(rows["image"] / np.float32(255), self.colours),
                rows["label"],
            )
            for name, rows in batch_of(self.args, number).items()
        }

    def gradient(
        self, order: Any, state: Any, batch: Any, distance: float = 0.01
    ) -> tuple[Any, ...]:
        """The gradient in the levels, and the training gradient with its statistics."""
        params, rest, buffer = state
        images, labels = batch["train"]
        applied = jnp.ones((1, 2), bool)

        def train(params: Any, levels: jax.Array) -> Any:
            shown = augment.straight_through(images, levels, applied)
            return self.loss(params, rest, shown, labels)

        found = augment.one_step_meta_gradient(
            train,
            lambda params: self.loss(params, rest, *batch["validation"]),
            params,
            jnp.full((1, 2), 0.9, images.dtype),
            rate=TRAINING.lr,
            momentum=TRAINING.momentum,
            buffer=buffer,
            weight_decay=TRAINING.weight_decay,
            decay_mask=optimizers.weights,
            order=order,
            distance=distance,
            has_aux=True,
        )
        return found.gradient, found.train_gradient, found.train_aux

    def loss(self, params: Any, rest: Any, images: Any, labels: Any) -> Any:
        logits, rest = self.net.apply(params, rest, images, train=True)
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return nll.mean(), rest

    def trained(self) -> Any:
        """The state after some plain steps, momentum and all."""

        @jax.jit
        def step(state: Any, batch: Any) -> Any:
            params, rest, buffer = state
            loss = functools.partial(self.loss, rest=rest)
            images, labels = batch["train"]
            slope, rest = jax.grad(loss, has_aux=True)(
                params, images=images, labels=labels
            )
            buffer = jax.tree.map(lambda m, g: 0.9 * m + g, buffer, slope)
            params = jax.tree.map(lambda w, m: w - TRAINING.lr * m, params, buffer)
            return params, rest, buffer

        state = self.start()
        for number in range(self.args.warm):
            state = step(state, self.batch(1000 + number))
        return state


def errors(args: argparse.Namespace) -> dict[str, Any]:
    """Errors of the gradient in float32, relative to the exact one in float64."""
    problem = Problem(args, "float32")
    state = problem.trained()
    batches = [problem.batch(1 + number) for number in range(args.batches)]
    exact = in_float64(args, state, batches)
    ways: dict[str, Callable] = {
        order: jax.jit(functools.partial(problem.gradient, order))
        for order in ("forward", "reverse")
    }
    finite = jax.jit(functools.partial(problem.gradient, "finite"))
    ways |= {
        f"finite, R = {each:g} / norm": functools.partial(finite, distance=each)
        for each in DISTANCES
    }
    found = {}
    for name, way in ways.items():
        values = np.array([way(state, batch)[0][0, 0] for batch in batches], float)
        off = abs(values - exact) / abs(exact)
        found[name] = {
            "median": float(f"{np.median(off):.2g}"),
            "worst": float(f"{off.max():.2g}"),
            "wrong_signs": int((values * exact <= 0).sum()),
        }
    return {"batches": args.batches, "relative_error_of_the_gradient": found}


def in_float64(args: argparse.Namespace, state: Any, batches: list) -> np.ndarray:
    """The exact gradient in a level for each batch."""
    # The network's last layer and its norms insist on float32 otherwise.
    with jax.enable_x64(True), mock.patch.object(jnp, "float32", jnp.float64):
        problem = Problem(args, "float64")

        def wide(tree: Any) -> Any:
            return jax.tree.map(
                lambda x: (
                    x.astype(float) if jnp.issubdtype(x.dtype, jnp.floating) else x
                ),
                tree,
            )

        way = jax.jit(functools.partial(problem.gradient, "reverse"))
        given = [(wide(state), wide(batch)) for batch in batches]
        assert "f32[" not in str(jax.make_jaxpr(way)(*given[0]))
        return np.array([way(*each)[0][0, 0] for each in given])


if __name__ == "__main__":
    main()
