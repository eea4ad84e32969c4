"""What control variate and baseline are worth, and how biased worth to first order is.

python tests/benchmarks/policy_gradients.py [--out FILE]
    [--seeds=2] [--rounds=500] [--batches=3]

The control variate is trained by the step of a search, its policy held where it begins,
on a value of 105 pairs of operations: an effect of each operation, another of each pair
where both its coins fell, and noise. Then it is held too: the mean square of one draw's
RELAX gradient over that of REINFORCE, at the same draws and with the same running mean,
by draws a step, steps, rate of the control variate and standard deviation of the noise.

Baselines are compared for several draws on one batch, where batches add to f: the
mean square of REINFORCE's gradient with what other draws of the step tell
(`augment.step_baseline`, its variances those of a search), and with each draw against
the mean of the others, over that with the running mean, by draws a step and variance of
what batches add, that between draws being 1.

Worth to first order is judged on digits whose validation half is rotated, WRN-10-1,
after some steps of a search: all 24 outcomes of four operations are tried on a batch,
which gives the exact gradients of the mean of f and of its linear part in pairs and
coins: the length of their difference relative to the former, and the cosine between
them, medians over batches, by learning rate.
"""

import argparse
import functools
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
from all_outcomes import Outcomes

import augment
from jaxfaces.engine import config
from jaxfaces.tasks import search_state, search_step
from jaxfaces.tasks.policy_search import PolicySearch
from jaxfaces.tasks.search_settings import SearchSettings

LENGTHS = {1: (300, 1240, 5000), 8: (300, 1240)}  # steps, by draws a step
CONTROL_RATES = (3e-4, 1e-3, 5e-3)
NOISES = (0.0, 1.0)
BASELINE_DRAWS = (2, 4, 8)
BATCHES = (0.0, 0.3, 1.0, 4.0)  # variance that they add, see search_effects.py
OWN_DEVIATION = 0.927  # of `value` without noise, between draws
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
        "baseline_over_running_mean": baselines(args),
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


def baselines(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Ratios of mean squares in all logits and coins."""
    rows = []
    for draws, batches in itertools.product(BASELINE_DRAWS, BATCHES):
        step, left_out = compared(draws, batches, 20 * args.rounds)
        rows.append(
            {
                "draws": draws,
                "batches": batches,
                "step_baseline": round(step, 3),
                "leave_one_out": round(left_out, 3),
            }
        )
    return rows


def compared(count: int, batches: float, steps: int) -> tuple[float, float]:
    """The mean squares of both over that with the running mean."""
    settings = SearchSettings(draws=count, policy_lr=0.0)
    first = search_state.first_search(settings, jax.random.key(0), 1)
    logits, chances = first.policy["logits"], first.policy["probabilities"]

    def step(search: Any, number: jax.Array) -> tuple:
        drawing, adding = jax.random.split(
            jax.random.fold_in(jax.random.key(1), number)
        )
        draws = augment.policy_draws(drawing, logits, chances, count=count)
        f = value(settings, draws, 0.0, adding) / OWN_DEVIATION
        f += batches**0.5 * jax.random.normal(adding)
        shared = jnp.maximum(search.square - search.own, 0)
        ours, _ = augment.step_baseline(
            f, mean=search.mean, shared=shared, own=search.own
        )
        left_out, _ = augment.step_baseline(f, mean=search.mean, shared=1.0, own=0.0)
        squares = [
            jnp.sum(g.logits**2) + jnp.sum(g.probabilities**2)
            for g in (
                augment.reinforce_gradient(draws, f, logits, chances, baseline=b)
                for b in (ours, left_out, search.mean)
            )
        ]
        return search_state.remembered(search, f, number, steps), jnp.stack(squares)

    _, squares = jax.lax.scan(step, first, jnp.arange(steps))
    ours, left_out, running = squares[100:].mean(0)
    return float(ours / running), float(left_out / running)


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
    outcomes = Outcomes(task, sizes["train"][1], RATES)
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


if __name__ == "__main__":
    main()
