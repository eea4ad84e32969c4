"""All outcomes of a small policy on a batch, and the exact gradients that they give."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import augment
from jaxfaces.engine import optimizers
from jaxfaces.tasks import search_state
from jaxfaces.tasks.policy_search import PolicySearch


class Outcomes:
    """All pairs of the operations with all outcomes of their coins."""

    def __init__(self, task: PolicySearch, classes: int, rates: Sequence[float]):
        self.task, self.network, self.rates = task, task._net(classes), rates
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
        return [(exact(rate=rate), linear(rate=rate)) for rate in self.rates]
