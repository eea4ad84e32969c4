"""What a run tells its user: greeting, lines, pictures, summary."""

import importlib.metadata
import itertools
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxfaces import registry
from jaxfaces.data.streams import Stream
from jaxfaces.engine.assembly import Assembly
from jaxfaces.engine.files import write_text
from jaxfaces.engine.health import Health

SHOWN = 4
PACKAGES = ("jaxfaces", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def first_meta() -> dict[str, Any]:
    """What checkpoints remember beside arrays, before any step."""
    return {
        "best": None,
        "initial": None,
        "init_from": None,
        "measures": None,
        "seconds": 0.0,
        "examples": 0,
        "log": 0,
        "reads": {},
    }


def greeting(parts: Assembly, folder: Path, step: int, steps: int) -> str:
    """One line that says what begins or goes on."""
    data = ", ".join(
        f"{name}: {examples:,} examples"
        + (f" of {classes:,} classes" if classes else "")
        + _bad(parts.streams[name].skipped)
        + (" (resident)" if name in parts.resident else "")
        for name, (examples, classes) in parts.sizes.items()
    )
    device = parts.program.mesh.devices.flat[0].device_kind
    where = f"resuming at step {step:,} of {steps:,}" if step else f"{steps:,} steps"
    task = registry.name_of(type(parts.task))
    devices = f"{parts.program.mesh.size} × {device}"
    if jax.process_count() > 1:
        devices += f" of {jax.process_count()} processes"
    return f"{task} in {folder}: {where} on {devices}; {data}"


def _bad(skipped: int) -> str:
    return f" ({skipped:,} bad left out)" if skipped else ""


def left_out(**splits: Mapping[str, Stream]) -> dict[str, int]:
    """How many bad examples the streams of each split left out, where they did."""
    found = {}
    for split, streams in splits.items():
        for name, stream in streams.items():
            # A stream of "train" goes by its name alone, as in sizes.json.
            full = split if len(streams) == 1 else f"{split}/{name}"
            if stream.skipped:
                found[name if split == "train" else full] = stream.skipped
    return found


def line(where: int | str, measures: Mapping[str, float]) -> str:
    """One line with the first few measures; the log has them all."""
    head = f"step {where}" if isinstance(where, int) else where
    shown = itertools.islice(measures.items(), SHOWN)
    body = "  ".join(f"{name} {value:.4f}" for name, value in shown)
    return f"{head:<20}{body}"


def draw(folder: Path, pictures: Mapping[str, Any], records: list[dict]) -> None:
    """Writes pictures and the curves of the log as PNG files."""
    from jaxfaces.imaging import figures  # matplotlib takes a second to import

    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        figures.to_png(picture, folder / f"{name}.png")
    curves = [r for r in records if not r["name"].startswith("test")]
    if curves:
        figures.to_png(figures.curves(curves, title="Run"), folder / "curves.png")


def summarize(
    parts: Assembly,
    meta: Mapping[str, Any],
    test: Mapping[str, Sequence[Mapping]],
    health: Health,
    left_out: Mapping[str, int],
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
      parts: the run.
      meta: what its checkpoint remembers.
      test: measures of test splits by name.
      health: steps that were skipped and seeds that gave up.
      left_out: bad examples by stream.
    """
    skipped, failed = np.atleast_1d(health.skipped), np.atleast_1d(health.failed)
    seconds = meta["seconds"]
    measures = {
        "validation_initial": _by_seed(meta["initial"]),
        "validation": _by_seed(meta["measures"]),
        **{name: _by_seed(found) for name, found in test.items()},
    }
    return {
        "task": registry.name_of(type(parts.task)),
        "steps": parts.timeline.steps,
        "seed": parts.options.seed,
        "seeds": parts.program.seeds,
        "measures": {name: value for name, value in measures.items() if value},
        "best": meta["best"],
        **({"init_from": meta["init_from"]} if meta["init_from"] else {}),
        "seconds": round(seconds, 2),
        "examples": meta["examples"],
        "skipped_examples": dict(left_out),
        "examples_per_second": round(meta["examples"] / max(seconds, 1e-9), 2),
        "skipped_steps": int(skipped.sum()),
        "failed_seeds": [parts.options.seed + int(i) for i in np.flatnonzero(failed)],
        "compilations": parts.program.compilations,
        "resident": sorted(parts.resident),
        "versions": versions(),
        "hardware": hardware(),
    }


def _by_seed(measures: Sequence[Mapping[str, float]] | None) -> Any:
    """Measures of the only seed, or a list of them; null where not finite."""
    if not measures:
        return None
    clean = [
        {name: v if math.isfinite(v) else None for name, v in each.items()}
        for each in measures
    ]
    return clean[0] if len(clean) == 1 else clean


def closing(summary: Mapping[str, Any], workdir: str) -> str:
    """What a finished run learnt and where it lies, in a few lines."""
    lines = []
    for split, measures in summary["measures"].items():
        each = measures if isinstance(measures, list) else [measures]
        for one in each:
            known = {name: v for name, v in one.items() if v is not None}
            lines.append(line(split, known))
    if summary["best"]:
        best = summary["best"]
        found = f"{best['measure']} {best['value']:.4f}"
        lines.append(f"{'best validation':<20}{found} at step {best['step']}")
    for name, count in summary.get("skipped_examples", {}).items():
        lines.append(f"{name:<20}{count:,} bad examples left out")
    lines.append(
        f"{summary['steps']:,} steps in {summary['seconds']:.0f} s, "
        f"{summary['examples_per_second']:.0f} examples/s; "
        f"pictures in {workdir}/figures, all else in {workdir}"
    )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # run from a source tree that is not installed
    return found


def hardware() -> dict[str, Any]:
    """The accelerators and the processor."""
    devices = jax.devices()
    return {
        "devices": len(devices),
        "processes": jax.process_count(),
        "kind": devices[0].device_kind,
        "platform": devices[0].platform,
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for text in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(path: Path, summary: Mapping[str, Any]) -> None:
    """Writes summary.json."""
    write_text(path, json.dumps(summary, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"summary cannot hold a {type(value).__name__}")
