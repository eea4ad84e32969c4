"""Runs that start from the variables of another."""

import dataclasses

import contract_tasks
import jax
import numpy as np
import pytest

import jaxfaces
from jaxfaces import train
from jaxfaces.engine import assembly, config, loop, starting, variables
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.steps import make_state, with_variables
from jaxfaces.tasks.retrieval import Retrieval

SETTINGS = {"eval_every": 4, "checkpoint_every": 4, "devices": 1, "quiet": True}
TASK = contract_tasks.Linear(steps=8)


def run(task, workdir, **changes):
    return loop.run(task, workdir, **(SETTINGS | changes))


def params(workdir, **which):
    return jaxfaces.load(workdir, **which).variables


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("donor") / "run"
    return run(TASK, folder, seed=3), folder / "params.safetensors"


@pytest.fixture
def write(tmp_path):
    def write(**leaves):
        path = tmp_path / "given.safetensors"
        variables.save(path, leaves, metadata={})
        return str(path)

    return write


@pytest.mark.parametrize(
    "task", [TASK, contract_tasks.Averaged(steps=8)], ids=["plain", "averaged"]
)
def test_step_0_measures_what_the_donor_measured_at_its_end(donor, tmp_path, task):
    summary, path = donor
    found = run(task, tmp_path / "run", init_from=str(path))
    assert found["measures"]["validation_initial"] == summary["measures"]["validation"]
    assert found["measures"]["validation"] != summary["measures"]["validation"]
    origin = found["init_from"]
    assert (origin["task"], origin["step"]) == ("contract_tasks:Linear", 8)
    assert (origin["file"], origin["left_fresh"]) == (str(path), [])
    assert origin["digest"] == variables.load(path)[1]["digest"]


def test_every_parallel_seed_starts_there(donor, tmp_path):
    summary, path = donor
    found = run(TASK, tmp_path / "run", init_from=str(path), parallel_seeds=2)
    wanted = summary["measures"]["validation"]["mse"]
    measured = [each["mse"] for each in found["measures"]["validation_initial"]]
    np.testing.assert_allclose(measured, [wanted, wanted], rtol=1e-6)
    one, two = (params(tmp_path / "run", seed=n) for n in (0, 1))
    assert not np.array_equal(one["w"], two["w"])  # their keys differ


def test_resuming_needs_the_flag_but_not_the_file(donor, tmp_path):
    _, path = donor
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    whole = dataclasses.replace(TASK, steps=12)
    run(whole, tmp_path / "whole", init_from=str(path))
    run(TASK, tmp_path / "cut", init_from=str(copy), schedule_steps=12)
    copy.unlink()
    with pytest.raises(RunError, match="--init_from was .*copy.safetensors, is "):
        run(whole, tmp_path / "cut", schedule_steps=12)
    flags = {"init_from": str(copy), "schedule_steps": 12}
    summary = run(whole, tmp_path / "cut", **flags)
    assert summary["init_from"]["file"] == str(copy)
    pair = params(tmp_path / "cut"), params(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, *pair)


def test_the_first_state_is_not_made_again_for_the_test_split(donor, tmp_path):
    found = run(TASK, tmp_path / "run", init_from=str(donor[1]), test=True)
    assert "test" in found["measures"]
    assert "test_initial" not in found["measures"]


def test_what_is_skipped_stays_fresh_and_may_differ(tmp_path, write):
    w = np.arange(3, dtype=np.float32)
    path = write(w=w, b=np.zeros(7), other=np.zeros(2))
    task = dataclasses.replace(TASK, steps=1, noise=0.0)
    task = dataclasses.replace(
        task, optimizer=dataclasses.replace(task.optimizer, lr=0.0)
    )
    skip = ("b", "other")
    with pytest.raises(RunError, match="--init_skip=other is no part of a variable"):
        run(task, tmp_path / "no", init_from=path, init_skip=skip)
    path = write(w=w, b=np.zeros(7))
    summary = run(task, tmp_path / "run", init_from=path, init_skip=("b",))
    found = params(tmp_path / "run")
    np.testing.assert_array_equal(found["w"], w)
    assert found["b"] == 0.0
    assert summary["init_from"]["left_fresh"] == ["b"]


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"w": np.ones(3, np.float32)}, "b is missing"),
        (
            {"w": np.ones(4, np.float32), "b": np.float32(1)},
            r"w is float32\[4\] in the file, float32\[3\] in this run",
        ),
        (
            {"w": np.ones(3, np.float16), "b": np.float32(1)},
            r"w is float16\[3\] in the file, float32\[3\] in this run",
        ),
        (
            {"w": np.ones(3, np.float32), "b": np.float32(1), "c": np.ones(1)},
            "c is unknown to the task",
        ),
        (
            {"layer": {str(i): np.ones(1) for i in range(5)}},
            "w is missing; layer/0 is unknown to the task, and 4 more",
        ),
    ],
)
def test_variables_that_do_not_fit_are_named(tmp_path, write, leaves, words):
    with pytest.raises(RunError, match=words):
        run(TASK, tmp_path / "run", init_from=write(**leaves))


def test_a_state_of_a_tasks_own_needs_a_method(tmp_path, donor):
    given = {"init_from": str(donor[1])}
    with pytest.raises(RunError, match="Memory needs a method with_variables"):
        run(contract_tasks.Memory(steps=4), tmp_path / "no", **given)

    class Settable(contract_tasks.Memory):
        def with_variables(self, state, variables):
            return state.replace(params=variables)

    task = dataclasses.dataclass(frozen=True)(Settable)(steps=4)
    found = run(task, tmp_path / "run", **given)
    wanted = donor[0]["measures"]["validation"]
    assert found["measures"]["validation_initial"] == wanted


def test_the_state_of_the_engine_takes_parameters_alone_or_all():
    import optax

    weights, rest = {"w": np.ones(2)}, {"mean": np.zeros(2)}
    state = make_state(weights, rest, optax.adam(1e-3), average=0.9)
    new = {"w": np.full(2, 5.0)}
    alone = with_variables(state, new)
    assert alone.params is new and alone.rest is rest
    assert alone.average == {"params": new, "rest": rest}
    both = with_variables(state, {"params": new, "rest": {"mean": np.ones(2)}})
    assert both.rest["mean"][0] == 1.0
    with pytest.raises(ValueError, match="neither"):
        with_variables(state, {"v": np.ones(2)})


def test_retrieval_takes_another_head_with_the_backbone_of_a_run(tmp_path):
    flags = {"dataset": "made_up", "image_size": 16, "width": 4, "embedding_size": 8}
    flags |= {"classes_per_batch": 4, "validation_fraction": 0.0}
    path = tmp_path / "one.safetensors"

    def assembled(size, **options):
        task = config.replace(Retrieval(), flags | {"embedding_size": size})
        return assembly.assemble(task, Options(devices=1, **options))

    def saved_of(tree):
        return jax.device_get(tree["state"].variables)

    one, _ = starting.first(assembled(8))
    variables.save(path, saved_of(one), metadata={"step": "0"})
    with pytest.raises(RunError, match=r"head/kernel is float32\[16, 8\] in the file"):
        starting.first(assembled(6, init_from=str(path), seed=1))
    parts = assembled(6, init_from=str(path), seed=1, init_skip=("head",))
    two, origin = starting.first(parts)
    assert origin["left_fresh"] == ["params/head/kernel"]
    old, new = saved_of(one), saved_of(two)
    kernels = [each["params"].pop("head")["kernel"] for each in (old, new)]
    jax.tree.map(np.testing.assert_array_equal, old, new)
    assert [kernel.shape for kernel in kernels] == [(16, 8), (16, 6)]
    fresh = saved_of(parts.start())
    np.testing.assert_array_equal(kernels[1], fresh["params"]["head"]["kernel"])


@pytest.mark.parametrize(
    ("flag", "code", "words"),
    [
        ("--init_from=nowhere.safetensors", 1, "nowhere.safetensors is not a file"),
        ("--init_from=.", 1, ". is not a file"),
        ("--init_skip=head", 2, "--init_skip needs --init_from"),
    ],
)
def test_a_wrong_flag_costs_one_line(tmp_path, capsys, flag, code, words):
    task = "--task=contract_tasks:Linear"
    assert train.main([task, f"--workdir={tmp_path}/run", "--quiet", flag]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_a_damaged_file_is_named(tmp_path, donor):
    content = bytearray(donor[1].read_bytes())
    content[-2] ^= 1
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(RunError, match="bad.safetensors is damaged"):
        run(TASK, tmp_path / "run", init_from=str(path))
