import json
import subprocess
import sys

import pytest

from jaxfaces.engine.errors import RunError
from jaxfaces.engine.results import written_together


def write(folder, **content):
    with written_together(folder, "list.json", {"step": 3}) as scratch:
        for name, text in content.items():
            (scratch / name).write_text(text)


def content(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_all_files_and_a_list_of_them_appear(tmp_path):
    write(tmp_path / "new" / "out", a="1", b="2")
    found = content(tmp_path / "new" / "out")
    listed = json.loads(found.pop("list.json"))
    assert found == {"a": "1", "b": "2"}
    assert listed == {"step": 3, "files": ["a", "b"]}


def test_files_of_an_earlier_use_go_and_no_others(tmp_path):
    write(tmp_path, a="1", b="2")
    (tmp_path / "mine").write_text("kept")
    write(tmp_path, b="3", c="4")
    found = content(tmp_path)
    found.pop("list.json")
    assert found == {"b": "3", "c": "4", "mine": "kept"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_has_changed(tmp_path, error):
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, a="1")
    before = content(old)
    for folder in (old, new):
        with pytest.raises(error), written_together(folder, "list.json", {}) as scratch:
            (scratch / "a").write_text("half")
            raise error("no")
    assert content(old) == before
    assert not new.exists()


def test_a_list_cannot_name_files_elsewhere(tmp_path):
    out = tmp_path / "out"
    write(out, a="1")
    (tmp_path / "precious").write_text("kept")
    (out / "list.json").write_text('{"files": ["../precious", "a", ".."]}')
    write(out, b="2")
    assert (tmp_path / "precious").exists()
    assert set(content(out)) == {"b", "list.json"}


KILLED = """
import os, sys
from pathlib import Path
from jaxfaces.engine import results
left, replace = [int(sys.argv[2])], os.replace
def dying(*places):
    left[0] -= 1
    if not left[0]:
        os._exit(9)
    replace(*places)
os.replace = dying
with results.written_together(Path(sys.argv[1]), "list.json", {}) as scratch:
    (scratch / "b").write_text("new")
    (scratch / "c").write_text("new")
"""


def test_a_process_killed_anywhere_leaves_no_list_of_what_is_not_there(tmp_path):
    codes = []
    for moves in range(1, 7):
        out = tmp_path / str(moves)
        write(out, a="old", b="old")
        (out / "mine").write_text("kept")
        words = [sys.executable, "-c", KILLED, str(out), str(moves)]
        codes.append(subprocess.run(words, check=False).returncode)
        if (out / "list.json").exists():
            listed = json.loads((out / "list.json").read_text())["files"]
            found = {name: (out / name).read_text() for name in listed}
            assert found in ({"a": "old", "b": "old"}, {"b": "new", "c": "new"})
        write(out, d="4")
        assert set(content(out)) == {"d", "list.json", "mine"}
    assert codes == [9] * 5 + [0]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"files": 3}', '{"files": [3]}', "[" * 100_000]
)
def test_a_damaged_list_is_no_obstacle(tmp_path, text):
    write(tmp_path, a="1")
    (tmp_path / "list.json").write_text(text)
    write(tmp_path, b="2")
    assert set(content(tmp_path)) == {"a", "b", "list.json"}


def test_a_folder_with_something_else_is_refused_before_any_work(tmp_path):
    (tmp_path / "holiday.png").touch()
    with pytest.raises(RunError, match="not empty and holds no predictions"):
        write(tmp_path)
    with pytest.raises(RunError, match="is a file; give a folder"):
        write(tmp_path / "holiday.png")
    with pytest.raises(RunError, match="cannot be written"):
        write(tmp_path / "holiday.png" / "below")


def test_a_full_disk_is_named(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RunError, match="out cannot be written: No space left"):
        with written_together(out, "list.json", {}) as scratch:
            (scratch / "a").write_text("half")
            raise OSError(28, "No space left on device")
    assert not out.exists()
