"""One training process a run directory."""

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxfaces.engine.errors import InUseError

NAME = ".lock"
IN_USE = "is in use by"


@contextlib.contextmanager
def held(
    folder: Path, *, warn: Callable[[str], None], name: str = NAME
) -> Iterator[int]:
    """Holds the run directory for this process; the system frees it when that ends.

    An advisory lock of the operating system on `folder/.lock`: it goes with its owner,
    however that dies, and readers need not ask for it.

    Args:
      folder: an existing run directory.
      warn: gets a line where the file system has no locks.
      name: of the lock file.

    Yields:
      The file descriptor; a child that inherits it holds the lock too.

    Raises:
      InUseError: another process trains there; the message says which.
    """
    with (folder / name).open("a+", encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            raise InUseError(
                f"--workdir={folder} {IN_USE} {owner}; wait for it, stop it, or "
                "choose another folder"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            warn(f"{folder} cannot be locked ({error}); do not train there twice")
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {platform.node()} since {since}\n")
        file.flush()
        yield file.fileno()
