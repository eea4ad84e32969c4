"""Losses that are not finite: stop, or leave the step out and go on."""

import contract_tasks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.engine import assembly, logs, loop
from jaxfaces.engine.errors import DivergedError

SETTINGS = {"log_every": 3, "eval_every": 4, "checkpoint_every": 5, "quiet": True}


def run(task, workdir, **changes):
    return loop.run(task, workdir, **(SETTINGS | {"devices": 1} | changes))


def state(workdir, task):
    found = assembly.restore(workdir, task_class=type(task))[1]
    return jax.device_get(found)


class Bad(contract_tasks.Memory):
    """A memory task whose loss and state are spoilt where a batch holds a marked row.

    The step number is the sum of `seen`, so that a step left out shows.
    """

    BAD = ()

    def step(self, state, batch, key):
        after, metrics = contract_tasks.Memory.step(self, state, batch, key)
        marked = jnp.isin(batch["train"]["index"], jnp.asarray(self.BAD, jnp.int32))
        spoil = jnp.where(jnp.any(marked), jnp.nan, 0.0)
        params = jax.tree.map(lambda p: p + spoil, after.params)
        value, count = metrics["loss"]
        return after.replace(params=params), {"loss": (value + spoil, count)}


class BadRow(Bad):
    BAD = (7,)


class AllBad(Bad):
    BAD = tuple(range(20))


def test_skip_leaves_the_state_as_it_was_and_goes_on(tmp_path):
    task = BadRow(steps=9)  # three sweeps of 8, 8 and 4 rows; row 7 is in one of each
    summary = run(task, tmp_path, on_nan="skip")
    assert summary["skipped_steps"] == 3
    assert summary["failed_seeds"] == []
    after = state(tmp_path, task)
    assert np.all(np.isfinite(after.params["w"])) and np.all(np.isfinite(after.memory))
    # The skipped batches left no trace: their rows were not seen in those sweeps.
    seen = after.seen
    assert seen[7] == 0
    assert seen.sum() == 60 - summary_rows(task)


def summary_rows(task):
    """Rows of the batches that hold row 7, from the plan."""
    stream = task.streams("train", 0)["train"]
    batches = [stream.plan(n) for n in range(task.steps)]
    return sum(np.sum(rows < 20) for rows in batches if 7 in rows)


def test_metrics_of_skipped_steps_are_not_counted_and_the_others_are(tmp_path):
    run(BadRow(steps=9), tmp_path, on_nan="skip")
    records = logs.read(tmp_path / "metrics.jsonl")
    losses = [r["value"] for r in records if r["name"] == "train/loss"]
    assert len(losses) == 3 and all(np.isfinite(losses))


def test_skip_changes_nothing_where_all_is_well(tmp_path):
    task = contract_tasks.Linear()
    run(task, tmp_path / "stop")
    summary = run(task, tmp_path / "skip", on_nan="skip")
    assert summary["skipped_steps"] == 0
    a, b = state(tmp_path / "stop", task), state(tmp_path / "skip", task)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)


@pytest.mark.parametrize("patience", [1, 4])
def test_it_gives_up_after_so_many_in_a_row(tmp_path, patience):
    settings = {"on_nan": "skip", "nan_patience": patience, "log_every": 100}
    message = f"not finite, nor in the {patience} steps.*a larger --nan_patience"
    with pytest.raises(DivergedError, match=message):
        run(AllBad(steps=20), tmp_path, **settings)
    saved = [int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert max(saved, default=0) <= patience


def test_a_run_that_stopped_may_be_resumed_with_skip(tmp_path):
    task = BadRow(steps=9)
    with pytest.raises(DivergedError):
        run(task, tmp_path, checkpoint_every=1, log_every=1)
    summary = run(task, tmp_path, checkpoint_every=1, log_every=1, on_nan="skip")
    assert summary["steps"] == 9
    assert summary["skipped_steps"] == 3


def test_skipped_steps_are_told_and_counted_over_a_resumed_run(tmp_path, capsys):
    run(BadRow(steps=6), tmp_path, on_nan="skip", quiet=False)
    said = capsys.readouterr().out
    assert "train/loss is not finite" in said and "steps left out so far" in said
    summary = run(BadRow(steps=9), tmp_path, on_nan="skip")
    assert summary["skipped_steps"] == 3


class Cycling(contract_tasks.Relabel):
    """Steps that are all bad, in a cycle whose `enter` is always good."""

    def learn(self, state, batch, key):
        after, metrics = contract_tasks.Relabel.learn(self, state, batch, key)
        return after, {"loss": (jnp.nan * metrics["loss"][0], 1)}


def test_good_entrances_and_sweeps_do_not_hide_that_every_step_is_bad(tmp_path):
    # Three bad steps, then a sweep of three good ones, and so on.
    with pytest.raises(DivergedError, match="step 6: learn/loss is not finite"):
        run(Cycling(steps=30), tmp_path / "a", on_nan="skip", nan_patience=2)
    summary = run(Cycling(steps=9), tmp_path / "b", on_nan="skip", nan_patience=3)
    assert summary["skipped_steps"] == 3


def test_microbatches_and_cut_runs_skip_the_same_steps(tmp_path):
    task = contract_tasks.Linear(nan_at=5, microbatch=2)
    # The loss of update 5 is bad for ever: its step is left out, and again the next.
    with pytest.raises(DivergedError, match="step 9: train/loss is not finite, nor in"):
        run(task, tmp_path / "a", on_nan="skip", nan_patience=3, log_every=1)


def test_an_infinite_update_of_finite_gradients_is_noticed(tmp_path):
    from jaxfaces.engine.optimizers import Optimizer

    task = contract_tasks.Linear(optimizer=Optimizer(optimizer="sgd", lr=1e38))
    with pytest.raises(DivergedError, match="train/param_norm is not finite"):
        run(task, tmp_path, checkpoint_every=1, log_every=1, eval_every=0)
    saved = [int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")]
    assert saved == [0]


class Remedied(AllBad):
    remedies = {"loss": "a smaller lie"}


def test_a_task_says_what_to_try(tmp_path):
    words = r"Try a smaller lie in a new --workdir, or --on_nan=skip$"
    with pytest.raises(DivergedError, match=words):
        run(Remedied(steps=4), tmp_path)


class OneSeed(contract_tasks.Linear):
    """Spoilt from step 5 on for the seed whose first weight is the smallest."""

    LIMIT = 0.0

    def step(self, state, batch, key):
        after, metrics = contract_tasks.Linear.step(self, state, batch, key)
        chosen = state.average["params"]["w"][0] < self.LIMIT
        value, count = metrics["loss"]
        spoil = jnp.where(chosen & (state.step >= 5), jnp.nan, 0.0)
        params = jax.tree.map(lambda p: p + spoil, after.params)
        return after.replace(params=params), {"loss": (value + spoil, count)}

    def init(self, key, batch, sizes):
        state = contract_tasks.Linear.init(self, key, batch, sizes)
        # Where it began is remembered, to know the seed by.
        return state.replace(average={"params": state.params, "rest": {}})

    def inference(self, state):
        return state.params


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_nan_of_one_seed_does_not_stop_the_others(tmp_path, on_nan, capsys):
    first = [
        contract_tasks.first_params(jax.random.fold_in(jax.random.key(s), 2**32 - 1))[
            "w"
        ][0]
        for s in range(3)
    ]
    worst = int(np.argmin(first))
    OneSeed.LIMIT = float(np.sort(first)[:2].mean())
    task = OneSeed()
    settings = {"on_nan": on_nan, "nan_patience": 2, "parallel_seeds": 3}
    summary = run(task, tmp_path / "three", quiet=False, **settings)
    assert summary["failed_seeds"] == [worst]
    assert f"of seed {worst} is not finite" in capsys.readouterr().out
    assert summary["skipped_steps"] == (2 if on_nan == "skip" else 0)
    after = state(tmp_path / "three", task)
    assert after.step.tolist() == [5 if s == worst else 12 for s in range(3)]
    assert np.all(np.isfinite(after.params["w"]))
    OneSeed.LIMIT = -100.0
    run(task, tmp_path / "well", parallel_seeds=3)
    well = state(tmp_path / "well", task)
    others = [s for s in range(3) if s != worst]
    np.testing.assert_array_equal(after.params["w"][others], well.params["w"][others])


def test_if_all_seeds_give_up_the_run_stops(tmp_path):
    with pytest.raises(DivergedError, match="of seed 0 is not finite"):
        run(AllBad(), tmp_path, parallel_seeds=2)
