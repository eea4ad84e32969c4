"""A user's own image files: which ones a list of files and folders names."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxfaces.data import images


class Input(NamedTuple):
    """One file, or something in its place that cannot be one.

    Attributes:
      name: the path in Unicode that any file can hold: bytes of a file name that are no
        UTF-8 stand there as a backslash, x and two hexadecimal digits.
      path: where it lies.
      problem: why it is left out, "" where it is not.
      passed_over: left out without harm: a note, a hidden file, a file named twice.
    """

    name: str
    path: Path
    problem: str = ""
    passed_over: bool = False

    def because(self, problem: str, *, passed_over: bool = False) -> "Input":
        """The same input, left out."""
        return self._replace(problem=problem, passed_over=passed_over)


def named(path: Path) -> Input:
    """The input at a path."""
    raw = os.fsencode(path)
    return Input(raw.decode("utf-8", "backslashreplace"), path)


def collect(given: Sequence[str | Path], *, results: str = "") -> list[Input]:
    """Finds the image files that a user means; opens none of them.

    Folders are searched to the bottom in name order, symbolic links followed, each
    folder once. In a folder a file is an image if its suffix is in `images.SUFFIXES`;
    one that is given by name is, whatever its suffix.

    Args:
      given: files and folders.
      results: folders below that hold a file of this name are left out.

    Returns:
      Every file in order, and whatever had to be left out, with the reason.
    """
    found: list[Input] = []
    seen: dict[object, str] = {}
    # A stack, not recursion: folders may lie deeper than Python's calls.
    waiting = [(Path(each), True) for each in reversed(given)]
    while waiting:
        path, by_name = waiting.pop()
        each = named(path)
        if path.name.startswith(".") and not by_name:
            found.append(each.because("hidden", passed_over=True))
            continue
        try:
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                found.append(_file(each, status, by_name, seen))
                continue
            children = sorted(path.iterdir())
        except (OSError, ValueError) as error:
            found.append(each.because(_reason(error)))
            continue
        if results and not by_name and path / results in children:
            reason = "a folder of earlier predictions"
        else:
            reason = _folder(each, status, children, seen)
        if reason:
            found.append(each.because(reason, passed_over=True))
        else:
            waiting.extend((child, False) for child in reversed(children))
    return found


def _file(
    each: Input, status: os.stat_result, by_name: bool, seen: dict[object, str]
) -> Input:
    if not stat.S_ISREG(status.st_mode):
        return each.because("neither a file nor a folder")
    if not by_name and each.path.suffix.lower() not in images.SUFFIXES:
        reason = "not an image by its suffix; give the file by name to try it"
        return each.because(reason, passed_over=True)
    place = os.path.abspath(each.path)
    if place in seen:
        return each.because(f"given before as {seen[place]}", passed_over=True)
    seen[place] = each.name
    return each


def _folder(
    each: Input,
    status: os.stat_result,
    children: list[Path],
    seen: dict[object, str],
) -> str:
    """Why a folder is not searched, "" if it is."""
    if not children:
        return "an empty folder"
    place = (status.st_dev, status.st_ino)
    if place in seen:
        return f"the same folder as {seen[place]}"
    seen[place] = each.name
    return ""


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"cannot be read: {error}"
