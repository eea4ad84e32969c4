"""What every benchmark says of itself: the command, the machine, the versions."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any


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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor()
