"""Flagfiles: files whose lines stand for the words of a command line."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxfaces.engine.errors import UsageError

MOST_BYTES = 1 << 20
MOST_FILES = 100
MOST_WORDS = 10_000
COMMENTS = ("#", "//")


def expand(words: Iterable[str]) -> list[str]:
    """Puts the lines of flagfiles where `--flagfile=FILE` or `--flagfile FILE` stands.

    A flagfile has one `--name=value` a line; empty lines and lines that begin with # or
    // are left out. It may name further flagfiles, from the current directory.

    Raises:
      UsageError: a file is missing or no flagfile, or they include each other without
        end.
    """
    words = list(words)
    most = MOST_WORDS + len(words)
    found = list(itertools.islice(_words(iter(words), (), [0]), most + 1))
    if len(found) > most:
        raise UsageError(f"the flagfiles hold more than {MOST_WORDS:,} lines")
    return found


def _words(
    words: Iterator[str], inside: tuple[Path, ...], read: list[int]
) -> Iterator[str]:
    """Words, flagfiles expanded; `inside` are those around, `read[0]` counts all."""
    for word in words:
        if word == "--":
            yield word
            yield from words
            return
        name, equals, value = word.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            yield word
            continue
        file = value if equals else next(words, "")
        path = Path(os.path.expanduser(file.strip()))
        if not file.strip():
            raise UsageError("--flagfile=FILE names no file")
        read[0] += 1
        if path in inside:
            chain = " -> ".join(str(each) for each in (*inside, path))
            raise UsageError(f"flagfiles include each other: {chain}")
        if read[0] > MOST_FILES:
            raise UsageError(f"more than {MOST_FILES} flagfiles include each other")
        yield from _words(iter(_lines(path)), (*inside, path), read)


def _lines(path: Path) -> list[str]:
    """The lines of a flagfile that hold flags."""
    found = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith(COMMENTS):
            continue
        if not line.startswith("-") or line == "--":
            raise UsageError(
                f"flagfile {path}, line {number}: not a flag: {line[:60]!r} "
                "(a flag is written --name=value, a comment begins with #)"
            )
        found.append(line)
    return found


def _text(path: Path) -> str:
    """The content of a flagfile, its lines ended by newlines alone."""
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot read the flagfile {path}: not a file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise UsageError(
                f"cannot read the flagfile {path}: longer than {MOST_BYTES:,} bytes"
            )
        text = data.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot read the flagfile {path}: {reason}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"cannot read the flagfile {path}: byte {error.start} is not UTF-8 text"
        ) from error
    except UsageError:
        raise
    except ValueError as error:  # a path with a null character
        raise UsageError(f"cannot read the flagfile {str(path)!r}: {error}") from error
    if "\0" in text:
        raise UsageError(f"cannot read the flagfile {path}: it holds null characters")
    return text.replace("\r\n", "\n").replace("\r", "\n")
