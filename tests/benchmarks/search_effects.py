"""What a step of a search can see: effects of operations on f, and what batches add.

python tests/benchmarks/search_effects.py [--data_dir=DIR] [--init_from=FILE]
    [--out FILE] [--batches=12] [--draws=10]

The validation half is rotated by 30 degrees, as in the planted studies: on digits,
where --data_dir has it on 1,000 images of CIFAR-10, and on those again with a network
that begins with the weights in --init_from. After some steps of a search without
updates of its policy, several batches are tried with several draws each, and f, the
change of the validation loss by one step, is taken apart: its variance between draws of
one batch, that of the batches' means, and by least squares the effect of each operation
that is applied, with its standard error. Below 0 is better than leaving the operation
out.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
import optax

import augment
from jaxfaces.engine import config, optimizers, steps, variables
from jaxfaces.tasks import classification_loss, search_state
from jaxfaces.tasks.policy_search import PolicySearch

STEPS = (10, 80, 160, 230)
PLANTED = {
    "rotate_validation": 30.0,
    "operations": ("Rotate", "Invert", "TranslateX")
    + ("TranslateY", "Brightness", "Posterize"),
    "initial_level": 0.9,
    "policy_lr": 0.0,
    "steps": 240,
}
DIGITS = {
    "dataset": "digits",
    "grey": True,
    "padding": 1,
    "cutout": 0.25,
    "batch_size": 64,
}
CIFAR = {
    "dataset": "cifar10",
    "train_images": 1000,
    "padding": 4,
    "flip": True,
    "batch_size": 50,
}
TRAINED = {"lr": 0.01}  # of a network that begins with weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--init_from", type=Path)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.init_from and not args.data_dir:
        parser.error("--init_from is for CIFAR-10: --data_dir is missing")
    cifar = CIFAR | {"data_dir": args.data_dir}
    sets = {"digits": (DIGITS, None)}
    if args.data_dir:
        sets["cifar10"] = (cifar, None)
    if args.init_from:
        loaded, _ = variables.load(args.init_from)
        sets["cifar10_trained"] = (cifar | TRAINED, loaded)
    report = machine.heading("jax", "jaxlib", "flax")
    for name, (flags, begin) in sets.items():
        task = config.replace(PolicySearch(), PLANTED | flags)
        report[name] = Search(task, begin).effects(args.batches, args.draws)
        print(json.dumps({name: report[name]}, indent=2), flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


class Search:
    """A search whose policy stays as it is; None begins with fresh weights."""

    def __init__(self, task: PolicySearch, begin: Any | None):
        self.task, self.begin, self.streams = task, begin, task.streams("train", 0)
        self.sizes = {
            name: (each.examples, each.classes) for name, each in self.streams.items()
        }
        self.network = task._net(self.sizes["train"][1])
        self.first = search_state.first_arrays(task.search)
        self.step = jax.jit(task.phases(self.sizes)[0].step)
        self.tried = jax.jit(self._tried)

    def batch(self, number: int) -> Any:
        found = {
            name: dict(each.read(each.plan(number)))
            for name, each in self.streams.items()
        }
        for rows in found.values():
            rows["valid"] = np.ones(self.task.batch_size, bool)
        return found

    def effects(self, batches: int, draws: int) -> list[dict[str, Any]]:
        state = self.task.init(jax.random.key(0), self.batch(0), self.sizes)
        if self.begin is not None:
            state = steps.with_variables(state, self.begin)
        rows, done = [], 0
        for upto in STEPS:
            for number in range(done, upto):
                key = jax.random.key(number)
                state, _ = self.step(state, self.batch(number), key)
            done = upto
            f, used = self.several(state, batches, draws)
            rows.append({"steps": upto, **self.parts(f, used)})
        return rows

    def several(self, state: Any, batches: int, draws: int) -> tuple:
        """f (batches, draws), and which operations were applied, an axis more."""
        of = np.asarray(self.task.search.first_policy().operations)
        f, used = np.zeros((batches, draws)), np.zeros((batches, draws, 6))
        for b in range(batches):
            batch = self.batch(5000 + b)
            for d in range(draws):
                key = jax.random.key(1000 * b + d)
                value, row, applied = self.tried(state, batch, key)
                f[b, d] = value
                used[b, d, of[int(row)]] = np.asarray(applied)
        return f, used

    def parts(self, f: np.ndarray, used: np.ndarray) -> dict[str, Any]:
        """f taken apart, in units of the loss."""
        own = f.var(axis=1, ddof=1).mean()
        means = f.mean(axis=1).var(ddof=1) - own / f.shape[1]
        x = (used - used.mean(axis=1, keepdims=True)).reshape(f.size, -1)
        y = (f - f.mean(axis=1, keepdims=True)).ravel()
        slopes, *_ = np.linalg.lstsq(x, y, rcond=None)
        left = np.sum((y - x @ slopes) ** 2) / (f.size - len(f) - len(slopes))
        errors = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * left)
        return {
            "deviation_between_draws": float(f"{own**0.5:.3g}"),
            "variance_batches_add_over_it": round(float(max(means, 0) / own), 2),
            "effects": {
                name: [float(f"{slope:.2g}"), float(f"{error:.2g}")]
                for name, slope, error in zip(
                    self.task.search.operations, slopes, errors
                )
            },
        }

    def _tried(self, state: Any, batch: Any, key: jax.Array) -> tuple:
        task, rows, held = self.task, batch["train"], batch["validation"]
        drawing, changing, training = jax.random.split(key, 3)
        draws = augment.policy_draws(
            drawing, self.first["logits"], self.first["probabilities"]
        )
        images, draw = task._drawn(changing, self.first, draws, rows["image"])
        judged = task._standardised(task.framing.test(held["image"]))
        loss = functools.partial(
            classification_loss.of_network, self.network, state.rest
        )
        f = augment.one_step_value(
            functools.partial(loss, training, rows),
            lambda params: loss(training, held, params, judged),
            state.params,
            images.changed(draw)[0],
            rate=task.optimizer.rate(task.steps)(state.step),
            momentum=task.optimizer.momentum,
            buffer=optax.tree.get(state.opt, "trace"),
            weight_decay=task.optimizer.weight_decay,
            decay_mask=optimizers.weights,
            has_aux=True,
        )
        return f, draws.sub_policies[0], jnp.squeeze(draws.applied, 0)


if __name__ == "__main__":
    main()
