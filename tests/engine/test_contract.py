"""Every case of the contract: trained, cut anywhere, resumed to the same bits."""

import dataclasses
import json

import contract_tasks
import jax
import numpy as np
import pytest

from jaxfaces.engine import assembly, logs, loop
from jaxfaces.engine.checkpoints import Checkpoints
from jaxfaces.engine.errors import Interrupted

SETTINGS = {"log_every": 3, "eval_every": 4, "checkpoint_every": 5, "quiet": True}


def run(task, workdir, **changes):
    return loop.run(task, workdir, **(SETTINGS | {"devices": 1} | changes))


def last_tree(workdir, task):
    """Everything in the newest checkpoint, as numpy."""
    parts, _, step = assembly.restore(workdir, task_class=type(task))
    like = parts.template()
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return step, jax.device_get(checkpoints.restore(step, like))


def train_log(workdir):
    """The log without evaluations done on the way out."""
    return [(r["step"], r["name"], r["value"]) for r in logs.read(workdir)]


@pytest.mark.parametrize("task_class", contract_tasks.ALL, ids=lambda c: c.__name__)
def test_a_task_cut_at_several_steps_ends_as_if_it_had_not_been(
    task_class, tmp_path, stopping
):
    task = task_class()
    whole = run(task, tmp_path / "whole")
    for cut in (3, 5, 2):  # stops after steps 3 (a log), 8 (an evaluation) and 10
        with stopping(cut), pytest.raises(Interrupted, match="state is saved"):
            run(task, tmp_path / "cut")
    parts = run(task, tmp_path / "cut")

    _, expected = last_tree(tmp_path / "whole", task)
    step, found = last_tree(tmp_path / "cut", task)
    assert step == task.steps
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert parts["measures"] == whole["measures"]
    assert train_log(tmp_path / "cut" / "metrics.jsonl") == train_log(
        tmp_path / "whole" / "metrics.jsonl"
    )
    phases = assembly.assemble(task, loop.Options()).timeline.phases
    entered = [phase for phase in phases if phase.enter is not None]
    assert whole["compilations"] == len(phases) + len(entered)


@pytest.mark.parametrize("eval_every", [0, 4])
def test_the_texts_of_a_task_are_those_of_its_last_state(tmp_path, eval_every):
    task = contract_tasks.Bilevel()
    run(task, tmp_path, eval_every=eval_every)
    _, tree = last_tree(tmp_path, task)
    text = (tmp_path / "policy.txt").read_text()
    expected = tree["state"].policy
    np.testing.assert_array_equal(np.array(text.split(), np.float32), expected)


def test_every_seed_has_texts_of_its_own(tmp_path):
    run(contract_tasks.Bilevel(), tmp_path, parallel_seeds=2)
    first, second = (tmp_path / f"policy{n}.txt" for n in ("", "_1"))
    assert first.read_text() != second.read_text()


def test_remarks_are_made_once_whatever_the_evaluations_and_seeds(tmp_path, capsys):
    task, words = contract_tasks.Bilevel(), "the policy is about"
    summary = run(task, tmp_path, parallel_seeds=2, eval_every=2, quiet=False)
    assert capsys.readouterr().out.count(f"warning: {words}") == 1
    assert summary["remarks"] == [words]


def test_training_learns(tmp_path):
    summary = run(contract_tasks.Linear(steps=200, noise=0.0), tmp_path, eval_every=100)
    measures = summary["measures"]
    assert measures["validation"]["mse"] < 0.1 * measures["validation_initial"]["mse"]


def test_padding_rows_leave_the_memory_alone(tmp_path):
    # 20 rows in batches of 8: each sweep of 3 batches ends with 4 rows of padding.
    task = contract_tasks.Memory(steps=6)
    run(task, tmp_path)
    _, tree = last_tree(tmp_path, task)
    np.testing.assert_array_equal(tree["state"].seen, np.full(20, 2))
    assert np.all(tree["state"].memory != 0)
    # Metrics are weighed by rows that count: 2 sweeps of 20.
    records = {r["name"]: r for r in logs.read(tmp_path / "metrics.jsonl")}
    assert np.isfinite(records["train/loss"]["value"])


def test_a_relabelling_sweep_sees_every_row_once_in_an_epoch(tmp_path):
    run(contract_tasks.Relabel(steps=6), tmp_path, log_every=3)
    values = [
        r["value"]
        for r in logs.read(tmp_path / "metrics.jsonl")
        if r["name"] == "relabel/swept"
    ]
    assert values == [pytest.approx(20 / 3)]  # the mean over 3 batches of 20 rows


def test_entering_a_phase_runs_its_function_each_time(tmp_path):
    task = contract_tasks.Relabel(steps=15)  # learn begins at steps 3 and 9
    run(task, tmp_path)
    records = logs.read(tmp_path / "metrics.jsonl")
    entered = [
        (r["step"], r["value"]) for r in records if r["name"] == "learn/enter/forgotten"
    ]
    # Logged with the step that follows, every third: entered before steps 4 and 10.
    assert entered == [(6, 0.0), (12, 20.0)]


def test_the_bilevel_step_changes_the_policy_by_the_held_out_gradient(tmp_path):
    task = contract_tasks.Bilevel(steps=1)
    run(task, tmp_path)
    parts, state, _ = assembly.restore(tmp_path, task_class=type(task))
    first = parts.start()["state"]
    batch = parts.first_batch()

    def outer(policy):
        def inner(params):
            x = batch["train"]["x"] * np.exp(1.0) ** policy[None]
            return contract_tasks.fit(params, {**batch["train"], "x": x})

        moved = jax.tree.map(
            lambda p, g: p - 0.05 * g, first.params, jax.grad(inner)(first.params)
        )
        return contract_tasks.fit(moved, batch["held"])

    # Central differences, entry by entry.
    step = 1e-2
    for i in range(contract_tasks.FEATURES):
        shift = np.zeros(contract_tasks.FEATURES, np.float32)
        shift[i] = step
        slope = (outer(first.policy + shift) - outer(first.policy - shift)) / 2 / step
        assert float(state.policy[i]) == pytest.approx(-0.1 * float(slope), abs=2e-4)


def test_averaged_parameters_are_what_is_evaluated_and_saved(tmp_path):
    task = contract_tasks.Averaged()
    run(task, tmp_path)
    _, tree = last_tree(tmp_path, task)
    state = tree["state"]
    assert not np.allclose(state.average["params"]["w"], state.params["w"])
    loaded = loop_load(tmp_path, task).variables
    np.testing.assert_array_equal(loaded["w"], state.average["params"]["w"])


def loop_load(workdir, task, **kwargs):
    from jaxfaces import load

    return load(workdir, task_class=type(task), **kwargs)


def test_four_seeds_at_once_are_four_runs_on_the_same_batches(tmp_path):
    task = contract_tasks.Linear()
    together = run(task, tmp_path / "together", parallel_seeds=4, seed=5)
    assert len(together["measures"]["validation"]) == 4
    for i in range(4):
        alone = run(task, tmp_path / f"{i}", seed=5 + i, data_seed=5)
        expected = loop_load(tmp_path / f"{i}", task).variables
        found = loop_load(tmp_path / "together", task, seed=i).variables
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            found,
            expected,
        )
        assert alone["measures"]["validation"]["mse"] == pytest.approx(
            together["measures"]["validation"][i]["mse"], rel=1e-4
        )


def test_several_seeds_resume_to_the_same_bits(tmp_path, stopping):
    task = contract_tasks.Linear()
    run(task, tmp_path / "whole", parallel_seeds=3)
    with stopping(7), pytest.raises(Interrupted):
        run(task, tmp_path / "cut", parallel_seeds=3)
    run(task, tmp_path / "cut", parallel_seeds=3)
    _, expected = last_tree(tmp_path / "whole", task)
    _, found = last_tree(tmp_path / "cut", task)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", ["Linear", "Memory", "Alternate"])
def test_eight_devices_do_what_one_does(name, tmp_path):
    task = getattr(contract_tasks, name)()
    for devices in (1, 8):
        run(task, tmp_path / str(devices), devices=devices)
    one = last_tree(tmp_path / "1", task)[1]["state"]
    eight = last_tree(tmp_path / "8", task)[1]["state"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), eight, one
    )


def test_microbatches_give_the_gradient_of_the_whole_batch(tmp_path):
    # The last batch of a sweep has 4 rows of padding: parts must be weighed by rows.
    whole = contract_tasks.Linear(noise=0.0)
    parts = dataclasses.replace(whole, microbatch=2)
    run(whole, tmp_path / "whole")
    run(parts, tmp_path / "parts")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        loop_load(tmp_path / "parts", parts).variables,
        loop_load(tmp_path / "whole", whole).variables,
    )


def test_the_summary_says_what_ran(tmp_path):
    run(contract_tasks.Linear(), tmp_path, test=True, seed=3)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["task"] == "contract_tasks:Linear"
    assert summary["seed"] == 3
    assert summary["steps"] == 12
    assert summary["examples"] == 4 * 20  # sweeps of 8 + 8 + 4 rows
    assert summary["compilations"] == 1
    assert {"validation_initial", "validation", "test_initial", "test"} <= set(
        summary["measures"]
    )
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["best"]["value"] <= summary["measures"]["validation_initial"]["mse"]
