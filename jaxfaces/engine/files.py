"""Files that a reader sees whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and then moves it there."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(
                file.fileno()
            )  # else a power cut may leave the name and no content
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_torn(folder: Path) -> None:
    """Removes what processes left behind that were killed while they wrote."""
    for torn in folder.glob(f"{TEMPORARY}*"):
        owner = torn.name.removeprefix(TEMPORARY).partition("-")[0]
        if not (owner.isdigit() and _lives(int(owner))):
            torn.unlink()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
