"""Command lines and flagfiles, read and written."""

import subprocess
import sys

import contract_tasks
import pytest

from jaxfaces import evaluate, export, predict, registry, train
from jaxfaces.engine import commandline
from jaxfaces.engine.options import Options

TASK = "--task=contract_tasks:Linear"


def parse(*words):
    built, task = commandline.parse(words, {"options": Options()})
    return built["options"], task


def test_flags_of_task_and_engine_are_set():
    options, task = parse(TASK, "--lr=0.5", "--seed=3", "--test", "--examples=9")
    assert (options.seed, options.test) == (3, True)
    assert (task.optimizer.lr, task.examples) == (0.5, 9)


def test_the_last_word_wins_over_the_flagfile(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text(f"# a comment\n\n{TASK}\n--lr=0.5\n--steps=7\n")
    _, task = parse(f"--flagfile={path}", "--lr=0.25")
    assert (task.optimizer.lr, task.steps) == (0.25, 7)


def test_flagfiles_nest(tmp_path):
    (tmp_path / "a.cfg").write_text(f"{TASK}\n--steps=7\n")
    (tmp_path / "b.cfg").write_text(f"--flagfile={tmp_path / 'a.cfg'}\n--lr=0.5\n")
    _, task = parse(f"--flagfile={tmp_path / 'b.cfg'}")
    assert (task.steps, task.optimizer.lr) == (7, 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--task=NAME is missing"),
        (("--task=retrival",), "did you mean 'retrieval'"),
        (("--task=no.such.module:Task",), "cannot be found"),
        (("--task=contract_tasks:Nothing",), "cannot be found"),
        ((TASK, "--stepps=3"), "did you mean --steps"),
        ((TASK, "--steps=0"), "--steps=0 is not >= 1"),
        ((TASK, "--steps=x"), "--steps must be a whole number"),
        ((TASK, "--optimizer=adma"), "did you mean 'adam'"),
        ((TASK, "--test=maybe"), "--test must be true or false, got 'maybe'"),
        ((TASK, "--milestones=5,3"), "--milestones must not fall"),
        ((TASK, "--profile=x"), "--profile must be START:COUNT"),
        ((TASK, "steps=3"), "not a flag: 'steps=3'"),
        ((TASK, "--steps"), "steps"),
        (("--flagfile=/no/such/file.cfg",), "cannot read the flagfile"),
    ],
)
def test_a_bad_command_line_is_one_clear_error(words, message):
    with pytest.raises(commandline.UsageError, match=message):
        parse(*words)


@pytest.mark.parametrize(
    ("words", "seed", "others"),
    [
        ((), 0, []),
        (("a b", "--seed=3", "ü"), 3, ["a b", "ü"]),
        (("--seed", "3", "x"), 3, ["x"]),
        (("x", "--seed=3", "--", "--seed=4", "-y"), 3, ["x", "--seed=4", "-y"]),
        (("--", "--flagfile=none"), 0, ["--flagfile=none"]),
        (("-", "x=3"), 0, ["-", "x=3"]),
    ],
)
def test_flags_and_other_words_mix(words, seed, others):
    built, rest = commandline.parse_mixed(words, {"options": Options()})
    assert (built["options"].seed, rest) == (seed, others)


def test_a_flagfile_may_stand_behind_other_words(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("--seed=3\n")
    words = ["x", f"--flagfile={path}", "y"]
    built, rest = commandline.parse_mixed(words, {"options": Options()})
    assert (built["options"].seed, rest) == (3, ["x", "y"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "--sed=3"), "did you mean --seed"),
        (("x", "-photo.png"), "a file whose name begins with - comes after"),
        (("x", "--seed=-1x"), "--seed must be a whole number"),
        (("x", "--seed"), "Missing value"),
    ],
)
def test_flags_among_other_words_are_checked(words, message):
    with pytest.raises(commandline.UsageError, match=message):
        commandline.parse_mixed(words, {"options": Options()})


def test_a_flagfile_that_is_not_text_is_an_error(tmp_path):
    path = tmp_path / "bad.cfg"
    path.write_bytes(b"\xff\xfe\x00--steps=3")
    with pytest.raises(commandline.UsageError):
        parse(TASK, f"--flagfile={path}")


def test_a_written_flagfile_reads_back_the_same(tmp_path):
    options, task = parse(TASK, "--seed=4", "--lr=0.1234", "--milestones=3,9")
    path = tmp_path / "flags.cfg"
    commandline.write_flagfile(path, "two\nlines", task, options)
    built, again = commandline.read_flagfile(path, {"options": Options()})
    assert again == task
    assert built["options"] == options


def test_a_registered_task_is_named_by_its_short_name():
    for name in registry.TASKS:
        assert registry.name_of(registry.find(name)) == name
    cls = contract_tasks.Linear
    assert registry.find(registry.name_of(cls)) is cls


def test_help_without_a_task_lists_the_tasks_and_imports_no_jax():
    code = (
        "import sys, jaxfaces.train as t; code = t.main(['--help']); "
        "heavy = {'jax', 'numpy', 'matplotlib', 'orbax', 'flax'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in registry.TASKS:
        assert f"  {name}" in done.stdout


def test_help_that_nobody_reads_to_its_end_is_no_error():
    words = [sys.executable, "-m", "jaxfaces.train", "--help"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_help_with_a_task_shows_its_flags_ranges_and_defaults(capsys):
    assert train.main([TASK, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--batch_size Rows a batch. [int, >= 1, default 8]" in text
    assert "sgd | adam | adamw" in text
    assert "--recall_ks" not in text  # a flag of another task


@pytest.mark.parametrize("command", [train.main, evaluate.main, predict.main])
def test_a_usage_error_is_one_line_and_exit_code_2(command, capsys):
    assert command([TASK, "--nonsense=1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "work", "words"),
    [
        (predict, "_predict", "stopped\n"),
        (evaluate, "_evaluate", "stopped\n"),
        (export, "_export", "stopped\n"),
        (train, "_train", "stopped at once; the newest checkpoint is whole\n"),
    ],
)
def test_after_ctrl_c_only_training_speaks_of_checkpoints(
    monkeypatch, capsys, command, work, words
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, work, stop)
    given = {predict: ["x.png"], train: [TASK]}.get(command, [])
    assert command.main([*given, "--workdir=run"]) == 130
    assert capsys.readouterr().err == f"jaxfaces: {words}"


def test_a_missing_workdir_is_named(capsys):
    assert train.main([TASK]) == 2
    assert "--workdir" in capsys.readouterr().err
    assert evaluate.main(["--workdir=/no/such/run"]) == 1
    assert "holds no run" in capsys.readouterr().err
