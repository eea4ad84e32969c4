"""Hides what threads of libraries print of an error that is raised as well.

When a disk fills up or a file is damaged, orbax raises one error and stops listening;
what its other reads and writes then run into goes to standard error with stack traces,
from threads that nobody can catch.
"""

import functools
import logging
import sys
import threading
import traceback
from typing import Any

from absl import logging as absl_logging

_SOURCES = ("orbax", "tensorstore")


@functools.cache
def hide() -> None:
    """Hides them from now on, in this process; everything else is printed as before."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    main, thread, unraisable = sys.excepthook, threading.excepthook, sys.unraisablehook

    def in_main(kind: Any, error: Any, trace: Any) -> None:
        if not _echo(error):
            main(kind, error, trace)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not _echo(args.exc_value):
            thread(args)

    def ignored(args: Any) -> None:
        if not _echo(args.exc_value):
            unraisable(args)

    sys.excepthook, threading.excepthook = in_main, in_thread
    sys.unraisablehook = ignored


def _echo(error: BaseException | None) -> bool:
    if isinstance(error, RuntimeError) and "Event loop is closed" in str(error):
        return True
    frames = traceback.extract_tb(error.__traceback__) if error else []
    return any(source in frame.filename for frame in frames for source in _SOURCES)
