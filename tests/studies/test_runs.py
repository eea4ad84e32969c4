"""Runs are done once, whoever does them, and what fails is kept and shown."""

import dataclasses
import fcntl
import json
import signal

import pytest

from jaxfaces import study
from jaxfaces.engine.errors import Interrupted, RunError
from jaxfaces.engine.signals import Request
from jaxfaces.studies import runs, tuning


def carry_out(plan, request=None, said=None):
    todo = [run for arm in plan.arms for run in runs.of(arm, plan)]
    say = (lambda _: None) if said is None else said.append
    return runs.carry_out(todo, plan, request or Request(), say)


def folders(calls):
    """Directories in the order in which they were trained."""
    words = [word for call in calls for word in call if word.startswith("--workdir=")]
    return ["/".join(word.split("/")[-2:]) for word in words]


def test_pairs_end_early_and_nothing_is_done_twice(words, made_up, tmp_path):
    assert study.main(words) == 0
    first = [f"{arm}/seed_0" for arm in ("slow", "fast", "noisy")]
    assert folders(made_up) == [*first, *(each.replace("0", "1") for each in first)]
    written = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert sorted(p.name for p in written) == ["study.json", "study.md", "study.png"]
    assert study.main(words) == 0
    assert len(made_up) == 6
    assert written == {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}


def test_more_seeds_and_arms_go_on_from_what_is_there(make, made_up):
    carry_out(make("--seeds=0"))
    plan = make("--seeds=0,2", "--arm=more --lr=0.1")
    carry_out(plan)
    assert len(made_up) == 3 + 5
    assert not runs.left([r for arm in plan.arms for r in runs.of(arm, plan)])


def test_runs_with_other_flags_are_refused(make, made_up):
    carry_out(make("--seeds=0"))
    with pytest.raises(RunError, match="slow/seed_0 .* --lr was 0.05, is 0.06"):
        carry_out(make("--seeds=0", "--lr=0.06"))
    assert len(made_up) == 3


def test_a_failed_run_is_kept_shown_and_tried_again_on_demand(
    words, made_up, tmp_path, capsys
):
    words = [*words, "--seeds=0,1", "--arm=nan --nan_at=4"]
    assert study.main(words) == 0
    error = "not finite"
    record = json.loads((tmp_path / "study/nan/seed_0.failed.json").read_text())
    assert error in record["error"] and "--nan_at=4" in record["command"]
    page = (tmp_path / "out/study.md").read_text()
    assert page.count("**failed**") == 2 and page.count(error) == 2
    found = json.loads((tmp_path / "out/study.json").read_text())["arms"]["nan"]
    assert [run["status"] for run in found["runs"]] == ["failed"] * 2
    assert "nan/seed_1: failed: step 5: train/loss" in capsys.readouterr().out
    assert study.main(words) == 0
    assert len(made_up) == 8
    assert study.main([*words, "--retry_failed"]) == 0
    assert len(made_up) == 10


def test_a_failure_of_other_flags_is_forgotten(make, made_up):
    plan = make("--arm=bad --nan_at=4", "--seeds=0")
    carry_out(plan)
    bad = runs.of(plan.arms[-1], plan)[0]
    assert runs.failure(bad)
    better = runs.of(make("--arm=bad --nan_at=5").arms[-1], plan)[0]
    assert runs.failure(better) is None


def test_a_run_that_is_held_is_left_to_its_owner(make, made_up):
    plan = make("--nowait", "--seeds=0")
    slow = runs.of(plan.arms[0], plan)[0]
    slow.folder.parent.mkdir(parents=True)
    with (slow.folder.parent / ".seed_0.claim").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert [run.label for run in carry_out(plan)] == ["slow/seed_0"]
    assert folders(made_up) == ["fast/seed_0", "noisy/seed_0"]
    assert carry_out(plan) == []
    assert len(made_up) == 3


def test_a_run_of_a_plain_training_command_is_left_to_it(make, made_up):
    plan = make("--nowait", "--seeds=0")
    folder = runs.of(plan.arms[0], plan)[0].folder
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        assert [run.label for run in carry_out(plan)] == ["slow/seed_0"]
    assert runs.failure(runs.of(plan.arms[0], plan)[0]) is None


def test_waiting_takes_over_what_another_process_leaves(make, made_up, monkeypatch):
    plan = make("--seeds=0")
    slow = runs.of(plan.arms[0], plan)[0]
    slow.folder.parent.mkdir(parents=True)
    owner = (slow.folder.parent / ".seed_0.claim").open("w")
    fcntl.flock(owner, fcntl.LOCK_EX)
    monkeypatch.setattr(runs, "_sleep", lambda *_: owner.close())  # its owner dies
    said = []
    assert carry_out(plan, said=said) == []
    assert folders(made_up)[-1] == "slow/seed_0" and len(made_up) == 3
    assert "waiting for 1 runs of other processes" in said


def test_a_run_that_is_killed_is_tried_again_but_not_for_ever(make, monkeypatch):
    calls = []
    monkeypatch.setattr(runs, "_train", lambda *_: calls.append(0) or -9)
    plan = make("--seeds=0", "--wait=false")
    assert carry_out(plan) == []
    assert len(calls) == 3 * runs.MOST_KILLS
    slow = runs.of(plan.arms[0], plan)[0]
    assert runs.failure(slow) == "killed by signal 9, 3 times"


@pytest.mark.parametrize("arms", [1, 3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_the_study_and_records_no_failure(make, monkeypatch, number, arms):
    request, plan = Request(), make("--seeds=0")
    plan = dataclasses.replace(plan, arms=plan.arms[:arms])

    def stop(words, log, claim, request):
        request.signal = number
        return 143

    monkeypatch.setattr(runs, "_train", stop)
    with pytest.raises(Interrupted, match=f"{arms} of {arms} runs left") as error:
        carry_out(plan, request)
    assert error.value.signal == number
    assert runs.failure(runs.of(plan.arms[0], plan)[0]) is None


def test_seeds_at_once_are_one_run(words, made_up, tmp_path):
    apart = tmp_path / "apart.json"
    assert study.main([*words, "--seeds=0,1,2,3", "--seeds_at_once=2"]) == 0
    assert folders(made_up)[0] == "slow/seed_0-1" and len(made_up) == 6
    found = json.loads((tmp_path / "out/study.json").read_text())
    apart = found["arms"]["slow"]
    assert [run["seed"] for run in apart["runs"]] == [0, 1, 2, 3]
    assert len({run["measures"]["mse"] for run in apart["runs"]}) == 4
    assert set(apart["curve"]["values"]) == {"0", "1", "2", "3"}
    assert found["arms"]["fast"]["difference"]["mse"]["n"] == 4


class TestTheSeedInAFlag:
    ARM = "--arm=later --init_from=first/seed_{seed}/params.safetensors --lr=0.{seed}1"

    def test_is_that_of_the_run(self, make, made_up):
        plan = make("--seeds=0,3", self.ARM)
        carry_out(plan)
        own = [[w for w in call if "first" in w or "--lr" in w] for call in made_up]
        assert [words for words in own if len(words) == 2] == [
            [f"--init_from=first/seed_{seed}/params.safetensors", f"--lr=0.{seed}1"]
            for seed in (0, 3)
        ]
        todo = runs.of(plan.arms[-1], plan)
        assert [run.arm.task.optimizer.lr for run in todo] == [0.01, 0.31]
        assert not runs.left(todo)

    def test_stays_as_it_is_written_in_tables(self, words, made_up, tmp_path):
        assert study.main([*words, self.ARM]) == 0
        found = json.loads((tmp_path / "out/study.json").read_text())
        assert found["arms"]["later"]["flags"]["lr"] == "0.{seed}1"
        assert "first/seed_{seed}/params" in (tmp_path / "out/study.md").read_text()

    def test_may_stand_in_a_flagfile_and_be_overridden(self, make, tmp_path):
        (tmp_path / "arm.cfg").write_text("--init_from=a{seed}\n--lr=0.{seed}\n")
        plan = make(f"--arm=more --flagfile={tmp_path / 'arm.cfg'} --lr 0.3")
        assert plan.arms[-1].by_seed == {"init_from": "a{seed}"}
        assert [r.arm.options.init_from for r in runs.of(plan.arms[-1], plan)] == [
            *("a0", "a1")
        ]

    def test_may_be_tuned_beside(self, make):
        plan = make(self.ARM, "--tune=noise=1,2", "--tune=lr=0.1", "--tune_seeds=7")
        for trial in tuning.trials(plan)["later"]:
            assert trial.runs[0].arm.options.init_from == (
                "first/seed_7/params.safetensors"
            )


def test_a_folder_that_cannot_be_made_is_one_line(words, tmp_path, capsys):
    (tmp_path / "study").write_text("a file")
    assert study.main(words) == 1
    assert "cannot be written" in capsys.readouterr().err
