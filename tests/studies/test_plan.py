"""Flags of a study to arms, budgets and trials; every fault is named beforehand."""

import re
from pathlib import Path

import pytest

from jaxfaces import study, train
from jaxfaces.engine import config
from jaxfaces.engine.errors import UsageError
from jaxfaces.engine.options import Options
from jaxfaces.studies import plan, tuning
from jaxfaces.studies.settings import Settings
from jaxfaces.tasks.retrieval import Retrieval

ROOT = Path(__file__).parents[2]
TUNE = "--tune=lr=0.1,0.2"


def test_arms_have_the_shared_flags_and_their_own(make):
    slow, fast, noisy = make().arms
    assert [arm.task.optimizer.lr for arm in (slow, fast, noisy)] == [0.05, 0.2, 0.05]
    assert [arm.task.noise for arm in (slow, fast, noisy)] == [0.5, 0.5, 2.0]
    assert all(arm.options.test and arm.options.eval_every == 2 for arm in make().arms)
    assert slow.budget == {"steps": 10, "examples_per_step": 8}
    assert make().reference == "slow" and make().primary == (-1.0, "mse")
    assert make("--reference=fast").reference == "fast"


def test_an_arm_may_name_a_flagfile_and_flags_may_be_two_words(words, tmp_path):
    (tmp_path / "arm.cfg").write_text("--lr=0.3\n--test=false\n")
    arm = f"more --flagfile={tmp_path / 'arm.cfg'} --batch_size 4"
    found = plan.read([*words, "--arm", arm, "--seeds", "3,4", "--unequal_budgets"])
    more = found.arms[-1]
    assert (more.task.optimizer.lr, more.task.batch_size) == (0.3, 4)
    assert more.options.test and found.seeds == (3, 4)


def test_flags_of_the_study_are_flags_of_nothing_else():
    own = set(config.as_flags(Settings()))
    others = [Options(), Retrieval()]
    taken = {flag for other in others for flag in config.as_flags(other)}
    assert not own & taken
    assert own & set(config.as_flags(train.Command())) == {"workdir", "smoke"}


def test_the_command_leaves_out_what_changes_no_result(make):
    more = ("--dry_run", "--nowait", "--out", "somewhere", "--title=A study")
    command = make(*more).command
    assert command[-1] == "--title=A study"
    assert not [w for w in command if "wait" in w or "somewhere" in w or "dry" in w]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--arm=bad --lrr=1"], "arm bad: unknown flag --lrr; did you mean --lr"),
        (["--arm=bad --lr=fast"], "arm bad: --lr must be a number"),
        (["--arm=bad --seed=3"], "arm bad: --seed is set by the study"),
        (["--arm=bad --seeds=3"], "arm bad: --seeds=3 is a flag of the study"),
        (["--seed=3"], "arm slow: --seed is set by the study"),
        (["--arm=tuning"], "cannot be called 'tuning'"),
        (["--arm=a/b"], "cannot be called 'a/b'"),
        (["--arm="], "cannot be read"),
        (["--arm=slow"], "two arms are called slow"),
        (["--arm=slower --lr=0.05"], "arms slow and slower have the same flags"),
        (["--reference=other"], "--reference=other is none of slow, fast, noisy"),
        (["--arm=long --steps=20"], "slow 10 steps of 8 examples.* long 20 steps"),
        (["--arm=large --batch_size=16"], "large 10 steps of 16 .*unequal_budgets"),
        (["--seeds=1,1"], "different seeds"),
        (["--primary=mse"], "max:NAME or min:NAME"),
        (["--seeds=0,2", "--seeds_at_once=2"], "consecutive"),
        (
            ["--arm=a --lr=0.{seed}1", "--seeds_at_once=2"],
            r"arm a: .*\{seed\}.*at once",
        ),
        (["--arm=a --lr={seed}x"], "arm a: --lr must be a number"),
        ([TUNE, "--tune_seeds=1,7"], r"share \[1\]"),
        ([TUNE, "--eval_every=0"], "arm slow: mse of validation needs eval_every"),
        (["--split=validation", "--eval_every=0"], "needs eval_every"),
        (["--tune=lr"], "--tune=FLAG=v1,v2"),
        (["--tune=noise=1,2"], "arm slow: the learning rate is tuned too"),
        (["--tune=lr=0.1,high"], "arm slow, tuning: --lr must be a number"),
        (["--tune=rate=1", TUNE], "arm slow, tuning: unknown flag --rate"),
        ([TUNE, "--tune_trials=3"], "--tune_trials=3, but its grid has 2"),
        ([TUNE, "--arm=more --tune=noise=1,2"], "slow 2.* more 4; --tune_trials=N"),
        (["--name=a b"], "does not do as the name of a file"),
        (["--task=contract_tasks:None"], "arm slow: --task="),
        (["stray"], "arm slow: not a flag: 'stray'"),
    ],
)
def test_faults_are_named_before_anything_runs(words, more, message, capsys, tmp_path):
    with pytest.raises(UsageError, match=message):
        tuning.trials(plan.read([*words, *more]))
    assert study.main([*words, *more]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_a_study_without_arms_or_folder_says_so(words):
    with pytest.raises(UsageError, match="needs --arm=NAME"):
        plan.read([w for w in words if not w.startswith("--arm")])
    with pytest.raises(UsageError, match="--workdir=FOLDER"):
        plan.read([w for w in words if not w.startswith("--workdir")])


def test_trials_are_as_many_for_every_arm_and_drawn_alike(make):
    grid = ["--tune=lr=0.1,0.2,0.3", "--tune=noise=1,2", "--tune_trials=4"]
    arm = "--arm=own --tune=batch_size=4,8 --tune=microbatch=0,2"
    found = tuning.trials(make(*grid, arm))
    values = {name: [t.values for t in trials] for name, trials in found.items()}
    assert values["slow"] == values["fast"] == values["noisy"]
    assert {len(each) for each in values.values()} == {4}
    assert len({tuple(each.items()) for each in values["slow"]}) == 4
    assert {"batch_size", "microbatch"} < set(values["own"][0])
    for trial in found["own"]:
        assert not trial.arm.options.test
        assert str(trial.arm.task.batch_size) == trial.values["batch_size"]


@pytest.mark.parametrize("page", sorted((ROOT / "configs/studies").glob("*.cfg")))
def test_the_studies_that_come_along_can_be_read(page, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    found = plan.read([f"--flagfile={page}", f"--workdir={tmp_path}"])
    tuning.trials(found)
    assert plan.read([f"--flagfile={page}", f"--workdir={tmp_path}", "--smoke"])


def test_the_examples_of_the_page_can_be_read(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/studies.md").read_text(encoding="utf-8")
    whole, tuned = (b for b in re.findall(r"```\n(--.*?)```", text, re.DOTALL))
    shared = whole.partition("--tune")[0]
    for number, block in enumerate((whole, shared + tuned)):
        page = tmp_path / f"{number}.cfg"
        page.write_text(block)
        found = plan.read([f"--flagfile={page}", f"--workdir={tmp_path}"])
        trials = tuning.trials(found)
        assert {len(each) for each in trials.values()} == {(3, 6)[number]}


def test_help_names_the_flags(capsys):
    assert study.main(["--help"]) == 0
    assert "--tune_trials" in capsys.readouterr().out
    assert study.main(["report", "--help"]) == 0
    assert "--readme" in capsys.readouterr().out
