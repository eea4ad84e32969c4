"""JSON, table and picture of a study, and that the README says what they say."""

import json
import math
import statistics
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from jaxfaces import study
from jaxfaces.engine.errors import RunError, UsageError
from jaxfaces.studies import collected, forecast, plan, report, results, runs
from jaxfaces.studies.settings import Settings

ROOT = Path(__file__).parents[2]
KEYS = set(
    """format name title command primary measures percent plain split seeds
    seeds_at_once reference level equal_budgets flags arms contrasts
    environments""".split()
)
ARM_KEYS = set(
    """flags budget runs measures untrained seconds convergence curve""".split()
)
COMPARED = {"difference", "over_classes"}


def test_the_json_holds_the_runs_and_their_statistics(finished):
    found = json.loads((finished / "study.json").read_text())
    assert set(found) == KEYS
    assert found["primary"] == {"name": "mse", "better": "smaller"}
    assert set(found["arms"]["slow"]) == ARM_KEYS
    assert set(found["arms"]["fast"]) == ARM_KEYS | COMPARED
    assert found["arms"]["fast"]["flags"] == {"lr": "0.2", "noise": "0.5"}
    assert found["flags"]["steps"] == "10" and "noise" not in found["flags"]
    values = {
        name: [run["measures"]["mse"] for run in arm["runs"]]
        for name, arm in found["arms"].items()
    }
    fast = found["arms"]["fast"]
    assert fast["measures"]["mse"]["sd"] == statistics.stdev(values["fast"])
    test = stats.ttest_rel(values["fast"], values["slow"])
    low, high = test.confidence_interval(0.95)
    difference = fast["difference"]["mse"]
    assert difference["p"] == pytest.approx(test.pvalue)
    assert (difference["low"], difference["high"]) == pytest.approx((low, high))
    ps = [found["arms"][name]["difference"]["mse"] for name in ("fast", "noisy")]
    assert min(p["p_holm"] for p in ps) == min(1, 2 * min(p["p"] for p in ps))
    assert fast["budget"] == {"steps": 10, "examples_per_step": 8, "examples": 80}
    assert sum(place["runs"] for place in found["environments"]) == 6


@pytest.mark.parametrize(
    "steps, change",
    [((0, 60, 100), 4.0), ((0, 80, 100), 4.0), ((0, 50, 100), None), ((), None)],
)
def test_convergence_needs_a_measure_before_the_last_fifth(monkeypatch, steps, change):
    curve = {"steps": list(steps), "values": {"0": [1.0, 2.0, 6.0][: len(steps)]}}
    settings = types.SimpleNamespace(settings=Settings(), seeds=(0,))
    arm = collected.Collected(None, settings)
    monkeypatch.setattr(arm, "curve", lambda _: curve)
    found = arm.convergence("mse")
    assert (found and found["change"]) == change


def test_percent_leaves_plain_measures_as_they_are(finished):
    found = json.loads((finished / "study.json").read_text())
    plain = found | {"percent": True, "measures": ["mse", "mse_too"]}
    for arm in [
        *found["arms"].values(),
        {"measures": found["arms"]["slow"]["untrained"]},
    ]:
        arm["measures"]["mse_too"] = arm["measures"]["mse"]
    mean = found["arms"]["fast"]["measures"]["mse"]["mean"]
    [row] = [r for r in report.page(plain).splitlines() if r.startswith("| fast |")]
    assert row.count(f" {100 * mean:.1f} ±") == 2
    page = report.page(plain | {"plain": ["mse_too"]})
    assert "Measures but mse too are in percent" in page
    [row] = [r for r in page.splitlines() if r.startswith("| fast |")]
    assert row.count(f" {100 * mean:.1f} ±") == row.count(f" {mean:.4g} ±") == 1


def test_curves_and_convergence_are_those_of_the_log(finished):
    arm = json.loads((finished / "study.json").read_text())["arms"]["slow"]
    assert arm["curve"]["steps"] == [0, 2, 4, 6, 8, 10]
    changes = [values[5] - values[4] for values in arm["curve"]["values"].values()]
    assert arm["convergence"]["from_step"] == 8
    assert arm["convergence"]["change"] == pytest.approx(statistics.fmean(changes))


def test_the_page_shows_every_arm_and_the_picture_opens(finished):
    page = (finished / "study.md").read_text()
    for words in ("slow (reference)", "fast", "noisy", "untrained", "80", "--noise"):
        assert words in page
    assert page.count("includes zero") >= 1
    assert "10 steps of 8 examples" in page
    picture = Image.open(finished / "study.png")
    assert min(picture.size) > 300
    assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 9


def test_report_rebuilds_the_same_bytes(finished, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n\n{report.BEGIN}\nold\n{report.END}\n\nb\n")
    before = {path: path.read_bytes() for path in finished.iterdir()}
    (finished / "other.json").write_text("[1, 2]")
    flag = f"--readme={readme}"
    assert study.main(["report", str(finished), flag]) == 0
    assert before == {path: path.read_bytes() for path in before}
    text = readme.read_text()
    assert text.startswith("a\n") and text.endswith("\nb\n") and "old" not in text
    assert "reference" in text and "fast " in text
    assert study.main(["report", str(finished), flag]) == 0
    assert readme.read_text() == text


def test_report_needs_markers_and_whole_files(finished, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("no markers")
    assert study.main(["report", str(finished), f"--readme={readme}"]) == 1
    assert "has no lines" in capsys.readouterr().err
    (finished / "study.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        report.found(finished)
    assert study.main(["report", str(tmp_path / "none"), "--readme="]) == 1
    assert study.main(["report"]) == 2


def test_the_readme_and_the_pages_say_what_the_json_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = Path("docs/results")
    studies = report.found(folder)
    assert studies
    text = Path("README.md").read_text(encoding="utf-8")
    assert report.with_overview(text, studies, folder) == text
    for each in studies:
        page = (folder / each["name"]).with_suffix(".md")
        assert page.read_text(encoding="utf-8") == report.page(each)
        assert page.with_suffix(".png").exists()


def test_one_seed_has_no_interval(words, made_up, tmp_path):
    assert study.main([*words, "--seeds=5"]) == 0
    found = json.loads((tmp_path / "out/study.json").read_text())
    fast = found["arms"]["fast"]["difference"]["mse"]
    assert fast["low"] is None and fast["p"] is None and fast["p_holm"] is None
    assert "(one seed, no interval)" in (tmp_path / "out/study.md").read_text()


def test_unequal_budgets_are_printed(words, made_up, tmp_path):
    more = ["--arm=long --steps=20", "--unequal_budgets", "--seeds=0"]
    assert study.main([*words, *more]) == 0
    page = (tmp_path / "out/study.md").read_text()
    assert "**The budgets differ**" in page and "long 20 steps of 8 examples" in page


def test_tuning_takes_the_best_on_validation(words, made_up, tmp_path):
    tune = ["--tune=lr=0.0001,0.1", "--tune_seeds=7,8", "--seeds=0"]
    assert study.main([*words, *tune]) == 0
    found = json.loads((tmp_path / "out/study.json").read_text())
    for name, arm in found["arms"].items():
        record = arm["tuning"]
        means = [trial["mean"] for trial in record["trials"]]
        assert record["seeds"] == [7, 8] and len(means) == 2
        assert record["chosen"] == means.index(min(means))
        flags = found["flags"] | arm["flags"]
        assert flags["lr"] == record["trials"][record["chosen"]]["values"]["lr"]
        folder = tmp_path / "study/tuning" / name / "trial_0/seed_7"
        measures = json.loads((folder / "summary.json").read_text())["measures"]
        assert "test" not in measures
        assert measures["validation"]["mse"] == record["trials"][0]["measures"][0]
    page = (tmp_path / "out/study.md").read_text()
    assert "2 trials an arm of 10 steps, seeds 7, 8" in page
    calls = len(made_up)
    assert calls == 3 * 2 * 2 + 3
    assert study.main([*words, *tune]) == 0 and len(made_up) == calls


def test_an_arm_without_a_finished_trial_is_shown_as_failed(words, made_up, tmp_path):
    more = ["--tune=lr=0.1", "--arm=nan --nan_at=1", "--seeds=0"]
    assert study.main([*words, *more]) == 0
    found = json.loads((tmp_path / "out/study.json").read_text())["arms"]["nan"]
    assert found["tuning"]["chosen"] is None
    assert "not finite" in found["tuning"]["trials"][0]["error"]
    assert found["runs"][0]["status"] == "failed"
    assert "no trial of its tuning finished" in (tmp_path / "out/study.md").read_text()


def test_classes_are_resampled_where_runs_wrote_them(make, words, made_up, tmp_path):
    assert study.main(words) == 0
    found = make()
    rng = np.random.default_rng(0)
    for i, arm in enumerate(found.arms):
        for run in runs.of(arm, found):
            values = rng.random((1, 40)) + 0.5 * i
            values[0, 3] = math.nan  # a class that could not be measured
            np.savez(run.folder / "classwise.npz", mse=values)
    arms = {arm.name: arm for arm in found.arms}
    fast = results.gather(found, arms, {})["arms"]["fast"]["over_classes"]["mse"]
    assert fast["n"] == 39
    assert 0.2 < fast["low"] < fast["mean"] < fast["high"] < 0.8
    run.folder.joinpath("classwise.npz").write_bytes(b"damaged")
    with pytest.raises(RunError, match="is damaged"):
        results.gather(found, arms, {})


GAIN = "--contrasts=gain: noisy - fast - slow + fast, plain: + fast - slow"


def test_a_contrast_is_the_signed_sum_of_its_arms(words, made_up, make, tmp_path):
    assert study.main([*words, GAIN]) == 0
    result = json.loads((tmp_path / "out/study.json").read_text())
    values = {
        name: np.array([run["measures"]["mse"] for run in arm["runs"]])
        for name, arm in result["arms"].items()
    }
    gain = result["contrasts"]["gain"]
    assert gain["sum"] == "noisy - fast - slow + fast"
    test = stats.ttest_1samp(values["noisy"] - values["slow"], 0)
    low, high = test.confidence_interval(0.95)
    found = gain["difference"]["mse"]
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["p"] == pytest.approx(test.pvalue) and found["n"] == 2
    plain = result["contrasts"]["plain"]["difference"]["mse"]
    fast = result["arms"]["fast"]["difference"]["mse"]
    assert plain["mean"] == pytest.approx(fast["mean"])
    ps = [each["difference"]["mse"] for each in result["contrasts"].values()]
    assert min(p["p_holm"] for p in ps) == min(1, 2 * min(p["p"] for p in ps))
    table = (tmp_path / "out/study.md").read_text()
    assert "| gain | noisy - fast - slow + fast |" in table
    # Over classes too, where all arms have them.
    found = make(GAIN)
    for i, arm in enumerate(found.arms):
        for run in runs.of(arm, found):
            np.savez(run.folder / "classwise.npz", mse=np.full((1, 5), 2.0**i))
    arms = {arm.name: arm for arm in found.arms}
    over = results.gather(found, arms, {})["contrasts"]["gain"]["over_classes"]["mse"]
    assert (over["mean"], over["low"], over["n"]) == (3, 3, 5)  # 4 - 2 - 1 + 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gain: slow - none", "'none' is none of the arms"),
        ("gain: slow fast", "written NAME: ARM"),
        ("slow - fast", "written NAME: ARM"),
        ("gain: slow - fast, gain: fast - slow", "two contrasts are called 'gain'"),
    ],
)
def test_a_wrong_contrast_is_named_before_anything_runs(make, text, said):
    with pytest.raises(UsageError, match=said):
        make(f"--contrasts={text}")


def test_a_dry_run_says_what_is_left_and_trains_nothing(
    words, made_up, tmp_path, capsys
):
    assert study.main([*words, "--seeds=0"]) == 0
    capsys.readouterr()
    assert study.main([*words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "fast: --lr=0.2; 10 steps of 8 examples" in said
    assert "final: 3 runs done, 3 left" in said
    assert "from the time of 3 runs" in said and "predicted time: " in said
    assert len(made_up) == 3
    assert study.main([*words, "--dry_run", "--seeds=0"]) == 0
    assert "predicted time: 0 s" in capsys.readouterr().out


def test_a_dry_run_counts_trials_and_probes_where_nothing_is_done(
    words, made_up, capsys, monkeypatch
):
    # Seconds of start and end, of a step and of an evaluation.
    monkeypatch.setattr(forecast, "probe", lambda *_: (4.0, 0.1, 1.0))
    words = [*words, "--tune=lr=0.05,0.1", "--tune_steps=4"]
    assert study.main([*words, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "tuning: 0 runs done, 6 left" in said
    assert "final: 0 runs done, 6 left" in said
    # 6 trials of 4 steps and 3 evaluations, 6 runs of 10 steps and 6 evaluations.
    assert f"predicted time: {6 * (4 + 0.4 + 3) + 6 * (4 + 1 + 6):.0f} s" in said
    assert not made_up
    assert study.main(words) == 0
    capsys.readouterr()
    assert study.main([*words, "--dry_run"]) == 0
    assert "final: 6 runs done, 0 left" in capsys.readouterr().out


def test_smoke_is_one_seed_of_two_steps(trained, tmp_path, capsys):
    words = ["--task=retrieval", "--devices=1", "--smoke", "--clustering=false"]
    words += [f"--workdir={tmp_path / 's'}", f"--out={tmp_path}", "--cpu_conv=off"]
    assert study.main([*words, "--arm=a", "--arm=b --lr=0.01"]) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["arms"]["a"]["budget"]["steps"] == 2 and len(trained) == 2
    assert found["arms"]["b"]["over_classes"]["map_at_r"]["n"] > 1
    assert plan.read([*words, "--arm=a"]).seeds == (0,)
