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
    "cpu_conv": "off",  # compiles in a third of the time
    "lr": 0.01,
}


def retrieval(**changes):
    return config.replace(Retrieval(), TINY | changes)


def steps(task, wanted, **options):
    """What a run holds after each of the wanted numbers of steps."""
    parts = assembly.assemble(task, Options(**options))
    tree, found = parts.start(), {}
    for n in range(max(wanted) + 1):
        if n in wanted:
            found[n] = jax.device_get(tree)
        batch = parts.first_batch()
        tree, _ = parts.program.step(parts.timeline.phases[0], tree, batch, n)
    return found


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


# One device, eight, and eight that share the state.
PLACES = {
    "one": {"devices": 1},
    "eight": {"devices": 8},
    "split": {"devices": 8, "shard_state": "full"},
}


@pytest.fixture(scope="module")
def taken():
    """Trees at the start, after one and after three steps of plain descent, rate 1."""
    task = retrieval(lr=1.0, momentum=0.0)
    return {name: steps(task, (0, 1, 3), **where) for name, where in PLACES.items()}


@pytest.mark.parametrize("name", ["eight", "split"])
def test_eight_devices_take_the_steps_of_one_in_retrieval(taken, name):
    one, other = taken["one"][3], taken[name][3]
    losses = [tree["totals"]["train"]["loss"].sum for tree in (one, other)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert_close(one["state"], other["state"])


@pytest.mark.parametrize("name", ["eight", "split"])
def test_eight_devices_have_the_gradient_of_one_in_retrieval(taken, name):
    # Descent at rate 1 moves the parameters by the gradient.
    gradients = [
        jax.tree.map(np.subtract, taken[each][0]["state"].params, moved)
        for each in ("one", name)
        for moved in [taken[each][1]["state"].params]
    ]
    assert max(np.abs(g).max() for g in jax.tree.leaves(gradients[0])) > 0.01
    assert_close(*gradients, atol=1e-6)


def test_each_of_eight_devices_holds_an_eighth_of_a_split_state():
    task = retrieval(width=32, optimizer="adam")
    held, compiled = [], []
    for shard_state in sharding.CHOICES:
        parts = assembly.assemble(task, Options(devices=8, shard_state=shard_state))
        tree, batch = parts.start(), parts.first_batch()
        held.append([bytes_on_first(tree["state"].params)])
        held[-1].append(bytes_on_first(tree["state"].opt))
        program = parts.program.lower(parts.timeline.phases[0], tree, batch).compile()
        size = program.memory_analysis().argument_size_in_bytes
        compiled.append(size - bytes_on_first(batch))
    for share in [b / a for a, b in zip(*held)] + [compiled[1] / compiled[0]]:
        assert 1 / 8 <= share < 1 / 8 + 0.02
    variables = parts.program.variables(tree["state"])
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(variables))


@pytest.mark.slow
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


@pytest.mark.parametrize("seeds", [1, pytest.param(2, marks=pytest.mark.slow)])
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
