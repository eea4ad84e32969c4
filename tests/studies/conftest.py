"""Studies of a tiny task, their runs trained in this process or only made up."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from jaxfaces import study, train
from jaxfaces.engine import commandline, lock
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.rundir import RunDir
from jaxfaces.studies import plan, runs

SHARED = """--task=contract_tasks:Linear --devices=1 --steps=10 --eval_every=2
--log_every=5 --seeds=0,1 --nopercent --noise=0.5""".split()
ARMS = ["--arm=slow", "--arm=fast --lr=0.2", "--arm=noisy --noise=2"]
MADE_UP = {"versions": {"python": "3"}, "hardware": {"devices": 1, "kind": "cpu"}}
MADE_UP["hardware"] |= {"processor": "made up", "cores": 2}


@pytest.fixture
def words(tmp_path):
    """The words of a study of three arms and two seeds."""
    places = [f"--workdir={tmp_path / 'study'}", f"--out={tmp_path / 'out'}"]
    return [*SHARED, *places, *ARMS]


@pytest.fixture
def make(words):
    """Makes the plan of that study with further words."""
    return lambda *more: plan.read([*words, *more])


def _in_process(given):
    """Trains; returns exit code and what was said on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = train.main(given)
    return code, said.getvalue()


def _made_up(given):
    """Leaves behind what a training would: flags, checkpoint, log, summary."""
    configs = {"command": train.Command(), "options": Options()}
    built, task = commandline.parse(given, configs)
    folder, options = RunDir(Path(built["command"].workdir)), built["options"]
    folder.make()
    try:
        with lock.held(folder.folder, warn=print):
            if task.nan_at >= 0:
                return 1, f"jaxfaces: step {task.nan_at + 1}: train/loss is not finite"
            _write(folder, task, options)
    except RunError as error:
        return 1, f"jaxfaces: {error}"
    return 0, ""


def _write(folder, task, options):
    count = options.parallel_seeds
    seeds = range(options.seed, options.seed + count)
    best = abs(task.optimizer.lr - 0.1) + 0.1 * task.noise
    chance = [int(1000 * task.optimizer.lr), int(1000 * task.noise)]
    ends = [best + np.random.default_rng([s, *chance]).random() for s in seeds]
    lines = [
        {"step": step, "name": f"validation/mse{f'/seed{s}' if count > 1 else ''}"}
        | {"value": end + (task.steps - step) / 10}
        for step in range(0, task.steps + 1, options.eval_every)
        for s, end in zip(seeds, ends)
    ]
    found = {"validation": ends} | ({"test": ends} if options.test else {})
    found |= {f"{split}_initial": [3 + e for e in ends] for split in list(found)}
    summary = {
        "steps": task.steps,
        "measures": {
            name: [{"mse": end} for end in each] if count > 1 else {"mse": each[0]}
            for name, each in found.items()
        },
        "failed_seeds": [],
        "seconds": 1.5,
        "examples": task.steps * task.batch_size,
        **MADE_UP,
    }
    commandline.write_flagfile(folder.flags, "made up", task, options)
    (folder.checkpoints / str(task.steps)).mkdir(parents=True)
    log = "".join(json.dumps(line) + "\n" for line in lines)
    (folder.folder / "metrics.jsonl").write_text(log)
    folder.summary.write_text(json.dumps(summary))


def _instead(monkeypatch, training):
    calls = []

    def here(given, log, claim, request):
        calls.append(given)
        code, said = training(given)
        log.write(said.encode())
        return code

    monkeypatch.setattr(runs, "_train", here)
    return calls


@pytest.fixture
def trained(monkeypatch):
    """Trains in this process; the list holds the words of every training."""
    return _instead(monkeypatch, _in_process)


@pytest.fixture
def made_up(monkeypatch):
    """Does not train, but leaves made-up results; the list is as of `trained`."""
    return _instead(monkeypatch, _made_up)


@pytest.fixture
def finished(words, made_up, tmp_path):
    """The folder of results of a finished study."""
    assert study.main(words) == 0
    return tmp_path / "out"
