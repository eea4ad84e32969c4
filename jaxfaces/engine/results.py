"""A folder of results whose list appears when all of its files are there."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxfaces.engine import files
from jaxfaces.engine.errors import RunError


@contextlib.contextmanager
def written_together(
    folder: Path, manifest: str, facts: Mapping[str, Any]
) -> Iterator[Path]:
    """Gives a new folder, whose files move to `folder` when all of them are written.

    Those that an earlier use left there are removed, no others. An error while
    they are written changes nothing. They move one by one, the manifest last and the
    old one away first: where a process was killed meanwhile, there is none, and the
    next use clears up. One process at a time.

    Args:
      folder: where the files go.
      manifest: name of a file for `facts` and the names of the files.
      facts: what to tell about them; read when all is written.

    Yields:
      The folder to write to.

    Raises:
      RunError: `folder` cannot be written, or holds something else.
    """
    new = not folder.exists()
    old = _earlier(folder, manifest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=files.TEMPORARY) as name:
            scratch = Path(name)
            yield scratch
            written = sorted(path.name for path in scratch.iterdir())
            text = json.dumps({**facts, "files": written}, indent=2)
            files.write_text(scratch / manifest, text + "\n")
            with contextlib.suppress(FileNotFoundError):
                # Kept until all have moved: it says which files were ours.
                os.replace(folder / manifest, scratch / f"old {manifest}")
            for file in written:
                os.replace(scratch / file, folder / file)
            for file in old - set(written):
                (folder / file).unlink(missing_ok=True)
            os.replace(scratch / manifest, folder / manifest)
        for torn in folder.glob(f"{files.TEMPORARY}*"):
            shutil.rmtree(torn, ignore_errors=True)  # of one that was killed
    except BaseException as error:
        if new:
            with contextlib.suppress(OSError):  # a file of someone else's may be there
                folder.rmdir()
        if isinstance(error, OSError):  # such as a full disk, which names no file
            reason = error.strerror or error
            raise RunError(f"--output={folder} cannot be written: {reason}") from error
        raise


def _earlier(folder: Path, manifest: str) -> set[str]:
    """The files that earlier uses left in a folder."""
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise RunError(f"--output={folder} is a file; give a folder")
    torn = folder.glob(f"{files.TEMPORARY}*/*{manifest}")
    lists = [path for path in (folder / manifest, *torn) if path.is_file()]
    if not lists and any(not each.name.startswith(".") for each in folder.iterdir()):
        raise RunError(
            f"--output={folder} is not empty and holds no predictions "
            f"(no {manifest}); choose another folder"
        )
    return {
        name
        for path in lists
        for name in _listed(path)
        if Path(name).name == name and os.path.isfile(folder / name)
    }


def _listed(path: Path) -> list[str]:
    """The files that a manifest names; none if it is damaged: those stay."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["files"]
        return [name for name in names if isinstance(name, str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
