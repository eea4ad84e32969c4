import inspect
import os
import sys

import pytest

from jaxfaces.data import files


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def good(*given):
    return [each.name for each in files.collect(given) if not each.problem]


def problems(*given):
    return {each.name: each.problem for each in files.collect(given) if each.problem}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_are_searched_to_the_bottom_in_name_order(here):
    touch(here, "a/c.png", "a/b/z.JPG", "a/b/a.gif", "a/a b.webp", "a/ü.bmp", "0.png")
    found = ["a/a b.webp", "a/b/a.gif", "a/b/z.JPG", "a/c.png", "a/ü.bmp"]
    assert good("a") == found
    assert good("0.png", "a") == ["0.png", *found]
    assert good("a/c.png", "0.png") == ["a/c.png", "0.png"]


def test_in_a_folder_the_suffix_decides_and_a_file_by_name_is_always_tried(here):
    touch(here, "a/1.png", "a/notes.txt", "a/photo.heic", "a/none")
    assert good("a") == ["a/1.png"]
    assert set(problems("a")) == {"a/notes.txt", "a/photo.heic", "a/none"}
    assert good("a/none", "a/notes.txt") == ["a/none", "a/notes.txt"]


def test_hidden_files_and_folders_are_passed_over_unless_named(here):
    touch(here, "a/.x.png", "a/.git/y.png", "a/z.png")
    assert good("a") == ["a/z.png"]
    assert problems("a") == {"a/.x.png": "hidden", "a/.git": "hidden"}
    assert good("a/.x.png", "a/.git") == ["a/.x.png", "a/.git/y.png"]


def test_a_file_named_twice_counts_once_and_says_so(here):
    touch(here, "a/x.png", "a/y.png")
    found = files.collect(["a/x.png", "a", "./a/x.png", str(here / "a/y.png")])
    assert [(each.name, bool(each.problem)) for each in found] == [
        ("a/x.png", False),
        ("a/x.png", True),
        ("a/y.png", False),
        ("a/x.png", True),
        (str(here / "a/y.png"), True),
    ]
    assert found[1].problem == "given before as a/x.png"
    assert all(each.passed_over for each in found if each.problem)


def test_names_of_one_letter_are_told_apart_too(here):
    touch(here, "a", "b")
    assert good("a", "a", "b") == ["a", "b"]
    assert good(".", ".") == []


def test_a_folder_named_like_an_image_is_a_folder(here):
    touch(here, "x.png/y.png")
    assert good("x.png") == ["x.png/y.png"]


def test_empty_and_missing_and_foreign_things_are_named(here):
    (here / "empty").mkdir()
    os.mkfifo(here / "pipe.png")
    (here / "dangling.png").symlink_to("nowhere")
    assert problems("empty", "gone", "pipe.png", "dangling.png", "x" * 300) == {
        "empty": "an empty folder",
        "gone": "no such file or folder",
        "pipe.png": "neither a file nor a folder",
        "dangling.png": "no such file or folder",
        "x" * 300: "cannot be read: File name too long",
    }
    assert "null byte" in problems("a\0b")["a\0b"]


def test_a_slip_is_harmless_and_a_missing_file_is_not(here):
    touch(here, "a/notes.txt", "a/.hidden")
    (here / "empty").mkdir()
    harm = {each.name: not each.passed_over for each in files.collect(["a", "gone"])}
    assert harm == {"a/notes.txt": False, "a/.hidden": False, "gone": True}
    assert files.collect(["empty"])[0].passed_over


def test_loops_of_symbolic_links_end(here):
    touch(here, "a/b/x.png")
    (here / "a/b/up").symlink_to(here / "a")
    (here / "a/self").symlink_to("self")
    assert good("a") == ["a/b/x.png"]
    assert problems("a") == {
        "a/b/up": "the same folder as a",
        "a/self": "cannot be read: Too many levels of symbolic links",
    }


def test_a_link_to_an_image_is_an_image_of_its_own(here):
    touch(here, "a/x.png")
    (here / "a/y.png").symlink_to("x.png")
    assert good("a") == ["a/x.png", "a/y.png"]


def test_folders_deeper_than_the_stack_are_searched(here):
    touch(here, "/".join(["d"] * 120) + "/x.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        found = good("d")
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == 1


def test_folders_of_earlier_predictions_are_passed_over(here):
    touch(here, "a/x.png", "a/out/neighbours.png", "a/out/list.json")
    found = files.collect(["a"], results="list.json")
    assert [each.name for each in found if not each.problem] == ["a/x.png"]
    reasons = {each.name: each.problem for each in found if each.problem}
    assert reasons == {"a/out": "a folder of earlier predictions"}
    [_, found] = files.collect(["a/out"], results="list.json")
    assert (found.name, found.problem) == ("a/out/neighbours.png", "")
    assert good("a") == ["a/out/neighbours.png", "a/x.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow Unicode only")
def test_bytes_that_are_no_unicode_are_written_out(here):
    (here / os.fsdecode(b"caf\xe9.png")).touch()
    [found] = files.collect(["."])
    assert found.name == "caf\\xe9.png"
    assert found.path.exists()
    found.name.encode("utf-8")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_folder_is_named(here):
    (here / "closed").mkdir(mode=0)
    assert problems("closed") == {"closed": "cannot be read: Permission denied"}


def test_a_folder_that_cannot_be_listed_is_named(here, monkeypatch):
    touch(here, "a/x.png")

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.Path, "iterdir", denied)
    assert problems("a") == {"a": "cannot be read: Permission denied"}
