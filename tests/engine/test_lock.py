"""One training process a run directory."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxfaces.engine import lock
from jaxfaces.engine.errors import RunError

HOLD = """
import sys, time
from pathlib import Path
from jaxfaces.engine import lock
with lock.held(Path(sys.argv[1]), warn=print):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_is_there_and_a_dead_owner_is_followed(tmp_path):
    process = hold(tmp_path)
    try:
        for _ in range(2):  # being refused changes nothing
            with pytest.raises(RunError, match=f"in use by process {process.pid} on"):
                with lock.held(tmp_path, warn=print):
                    pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with lock.held(tmp_path, warn=print):
        owner = (tmp_path / lock.NAME).read_text()
    assert owner.startswith(f"process {os.getpid()} on ")


def test_the_same_process_cannot_hold_it_twice_but_again_afterwards(tmp_path):
    with lock.held(tmp_path, warn=print):
        with pytest.raises(RunError, match="in use"):
            with lock.held(tmp_path, warn=print):
                pass
    with lock.held(tmp_path, warn=print):
        pass


def test_a_damaged_lock_file_is_no_obstacle(tmp_path):
    (tmp_path / lock.NAME).write_bytes(b"\xff\x00\xfe")
    with lock.held(tmp_path, warn=print):
        with pytest.raises(RunError, match="in use by process"):
            with lock.held(tmp_path, warn=print):
                pass


def test_a_clock_that_went_back_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / lock.NAME).write_text("process 1 on elsewhere since 2999-01-01")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with lock.held(tmp_path, warn=print):
        pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    with lock.held(tmp_path, warn=said.append):
        pass
    assert "cannot be locked" in said[0]
