"""What benchmarks share: what each says of itself, and how a turn is timed."""

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAUSE = 0.02  # seconds before each turn


def heading(*packages: str, **machine: Any) -> dict[str, Any]:
    """The head of a report; packages that are not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cpu": _processor(), "cores": os.cpu_count(), **machine},
        "versions": versions,
    }


def one_turn(run: Callable, length: float) -> float:
    """Seconds of a run, the mean of as many in a row as take `length` seconds.

    The other side's threads still spin for a while, and its data fill the caches: a
    turn waits first, and runs once before the clock counts.
    """
    time.sleep(PAUSE)
    start = time.perf_counter()
    run()
    number = max(1, round(length / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(number):
        run()
    return (time.perf_counter() - start) / number


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
