"""A folder of results that is replaced as a whole or not at all."""

import contextlib
import json
import os
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
    they are written changes nothing.

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
            yield Path(name)
            written = sorted(path.name for path in Path(name).iterdir())
            text = json.dumps({**facts, "files": written}, indent=2)
            files.write_text(Path(name) / manifest, text + "\n")
            for file in [*written, manifest]:
                os.replace(Path(name) / file, folder / file)
        for file in old - set(written):
            (folder / file).unlink(missing_ok=True)
    except BaseException as error:
        if new:
            with contextlib.suppress(OSError):  # a file of someone else's may be there
                folder.rmdir()
        if isinstance(error, OSError):  # such as a full disk, which names no file
            reason = error.strerror or error
            raise RunError(f"--output={folder} cannot be written: {reason}") from error
        raise


def _earlier(folder: Path, manifest: str) -> set[str]:
    """The files that an earlier use left in a folder."""
    if not folder.exists():
        return set()
    if not folder.is_dir():
        raise RunError(f"--output={folder} is a file; give a folder")
    path = folder / manifest
    if not path.exists():
        if any(not each.name.startswith(".") for each in folder.iterdir()):
            raise RunError(
                f"--output={folder} is not empty and holds no predictions "
                f"(no {manifest}); choose another folder"
            )
        return set()
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["files"]
        plain = {name for name in names if Path(name).name == name}
        return {name for name in plain if (folder / name).is_file()}
    except (ValueError, KeyError, TypeError):
        return set()  # damaged: what it named stays
