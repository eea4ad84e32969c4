"""States split over eight simulated devices, and a batch split over them."""

import dataclasses

import contract_tasks
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jaxfaces
from jaxfaces.engine import assembly, config, loop, sharding
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.tasks.retrieval import Retrieval

TINY = {
    "dataset": "made_up",
    "image_size": 16,
    "validation_fraction": 0.25,
    "width": 8,
    "embedding_size": 16,
    "classes_per_batch": 4,
    "images_per_class": 4,
    "eval_batch_size": 16,
    "clustering": False,
    "steps": 4,
    "optimizer": "sgd",
    "lr": 0.01,
}


def retrieval(**changes):
    return config.replace(Retrieval(), TINY | changes)


def steps(task, count, **options):
    """The tree that a run starts with, and that after some steps."""
    parts = assembly.assemble(task, Options(**options))
    tree = parts.start()
    first = jax.device_get(tree)
    for n in range(count):
        batch = parts.first_batch()
        tree, _ = parts.program.step(parts.timeline.phases[0], tree, batch, n)
    return parts, first, tree


def assert_close(a, b, atol=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol),
        jax.device_get(a),
        jax.device_get(b),
    )


def bytes_on_first(tree):
    """Bytes of a tree's leaves that the first device holds."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves)


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((3, 3, 64, 128), PartitionSpec(None, None, None, "data")),
        ((1024, 64), PartitionSpec("data")),
        ((64, 1024), PartitionSpec(None, "data")),
        ((1001, 64), PartitionSpec(None, "data")),  # the longest does not divide
        ((1001, 63), PartitionSpec()),  # nothing does
        ((64,), PartitionSpec()),  # too small to be worth a message
        ((), PartitionSpec()),
        ((0, 4096), PartitionSpec()),
    ],
)
def test_large_leaves_are_split_along_their_longest_axis_that_divides(shape, expected):
    leaf = jax.ShapeDtypeStruct(shape, np.float32)
    assert sharding.full({"x": leaf}, 8) == {"x": expected}


@pytest.mark.parametrize("loss", ["ranked_list", "contrastive"])
def test_one_device_and_eight_take_the_same_steps_in_retrieval(loss):
    task = retrieval(loss=loss)
    _, _, one = steps(task, 3, devices=1)
    _, _, eight = steps(task, 3, devices=8)
    losses = [tree["totals"]["train"]["loss"].sum for tree in (one, eight)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_close(one["state"], eight["state"])


@pytest.mark.parametrize("shard_state", sharding.CHOICES)
def test_one_device_and_eight_have_the_same_gradient_in_retrieval(shard_state):
    # One step of plain descent at rate 1 moves the parameters by the gradient.
    task = retrieval(lr=1.0, momentum=0.0)
    gradients = []
    for options in ({"devices": 1}, {"devices": 8, "shard_state": shard_state}):
        _, first, after = steps(task, 1, **options)
        moved = jax.device_get(after["state"].params)
        gradients.append(jax.tree.map(lambda a, b: a - b, first["state"].params, moved))
    assert max(np.abs(g).max() for g in jax.tree.leaves(gradients[0])) > 0.1
    assert_close(*gradients)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_split_state_takes_the_steps_of_a_whole_one_in_an_eighth_of_memory(optimizer):
    task = retrieval(width=32, optimizer=optimizer, lr=1e-3)
    _, _, whole = steps(task, 3, devices=8)
    parts, _, split = steps(task, 3, devices=8, shard_state="full")
    assert_close(whole["totals"]["train"]["loss"], split["totals"]["train"]["loss"])
    # Adam divides by the size of gradients that are themselves rounding.
    assert_close(
        whole["state"], split["state"], atol=1e-5 if optimizer == "sgd" else 1e-4
    )
    for name in ("params", "opt"):
        trees = [getattr(tree["state"], name) for tree in (whole, split)]
        share = bytes_on_first(trees[1]) / bytes_on_first(trees[0])
        assert share < 1 / 8 + 0.02
    assert not jax.tree.leaves(split["state"].params)[-1].is_fully_replicated
    variables = parts.program.variables(split["state"])
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(variables))


def test_the_compiled_step_of_a_split_state_holds_an_eighth_of_it():
    task = retrieval(width=32, optimizer="adam")
    sizes = []
    for shard_state in sharding.CHOICES:
        parts = assembly.assemble(task, Options(devices=8, shard_state=shard_state))
        tree, batch = parts.start(), parts.first_batch()
        phase = parts.timeline.phases[0]
        compiled = parts.program.lower(phase, tree, batch).compile()
        held = compiled.memory_analysis().argument_size_in_bytes
        sizes.append(held - bytes_on_first(batch))
    assert sizes[1] / sizes[0] < 1 / 8 + 0.03


def test_a_split_checkpoint_is_resumed_whole_and_read_by_all(tmp_path):
    settings = {"eval_every": 4, "checkpoint_every": 2, "quiet": True}
    loop.run(retrieval(steps=8), tmp_path / "whole", **settings)
    split = settings | {"shard_state": "full", "schedule_steps": 8}
    loop.run(retrieval(), tmp_path / "split", **split)
    state = assembly.restore(tmp_path / "split")[1]
    assert_close(jaxfaces.load(tmp_path / "split").variables, state.variables, atol=0)
    loop.run(retrieval(steps=8), tmp_path / "split", **settings, schedule_steps=8)
    assert_close(
        assembly.restore(tmp_path / "split")[1], assembly.restore(tmp_path / "whole")[1]
    )


@dataclasses.dataclass(frozen=True)
class SplitMemory(contract_tasks.Memory):
    """A memory of which each device keeps the rows of an eighth of the examples."""

    def sharding(self, state):
        specs = jax.tree.map(lambda _: PartitionSpec(), state)
        return specs.replace(memory=PartitionSpec("data"))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_task_may_say_itself_what_is_split(seeds, tmp_path):
    settings = {"eval_every": 12, "quiet": True, "parallel_seeds": seeds}
    trees = []
    for kind in (contract_tasks.Memory, SplitMemory):
        task = kind(examples=24)
        loop.run(task, tmp_path / kind.__name__, **settings)
        _, state, _ = assembly.restore(tmp_path / kind.__name__, task_class=kind)
        trees.append(state)
    assert_close(*trees)
    shards = trees[1].memory.addressable_shards
    assert {shard.data.shape[-1] for shard in shards} == {3}
    assert trees[1].seen.is_fully_replicated


def test_a_wrong_sharding_names_the_leaf(tmp_path):
    with pytest.raises(RunError, match=r"sharding of state.memory.*20"):
        loop.run(SplitMemory(examples=20), tmp_path, quiet=True)


def test_parameters_stay_as_they_are_outside_a_split_step():
    params = {"w": np.zeros(3)}
    assert sharding.gathered(params) is params
