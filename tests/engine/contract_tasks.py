"""Small tasks that use every part of the contract; trained, killed and resumed."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from jaxfaces.data import streams as streams_lib
from jaxfaces.engine import steps as steps_lib
from jaxfaces.engine.config import group, knob
from jaxfaces.engine.optimizers import Optimizer
from jaxfaces.engine.task import Cycle, Phase

FEATURES = 3


@functools.lru_cache
def points(examples: int, seed: int) -> dict[str, np.ndarray]:
    """Noisy values of a fixed linear function."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(examples, FEATURES)).astype(np.float32)
    y = x @ np.array([1.0, -2.0, 0.5], np.float32) + 0.1 * rng.normal(size=examples)
    return {"x": x, "y": y.astype(np.float32)}


def masked_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, values, 0)) / jnp.maximum(jnp.sum(valid), 1)


def fit(params: Any, batch: Any) -> jax.Array:
    error = jnp.einsum("bf,f->b", batch["x"], params["w"]) + params["b"] - batch["y"]
    return masked_mean(jnp.square(error), batch["valid"])


def first_params(key: jax.Array) -> dict[str, jax.Array]:
    return {"w": jax.random.normal(key, (FEATURES,)), "b": jnp.zeros(())}


@dataclasses.dataclass(frozen=True)
class Linear:
    """One network, one optimiser: least squares. The other tasks vary it."""

    steps: int = knob(12, "Steps.", lower=1)
    batch_size: int = knob(8, "Rows a batch.", lower=1)
    examples: int = knob(20, "Rows, not a multiple of the batch.", lower=1)
    noise: float = knob(0.1, "Of the gradient, so that keys matter.", lower=0.0)
    nan_at: int = knob(-1, "Step whose loss becomes NaN.", lower=-1)
    pause: float = knob(0.0, "Seconds that reading a batch takes.", runtime=True)
    microbatch: int = knob(0, "Rows at a time.", lower=0)
    optimizer: Optimizer = group(Optimizer(lr=0.05), prefix="")
    monitor: ClassVar[str] = "min:mse"

    def columns(self, split: str) -> dict[str, np.ndarray]:
        return points(self.examples, {"train": 0, "validation": 1, "test": 2}[split])

    def stream(self, split: str, seed: int, ordered: bool = False):
        columns = self.columns(split)
        rows, size = len(columns["x"]), self.batch_size
        plan = streams_lib.shuffled_plan(rows, size, seed=seed)
        if ordered or split != "train":
            plan = streams_lib.ordered_plan(rows, size)
        sweep = streams_lib.batches_to_cover(rows, size)
        stream = streams_lib.from_columns(columns, plan, sweep=sweep)
        if not self.pause:
            return stream
        return dataclasses.replace(
            stream, read=self.slowly(stream.read), in_memory=False
        )

    def slowly(self, read):
        def wait(rows):
            import time

            time.sleep(self.pause)
            return read(rows)

        return wait

    def streams(self, split: str, seed: int):
        return {"train": self.stream(split, seed)}

    def make(self):
        return self.optimizer.make(self.steps)

    def init(self, key, batch, sizes):
        params = first_params(key)
        average = self.optimizer.average
        return steps_lib.make_state(params, {}, self.make(), average=average)

    def loss(self, params, rest, batch, key):
        value = fit(params, batch["train"])
        nudge = jnp.vdot(jax.random.normal(key, (FEATURES,)), params["w"])
        metrics = {"loss": (value, 1)}
        return value + self.noise * nudge, (rest, metrics)

    def step(self, state, batch, key):
        step = steps_lib.make_step(
            self.loss,
            self.make(),
            average=self.optimizer.average,
            microbatch=self.microbatch,
        )
        after, metrics = step(state, batch, key)
        bad = state.step == self.nan_at
        value, count = metrics["loss"]
        return after, metrics | {"loss": (jnp.where(bad, jnp.nan, value), count)}

    def phases(self, sizes):
        return [Phase("train", None, self.step)]

    def inference(self, state):
        return state.variables["params"]

    def predict(self, variables, batch):
        return jnp.einsum("bf,f->b", batch["x"], variables["w"]) + variables["b"]

    def evaluate(self, state, predict, batches, sizes):
        errors = []
        for batch in batches["train"]:
            error = np.asarray(predict(batch)) - batch["y"]
            errors.append(np.square(error)[batch["valid"]])
        return {"mse": np.concatenate(errors).mean()}

    def smoke(self):
        return dataclasses.replace(self, examples=8)


class Pair(struct.PyTreeNode):
    first: Any
    second: Any
    first_opt: Any
    second_opt: Any


@dataclasses.dataclass(frozen=True)
class TwoNetworks(Linear):
    """Two networks with two optimisers: the second learns what the first leaves."""

    second: Optimizer = group(Optimizer(optimizer="sgd", lr=0.02))

    def init(self, key, batch, sizes):
        one, two = jax.random.split(key)
        a, b = first_params(one), first_params(two)
        return Pair(a, b, self.make().init(a), self.second.make(self.steps).init(b))

    def step(self, state, batch, key):
        rows = batch["train"]

        def both(first, second):
            return fit(jax.tree.map(jnp.add, first, second), rows)

        value, grad = jax.value_and_grad(fit)(state.first, rows)
        updates, first_opt = self.make().update(grad, state.first_opt, state.first)
        first = optax.apply_updates(state.first, updates)
        grad = jax.grad(both, argnums=1)(first, state.second)
        tx = self.second.make(self.steps)
        updates, second_opt = tx.update(grad, state.second_opt, state.second)
        second = optax.apply_updates(state.second, updates)
        return Pair(first, second, first_opt, second_opt), {"loss": (value, 1)}

    def inference(self, state):
        return jax.tree.map(jnp.add, state.first, state.second)


class Search(struct.PyTreeNode):
    params: Any
    policy: jax.Array


@dataclasses.dataclass(frozen=True)
class Bilevel(Linear):
    """A bilevel step on two streams: input scales learnt through one virtual step."""

    def streams(self, split: str, seed: int):
        if split != "train":
            return {"train": self.stream(split, seed)}
        held = dataclasses.replace(self, examples=9, batch_size=4)
        return {
            "train": self.stream("train", seed),
            "held": held.stream("train", seed + 1),
        }

    def init(self, key, batch, sizes):
        assert sizes["held"] == (9, 0)
        return Search(first_params(key), jnp.zeros((FEATURES,)))

    def step(self, state, batch, key):
        def inner(params, policy):
            x = batch["train"]["x"] * jnp.exp(policy)[None]
            return fit(params, {**batch["train"], "x": x})

        def moved(policy):
            grads = jax.grad(inner)(state.params, policy)
            return jax.tree.map(lambda p, g: p - 0.05 * g, state.params, grads)

        def outer(policy):
            return fit(moved(policy), batch["held"])

        value, grad = jax.value_and_grad(outer)(state.policy)
        policy = state.policy - 0.1 * grad
        return Search(moved(policy), policy), {"loss": (value, 1)}

    def phases(self, sizes):
        return [Phase("search", None, self.step, streams=("train", "held"))]

    def remarks(self, state):
        return ["the policy is about"]

    def texts(self, state):
        return {"policy.txt": " ".join(str(x) for x in np.asarray(state.policy))}

    def inference(self, state):
        return state.params


class Remembering(struct.PyTreeNode):
    params: Any
    memory: jax.Array
    seen: jax.Array


@dataclasses.dataclass(frozen=True)
class Memory(Linear):
    """A prediction memory written by example index; the last batch is padded."""

    def init(self, key, batch, sizes):
        rows = sizes["train"][0]
        return Remembering(
            first_params(key), jnp.zeros((rows,)), jnp.zeros((rows,), jnp.int32)
        )

    def step(self, state, batch, key):
        rows = batch["train"]
        value, grad = jax.value_and_grad(fit)(state.params, rows)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, state.params, grad)
        predictions = self.predict(params, rows)
        memory = state.memory.at[rows["index"]].set(predictions, mode="drop")
        seen = state.seen.at[rows["index"]].add(1, mode="drop")
        n = jnp.sum(rows["valid"])
        return Remembering(params, memory, seen), {"loss": (value * n, n)}

    def inference(self, state):
        return state.params


@dataclasses.dataclass(frozen=True)
class Relabel(Memory):
    """A sweep over the data in order before every epoch replaces the targets."""

    def streams(self, split: str, seed: int):
        streams = {"train": self.stream(split, seed)}
        if split == "train":
            streams["ordered"] = self.stream(split, seed, ordered=True)
        return streams

    def sweep(self, state, batch, key):
        rows = batch["ordered"]
        labels = 0.5 * rows["y"] + 0.5 * self.predict(state.params, rows)
        memory = state.memory.at[rows["index"]].set(labels, mode="drop")
        return state.replace(memory=memory), {"swept": (jnp.sum(rows["valid"]), 1)}

    def begin(self, state, key):
        return state.replace(seen=jnp.zeros_like(state.seen)), {
            "forgotten": (jnp.sum(state.seen).astype(jnp.float32), 1)
        }

    def learn(self, state, batch, key):
        rows = batch["train"]
        labels = state.memory.at[rows["index"]].get(mode="fill", fill_value=0)
        value, grad = jax.value_and_grad(fit)(state.params, {**rows, "y": labels})
        params = jax.tree.map(lambda p, g: p - 0.05 * g, state.params, grad)
        seen = state.seen.at[rows["index"]].add(1, mode="drop")
        return state.replace(params=params, seen=seen), {"loss": (value, 1)}

    def phases(self, sizes):
        epoch = streams_lib.batches_to_cover(sizes["train"][0], self.batch_size)
        sweep = Phase("relabel", epoch, self.sweep, streams=("ordered",))
        return [Cycle([sweep, Phase("learn", epoch, self.learn, enter=self.begin)])]


@dataclasses.dataclass(frozen=True)
class Alternate(TwoNetworks):
    """Pretraining of the first network, then two steps that alternate."""

    def pretrain(self, state, batch, key):
        value, grad = jax.value_and_grad(fit)(state.first, batch["train"])
        updates, opt = self.make().update(grad, state.first_opt, state.first)
        first = optax.apply_updates(state.first, updates)
        return state.replace(first=first, first_opt=opt), {"loss": (value, 1)}

    def other(self, state, batch, key):
        noise = self.noise * jax.random.normal(key, (FEATURES,))
        second = {**state.second, "w": state.second["w"] * 0.9 + noise}
        return state.replace(second=second), {"length": (jnp.sum(second["w"] ** 2), 1)}

    def phases(self, sizes):
        return [
            Phase("pretrain", 5, self.pretrain),
            Cycle([Phase("both", 2, self.step), Phase("noise", 1, self.other)]),
        ]


@dataclasses.dataclass(frozen=True)
class Averaged(Linear):
    """Parameters averaged over time are what is evaluated."""

    optimizer: Optimizer = group(Optimizer(lr=0.05, average=0.9), prefix="")


ALL = (Linear, TwoNetworks, Bilevel, Memory, Relabel, Alternate, Averaged)
