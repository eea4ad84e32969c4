"""What a learnt control variate is worth, and how biased worth to first order is.

python tests/benchmarks/policy_gradients.py [--out FILE]
    [--seeds=2] [--rounds=500] [--batches=3]

The control variate is trained by the step of a search, its policy held where it begins,
on a value of 105 pairs of operations: an effect of each operation, another of each pair
where both its coins fell, and noise. Then it is held too: the mean square of one draw's
RELAX gradient over that of REINFORCE, at the same draws and with the same running mean,
by draws a step, steps, rate of the control variate and standard deviation of the noise.

Worth to first order is judged on digits whose validation half is rotated, WRN-10-1,
after some steps of a search: all 24 outcomes of four operations are tried on a batch,
which gives the exact gradients of the mean of f and of its linear part in pairs and
coins: the length of their difference relative to the former, and the cosine between
them, medians over batches, by learning rate.
"""

import argparse
import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax

import augment
from jaxfaces.engine import config, optimizers
from jaxfaces.tasks import search_state, search_step
from jaxfaces.tasks.policy_search import PolicySearch
from jaxfaces.tasks.search_settings import SearchSettings

LENGTHS = {1: (300, 1240, 5000), 8: (300, 1240)}  # steps, by draws a step
CONTROL_RATES = (3e-4, 1e-3, 5e-3)
NOISES = (0.0, 1.0)
OPERATIONS = ("Rotate", "Invert", "TranslateX", "Brightness")
RATES = (0.1, 0.01, 0.001)
STEPS = (20, 100, 250)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="of control variates")
    parser.add_argument("--rounds", type=int, default=500, help="of 8 draws, to judge")
    parser.add_argument("--batches", type=int, default=3, help="to judge f to first by")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report = {
        **machine.heading("jax", "jaxlib", "flax"),
        "relax_over_reinforce": moments(args),
        "bias_to_first_order": biases(args),
    }
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def moments(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Ratios of mean squares, means over seeds."""
    rows = []
    for draws, rate in itertools.product(LENGTHS, CONTROL_RATES):
        settings = SearchSettings(draws=draws, control_lr=rate, policy_lr=0.0)
        several = jax.jit(
            jax.vmap(functools.partial(ratios, settings, args.rounds), (None, 0)),
        )
        for noise in NOISES:
            found = several(noise, jnp.arange(args.seeds)).mean(0)
            rows += [
                {
                    "draws": draws,
                    "steps": steps,
                    "control_lr": rate,
                    "noise": noise,
                    "pairs": round(float(pairs), 3),
                    "coins": round(float(coins), 3),
                }
                for steps, (pairs, coins) in zip(LENGTHS[draws], found)
            ]
    return rows


def value(
    settings: SearchSettings, draws: augment.PolicyDraws, noise: Any, key: jax.Array
) -> jax.Array:
    """(D,) f of draws."""
    random = np.random.default_rng(0)
    effects = random.normal(size=len(settings.operations))
    pairs = np.array(list(itertools.combinations(range(len(effects)), 2)))
    both = jnp.asarray(0.5 * random.normal(size=len(pairs)))[draws.sub_policies]
    each = jnp.asarray(effects[pairs])[draws.sub_policies]
    f = jnp.sum(each * draws.applied, axis=-1) + both * draws.applied.all(axis=-1)
    return f + noise * jax.random.normal(key, f.shape)


def ratios(
    settings: SearchSettings, rounds: int, noise: jax.Array, seed: jax.Array
) -> jax.Array:
    """(lengths, 2) in pairs and coins, after so many steps."""
    lengths = LENGTHS[settings.draws]
    search = search_state.first_search(settings, jax.random.key(seed), 1)

    def step(learns: bool, search: Any, number: jax.Array) -> tuple:
        key = jax.random.fold_in(jax.random.key(seed + 1000), number)
        drawing, adding = jax.random.split(key)
        policy = search.policy
        draws = augment.policy_draws(
            drawing, policy["logits"], policy["probabilities"], count=settings.draws
        )
        f = value(settings, draws, noise, adding)
        squares = None
        before, zeros = search, jnp.zeros_like(policy["levels"])
        if learns:
            verdict = search_step.Verdict(f, {"levels": zeros}, 0.0, None, None)
            search, _ = search_step.improve(settings, search, draws, verdict, 0.5)
        else:
            squares = jnp.stack(mean_squares(search, draws, f))
        search = search_state.remembered(search, f, number, lengths[-1])
        return search.replace(history=before.history), squares

    found, start = [], 0
    for end in lengths:
        numbers = jnp.arange(start, end)
        search, _ = jax.lax.scan(functools.partial(step, True), search, numbers)
        # As many draws whatever their number a step, other ones than in training.
        fresh = 10_000 + jnp.arange(rounds * 8 // settings.draws)
        _, squares = jax.lax.scan(functools.partial(step, False), search, fresh)
        ours, theirs = squares.mean(0)
        found.append(ours / theirs)
        start = end
    return jnp.stack(found)


def mean_squares(search: Any, draws: augment.PolicyDraws, f: jax.Array) -> tuple:
    """RELAX's and REINFORCE's, each (2,), in pairs and coins, of one draw at a time."""
    logits, chances = search.policy["logits"], search.policy["probabilities"]
    deviation = jnp.sqrt(search.square)

    def one(draw: augment.PolicyDraws, f: jax.Array) -> tuple:
        draw, f = jax.tree.map(lambda x: x[None], (draw, f / deviation))
        mean = search.mean / deviation
        relax = augment.relax_gradient(
            draw, f, logits, chances, search.control, baseline=mean
        )
        plain = augment.reinforce_gradient(draw, f, logits, chances, baseline=mean)
        return tuple(
            search.square
            * jnp.array([jnp.sum(g.logits**2), jnp.sum(g.probabilities**2)])
            for g in (relax, plain)
        )

    return jax.tree.map(lambda x: x.mean(0), jax.vmap(one)(draws, f))


def biases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Errors of the gradient of f to first order, by steps done and learning rate."""
    flags = {
        "dataset": "digits",
        "grey": True,
        "padding": 1,
        "cutout": 0.25,
        "batch_size": 64,
        "operations": OPERATIONS,
        "initial_level": 0.9,
        "rotate_validation": 30.0,
        "cpu_conv": "off",
    }
    task = config.replace(PolicySearch(), flags)
    streams = task.streams("train", 0)
    sizes = {name: (each.examples, each.classes) for name, each in streams.items()}

    def batch(number: int) -> Any:
        return {
            name: {
                "valid": jnp.ones(task.batch_size, bool),
                **{
                    column: jnp.asarray(each.read(each.plan(number))[column])
                    for column in ("image", "label")
                },
            }
            for name, each in streams.items()
        }

    state, rows = task.init(jax.random.key(0), batch(0), sizes), []
    step = jax.jit(task.phases(sizes)[0].step)
    outcomes = Outcomes(task, sizes["train"][1])
    for number in range(max(STEPS)):
        state, _ = step(state, batch(number), jax.random.key(number))
        if number + 1 not in STEPS:
            continue
        found = np.array(
            [outcomes.errors(state, batch(1000 + n), n) for n in range(args.batches)]
        )
        rows += [
            {
                "steps": number + 1,
                "rate": rate,
                **{
                    name: [round(float(x), 3) for x in values]
                    for name, values in zip(("error", "cosine"), each)
                },
            }
            for rate, each in zip(RATES, np.median(found, axis=0))
        ]
    return rows


class Outcomes:
    """All pairs of the operations with all outcomes of their coins."""

    def __init__(self, task: PolicySearch, classes: int):
        self.task, self.network = task, task._net(classes)
        self.first = search_state.first_arrays(task.search)
        pairs, coins = range(len(self.first["logits"])), (False, True)
        self.all = list(itertools.product(pairs, coins, coins))
        self.tried = jax.jit(self._tried)

    def errors(self, state: Any, batch: Any, number: int) -> np.ndarray:
        """(rates, 2, 2): relative errors, then cosines, of pairs and of coins."""
        key = jax.random.key(number)
        values = np.array(
            [
                self.tried(state, batch, key, jnp.array([row]), jnp.array([coins]))
                for row, *coins in self.all
            ]
        )  # (outcomes, rates, 2)
        found = []
        for exact, linear in np.moveaxis(values, 0, -1):
            pairs = list(zip(self._gradients(exact), self._gradients(linear)))
            found.append(
                [
                    [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in pairs],
                    [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs],
                ]
            )
        return np.array(found)

    def _gradients(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the mean over outcomes, pairs equally likely and coins fair."""
        table = values.reshape(-1, 2, 2)
        of_pairs = table.mean(axis=(1, 2))
        first = table[:, 1].mean(-1) - table[:, 0].mean(-1)
        second = table[:, :, 1].mean(-1) - table[:, :, 0].mean(-1)
        count = len(table)
        return (
            (of_pairs - of_pairs.mean()) / count,
            np.concatenate([first, second]) / count,
        )

    def _tried(
        self, state: Any, batch: Any, key: jax.Array, row: Any, coins: Any
    ) -> list[tuple[jax.Array, jax.Array]]:
        """f and its linear part at each rate."""
        task, rows, held = self.task, batch["train"], batch["validation"]
        drawn = augment.policy_draws(
            key, self.first["logits"], self.first["probabilities"]
        )
        drawn = dataclasses.replace(drawn, sub_policies=row, applied=coins)
        found, draw = task._drawn(key, self.first, drawn, rows["image"])
        images = found.changed(draw)[0]
        judged = task._standardised(task.framing.test(held["image"]))

        def loss(params: Any, images: Any, labels: Any) -> jax.Array:
            logits, _ = self.network.apply(params, state.rest, images, train=True)
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return nll.mean()

        def train(params: Any, images: Any) -> jax.Array:
            return loss(params, images, rows["label"])

        def validation(params: Any) -> jax.Array:
            return loss(params, judged, held["label"])

        direction = jax.grad(validation)(state.params)
        exact = functools.partial(
            augment.one_step_value,
            train,
            validation,
            state.params,
            images,
            momentum=task.optimizer.momentum,
            buffer=optax.tree.get(state.opt, "trace"),
            weight_decay=task.optimizer.weight_decay,
            decay_mask=optimizers.weights,
        )
        linear = functools.partial(
            augment.linear_step_value, train, state.params, images, direction
        )
        return [(exact(rate=rate), linear(rate=rate)) for rate in RATES]


if __name__ == "__main__":
    main()
