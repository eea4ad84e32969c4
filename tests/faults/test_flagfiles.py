"""Any flagfile at all gives a run or one clear line, never a traceback."""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time

import contract_tasks
import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxfaces import registry, train
from jaxfaces.engine import commandline, config, flagfiles
from jaxfaces.engine.errors import UsageError
from jaxfaces.engine.options import Options
from jaxfaces.tasks.classification import Classification
from jaxfaces.tasks.retrieval import Retrieval

LINEAR = "--task=contract_tasks:Linear"

FUZZ = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
}

KNOBS = [
    knob.flag
    for part in (
        contract_tasks.Linear,
        Classification,
        Retrieval,
        Options,
        train.Command,
    )
    for knob in config.knobs(part)
]
SPECIAL = ["flagfile", "task", "undefok", "help", "helpfull", "", "-", "no", "=", "é"]
TASKS = [
    "contract_tasks:Linear",
    "retrieval",
    "retrival",
    "",
    ":",
    "x:",
    ":x",
    ".x:y",
    "os:getcwd",
    "sys:exit",
    "json:JSONDecoder",
    "contract_tasks:",
    "contract_tasks:points",
    "contract_tasks:ALL",
    "jaxfaces.engine.options:Options",
    "a\0b:c",
    "\udcff:x",
    "contract_tasks:Linear:Linear",
]
TRICKY = [
    "",
    " ",
    "0",
    "-1",
    "1.5",
    "1e999",
    "-inf",
    "nan",
    "1e-400",
    "99999999999999999999",
    "-99999999999999999999",
    "2147483648",
    "9" * 400,
    "9" * 5000,
    "1_0",
    "0x10",
    "١٢",
    "²",
    "1,2,3",
    ",",
    "3,1",
    "none",
    "True",
    "maybe",
    "a=b",
    "=",
    "--steps=3",
    "#",
    "a b",
    "\t",
    "a\nb",
    "a\r--steps=0",
    "\x1b[31m",
    "\u2028",
    "\u3000",
    "\ufeff",
    "\x85",
    "%s%n{0}",
    "~",
    "/dev/null",
    "x" * 3000,
    "20:5",
    "²:1",
]

names = st.one_of(
    st.sampled_from(KNOBS),
    st.sampled_from(SPECIAL),
    st.sampled_from(KNOBS).map(lambda name: name[1:]),
    st.sampled_from(KNOBS).map(lambda name: f"no{name}"),
    st.text(max_size=8),
)
values = st.one_of(
    st.sampled_from(TRICKY),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20),
)
flags = st.one_of(
    st.builds("--{}={}".format, names, values),
    st.builds("--{}={}".format, st.sampled_from(KNOBS), values),
    st.builds("-{}={}".format, names, values),
    st.builds("--{} {}".format, names, values),
    st.builds("--{}={} # why".format, names, values),
    st.builds("--{}".format, names),
    st.builds("--task={}".format, st.sampled_from(TASKS)),
    st.builds("---{}={}".format, names, values),
)
lawful = st.sampled_from(
    [
        f"--{knob.flag}={knob.format(knob.default)}"
        for part in (contract_tasks.Linear, Options)
        for knob in config.knobs(part)
    ]
)
# Where a flagfile may point: other files of the example, and what is no flagfile.
INNER = [f"{i}.cfg" for i in range(4)]
PLACES = INNER + [
    "missing.cfg",
    "folder",
    "pipe",
    "loop",
    "/dev/zero",
    "/dev/null/x",
    "~nobody/x",
    "",
    "x" * 300,
    "a\0b",
]
includes = st.builds(
    "{}{}{}".format,
    st.sampled_from(["--flagfile", "-flagfile", "  --flagfile"]),
    st.sampled_from(["=", "= ", " "]),
    st.sampled_from(PLACES),
)
nested = st.sampled_from([f"--flagfile={file}" for file in INNER])
lines = st.one_of(
    lawful,
    lawful,
    lawful,
    flags,
    nested,
    includes,
    st.sampled_from(["", "  ", "# a comment", "// another", "#--steps=0", LINEAR]),
    st.text(max_size=30),
)
odd_encodings = st.sampled_from(
    ["utf-8-sig", "latin-1", "utf-16", "utf-32", "cp037", "utf-7"]
)


@st.composite
def files(draw):
    """The bytes of a flagfile."""
    oddity = draw(st.integers(0, 15))
    if oddity == 15:
        return draw(st.binary(max_size=200))
    ending = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    if oddity == 14:
        ending = draw(st.sampled_from(["\x0b", "\0", "\u2028", " "]))
    text = ending.join(draw(st.lists(lines, max_size=6))) + draw(
        st.sampled_from(["", ending])
    )
    encoding = draw(odd_encodings) if oddity == 13 else "utf-8"
    return text.encode(encoding, "replace") + (b"\xff\xfe" if oddity == 12 else b"")


words = st.one_of(
    lawful, lawful, flags, nested, includes, st.sampled_from(["--", "-h", "word"])
)


@st.composite
def commands(draw):
    """Words of a command line and the flagfiles that they may name."""
    given = draw(st.lists(words, max_size=4))
    if draw(st.integers(0, 7)):
        given = [LINEAR, *given]
    given += draw(st.sampled_from([[], ["--flagfile=0.cfg"], ["--flagfile", "0.cfg"]]))
    if draw(st.integers(0, 7)):
        given.append("--workdir=run")
    return given, draw(st.lists(files(), min_size=1, max_size=4))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current directory of the examples, with what is no flagfile in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """What the command would have trained, had it not been stopped there."""
    calls = []

    def note(command, options, cluster, task):
        calls.append((command, options, task))

    monkeypatch.setattr(train, "_train", note)
    return calls


def run(given):
    """Runs the command; returns its exit code, what it printed, seconds."""
    out, err = io.StringIO(), io.StringIO()
    begun = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train.main(given)
    return code, out.getvalue(), err.getvalue(), time.process_time() - begun


def check(place, trained, example):
    given, contents = example
    for i in range(4):
        path = place / f"{i}.cfg"
        path.unlink(missing_ok=True)
        if i < len(contents):
            path.write_bytes(contents[i])
    trained.clear()
    code, out, err, seconds = run(given)
    assert seconds < 5
    assert code in (0, 2)
    if code:
        assert not trained
        assert out == ""
        assert err.startswith("jaxfaces: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert len(err) < 8000
        assert "Traceback" not in err
        err.encode("utf-8")
    else:
        assert err == ""
        assert bool(trained) != bool(out)  # a run, or the help that was asked for
    for _, options, task in trained:
        commandline.write_flagfile(place / "written.cfg", "a\nb", task, options)
        read, again = commandline.read_flagfile(
            place / "written.cfg", {"options": Options()}
        )
        assert (again, read["options"]) == (task, options)


@settings(max_examples=600, **FUZZ)
@given(commands())
def test_any_flagfile_is_a_run_or_one_line(place, trained, example):
    check(place, trained, example)


@pytest.mark.slow
@settings(max_examples=20_000, **FUZZ)
@given(commands())
def test_any_of_many_flagfiles_is_a_run_or_one_line(place, trained, example):
    check(place, trained, example)


@settings(max_examples=300, **FUZZ)
@given(st.data())
def test_any_values_of_known_flags_are_a_run_or_one_line(place, trained, data):
    """Without a wrong flag among them, so that values are looked at."""
    task, part = data.draw(
        st.sampled_from(
            [(LINEAR, contract_tasks.Linear), ("--task=retrieval", Retrieval)]
        )
    )
    known = [knob.flag for knob in (*config.knobs(part), *config.knobs(Options))]
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(known), values), max_size=3))
    given = [task, "--workdir=run", *(f"--{name}={value}" for name, value in pairs)]
    check(place, trained, (given, []))


def refused(*given):
    with pytest.raises(UsageError) as caught:
        flagfiles.expand(given)
    return str(caught.value)


class TestNesting:
    def test_a_file_that_includes_itself_is_shown_with_its_chain(self, place):
        (place / "a.cfg").write_text("--flagfile=b.cfg\n")
        (place / "b.cfg").write_text("--lr=1\n--flagfile=a.cfg\n")
        message = refused("--flagfile=a.cfg")
        assert message == "flagfiles include each other: a.cfg -> b.cfg -> a.cfg"

    def test_one_file_may_be_included_twice(self, place):
        (place / "a.cfg").write_text("--flagfile=b.cfg\n--flagfile=b.cfg\n")
        (place / "b.cfg").write_text("--lr=1\n")
        assert flagfiles.expand(["--flagfile", "a.cfg"]) == ["--lr=1"] * 2

    def test_a_chain_is_followed_to_its_end_and_a_longer_one_refused(self, place):
        for i in range(200):
            (place / f"{i}.cfg").write_text(f"--flagfile={i + 1}.cfg\n")
        (place / "50.cfg").write_text("--lr=1\n")
        assert flagfiles.expand(["--flagfile=0.cfg"]) == ["--lr=1"]
        assert "more than 100 flagfiles" in refused("--flagfile=60.cfg")

    def test_files_that_double_at_every_level_stop_early(self, place):
        for i in range(60):
            (place / f"{i}.cfg").write_text(f"--flagfile={i + 1}.cfg\n" * 2)
        (place / "60.cfg").write_text("--lr=1\n")
        assert "more than 100 flagfiles" in refused("--flagfile=0.cfg")

    def test_a_missing_inner_file_is_named(self, place):
        (place / "a.cfg").write_text("--flagfile=inner.cfg\n")
        message = refused("--flagfile=a.cfg")
        assert (
            message == "cannot read the flagfile inner.cfg: No such file or directory"
        )

    def test_what_follows_two_dashes_is_left_alone(self, place):
        assert flagfiles.expand(["--", "--flagfile=x"]) == ["--", "--flagfile=x"]


@pytest.mark.parametrize("file", ["folder", "pipe", "/dev/zero", "loop"])
def test_what_is_no_file_is_refused_at_once(place, file):
    assert f"cannot read the flagfile {file}: " in refused(f"--flagfile={file}")


def test_a_giant_flagfile_is_refused(place):
    with (place / "a.cfg").open("wb") as file:
        file.truncate(1 << 40)
    assert "longer than 1,048,576 bytes" in refused("--flagfile=a.cfg")
    (place / "a.cfg").write_text("--lr=1\n" * 20_000)
    assert "more than 10,000 lines" in refused("--flagfile=a.cfg")


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_do_not_matter(place, ending, mark):
    text = mark + ending.join(["# why", "--lr=1", "", "  --steps=2  ", "// x"])
    (place / "a.cfg").write_bytes(text.encode())
    assert flagfiles.expand(["--flagfile=a.cfg"]) == ["--lr=1", "--steps=2"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1", "cp037"])
def test_other_encodings_are_named(place, encoding):
    (place / "a.cfg").write_bytes("--data_dir=/données\n".encode(encoding))
    message = refused("--flagfile=a.cfg")
    assert "flagfile a.cfg" in message
    assert "UTF-8" in message or "null" in message


def test_a_line_that_is_no_flag_is_named_by_its_number(place):
    (place / "a.cfg").write_text("# why\n--lr=1\nsteps=3\n")
    assert "flagfile a.cfg, line 3: not a flag: 'steps=3'" in refused(
        "--flagfile=a.cfg"
    )


def test_a_flag_may_be_given_in_two_words(place, trained):
    given = ["--task", "contract_tasks:Linear", "--lr", "0.5", "--workdir", "run"]
    code, *_ = run([*given, "--notest", "--quiet"])
    [(command, options, task)] = trained
    assert (code, command.workdir) == (0, "run")
    assert (options.test, options.quiet, task.optimizer.lr) == (False, True, 0.5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--image_size=1000000000", "not in [0, 8192]"),
        ("--embedding_size=1000000000", "not in [1, 65536]"),
        ("--classes_per_batch=1000000000000", "not in [1, 65536]"),
        ("--eval_batch_size=1000000000", "not in [1, 65536]"),
        ("--prefetch=1000000000", "not in [1, 1024]"),
        ("--workers=1000000", "not in [0, 256]"),
        ("--threads=1000000", "not in [1, 256]"),
        ("--parallel_seeds=1000000", "not in [1, 1024]"),
        (f"--seed={2**70}", "--seed must be within ±2147483647"),
        ("--steps=99999999999999999999", "--steps must be within ±2147483647"),
        (f"--steps={10**400}", "--steps must be within ±2147483647"),
        ("--lr=1e999", "--lr must be a finite number"),
        ("--lr=1e39", "--lr must be within ±3.4e+38"),
        (f"--milestones={10**400}", "--milestones must be within"),
        ("--notest=3", "--notest=3 does not take an argument"),
        ("--undefok=stepps", "unknown flag --undefok"),
        (f"-{'a' * 5000}", f"unknown flag --{'a' * 100}..."),
        (f"--{'a' * 5000}=3", f"unknown flag --{'a' * 100}..."),
        ("--dataset=a\nb", "--dataset may not hold the character '\\n'"),
        ("--dataset=\udcff", "--dataset may not hold the character '\\udcff'"),
        ("--profile=²:1", "--profile must be START:COUNT"),
    ],
)
def test_values_beyond_all_use_are_refused_before_anything_is_made(
    trained, given, words
):
    code, out, err, _ = run(["--task=retrieval", "--workdir=run", given])
    assert (code, out, trained) == (2, "", [])
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("task", TASKS[2:])
def test_what_is_no_task_is_one_line(task):
    code, out, err, _ = run([f"--task={task}", "--workdir=run"])
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "--task" in err


def test_a_task_whose_flags_clash_with_the_engine_is_one_line(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Clashing(contract_tasks.Linear):
        seed: int = config.knob(0, "A flag of the engine.")

    monkeypatch.setattr(contract_tasks, "Clashing", Clashing, raising=False)
    code, _, err, _ = run(["--task=contract_tasks:Clashing", "--workdir=run"])
    assert code == 2
    assert "'seed' is a flag of options too" in err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 9 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmore\nlines"),
    ],
)
def test_too_little_memory_is_one_line(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(train, "_train", fail)
    code, _, err, _ = run([LINEAR, "--workdir=run"])
    assert code == 1
    assert "out of memory" in err
    assert len(err.splitlines()) == 1


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def fail(**_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(train, "_train", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run([LINEAR, "--workdir=run"])


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("--lr=1e38", 1, "is not finite"),
        ("--lr=1e-320", 0, ""),
        ("--devices=2147483647", 1, "--devices"),
        ("--batch_size=7", 1, "choose a multiple of 8"),
        ("--microbatch=7", 1, "microbatch"),
        ("--profile=99999999999999999999:1", 0, ""),
        ("--compile_cache=/dev/null/x", 1, "/dev/null/x"),
        ("--seed=2147483647 --parallel_seeds=2", 0, ""),
        ("--schedule_steps=2147483647 --schedule=cosine", 0, ""),
        ("--warmup_steps=2147483647 --milestones=1,2147483647", 0, ""),
        ("--log_every=2147483647 --keep=2147483647 --prefetch=1024", 0, ""),
        ("--average=1 --clip_norm=1e-300", 0, ""),
    ],
)
def test_odd_but_lawful_values_train_or_stop_with_one_line(
    tmp_path, given, code, words
):
    workdir = str(tmp_path / "run")
    steps = ["--steps=3", "--log_every=1", "--eval_every=3", "--quiet"]
    done, _, err, _ = run([LINEAR, *steps, *given.split(), f"--workdir={workdir}"])
    assert (done, len(err.splitlines())) == (code, int(code > 0)), err
    assert words in err


def lawful_values(knob, draw):
    """One of the values that a flag may have, by what it says of itself."""
    if knob.choices:
        return draw.choice(knob.choices)
    if knob.kind is bool:
        return draw.choice(["true", "false"])
    return knob.format(knob.default)


# What goes together: a large network takes long, some losses need a classifier, and a
# miner needs a loss over pairs.
FIXED = {
    "retrieval": {
        "backbone": "small",
        "dataset": "made_up",
        "classification": "cross_entropy",
        "miner": "none",
        "supervised": "false",
    },
    "classification": {"dataset": "made_up", "crop": "random"},
}


@pytest.mark.parametrize("name", FIXED)
def test_any_lawful_choices_train_the_real_task(tmp_path, name):
    draw = random.Random(0)
    flags = {
        knob.flag: FIXED[name].get(knob.flag, lawful_values(knob, draw))
        for knob in config.knobs(registry.find(name))
    }
    given = [f"--{flag}={value}" for flag, value in flags.items()]
    done, _, err, _ = run(
        [f"--task={name}", *given, "--smoke", "--quiet", f"--workdir={tmp_path}"]
    )
    assert (done, err) == (0, "")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 2


def end_to_end(place, *given):
    return subprocess.run(
        [sys.executable, "-m", "jaxfaces.train", *given],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        timeout=300,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"},
    )


def test_the_command_itself_runs_a_foreign_looking_flagfile(place):
    text = f"\ufeff# Übung\r\n{LINEAR}\r\n--steps=2\r\n--flagfile=b.cfg\r\n"
    (place / "a.cfg").write_bytes(text.encode())
    (place / "b.cfg").write_text("--batch_size=4\n--examples=5")
    done = end_to_end(place, "--flagfile", "a.cfg", "--workdir=run", "--noquiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads((place / "run" / "summary.json").read_text())["steps"] == 2


def test_the_command_itself_refuses_with_one_line(place):
    (place / "a.cfg").write_bytes(os.urandom(3000))
    done = end_to_end(place, "--flagfile=a.cfg")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("finished")
    assert go(folder)[0] == 0
    return folder / "run"


def go(place, *more):
    words = [LINEAR, "--steps=2", "--eval_every=2", "--quiet"]
    return run([*words, f"--workdir={place / 'run'}", *more])


class TestDamagedRunDirectory:
    """What a run reads back of its own."""

    @pytest.fixture
    def place(self, finished, tmp_path):
        shutil.copytree(finished, tmp_path / "run")
        return tmp_path

    @pytest.mark.parametrize(
        "content", [b"\xff\xfe\0", b"", b"steps=3\n", b"--steps=x\n", b"--a=1\n"]
    )
    def test_flags_are_named(self, place, content):
        (place / "run" / "flags.cfg").write_bytes(content)
        code, out, err, _ = go(place)
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert "flags.cfg cannot be read" in err or "with other flags" in err

    @pytest.mark.parametrize("content", [b"\xff\xfe\0", b"{}", b"[" * 100_000])
    def test_a_summary_is_written_again(self, place, content):
        summary = place / "run" / "summary.json"
        whole = json.loads(summary.read_text())
        summary.write_bytes(content)
        assert go(place)[0] == 0
        assert json.loads(summary.read_text())["measures"] == whole["measures"]

    @pytest.mark.parametrize("content", [b"\xff\xfe\0", b"[" * 100_000, b"{}"])
    def test_sizes_are_named(self, place, content):
        (place / "run" / "sizes.json").write_bytes(content)
        code, _, err, _ = go(place, "--steps=3")
        assert (code, len(err.splitlines())) == (1, 1)
        assert "sizes.json" in err or "the data changed" in err

    def test_a_log_loses_the_lines_that_are_damaged(self, place):
        damaged = [
            b"\xff\xfe\0",
            b"",
            b'{"step": 1, "name": 5, "value": 1}',
            b'{"step": 1, "name": "loss", "value": "x"}',
            b'{"step": true, "name": "loss", "value": [1]}',
            b'{"step": 1}',
            b"[]",
            b"null",
            b"[" * 100_000,
        ]
        log = place / "run" / "metrics.jsonl"
        log.write_bytes(b"\n".join(damaged) + b"\n" + log.read_bytes())
        assert go(place, "--steps=3")[0] == 0
        for line in log.read_text().splitlines():
            assert json.loads(line)["name"] not in (5, "loss")
