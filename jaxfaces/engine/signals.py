"""SIGTERM and ctrl-C as requests to save and stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Request:
    """Whether the run was asked to stop, and by which signal."""

    signal: int | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[Request]:
    """Catches the first SIGTERM or SIGINT; a second one acts as usual, at once.

    Outside the main thread (some notebooks) signals cannot be caught, nothing changes.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    caught = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in caught}

    def ask(number: int, _: FrameType | None) -> None:
        request.signal = number
        # Not print: the signal may have come in the middle of a write to that stream.
        os.write(2, b"\njaxfaces: stopping as soon as the state is saved\n")
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in caught:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
