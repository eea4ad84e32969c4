"""Times the start of a training, from the command to its first finished step.

python tests/benchmarks/startup.py [--repeats N] [--out FILE]

Runs `jaxfaces.train` on a flagfile for one step in processes of their own: without a
compilation cache, and with one that an earlier run has filled. Seconds of wall and of
processor (both cores) by part of the start; medians over the repeats. The parts follow
one another, but a thread that compiles ahead works beside several of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

FLAGFILE = "configs/quickstart.cfg"
# jax's own clocks, added up over all programs.
EVENTS = {
    "jaxpr_trace_duration": "trace",
    "jaxpr_to_mlir_module_duration": "lower",
    "backend_compile_duration": "compile",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flagfile", default=FLAGFILE)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=argparse.REMAINDER, help="run the command")
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        start(args.flagfile, Path(folder), cache)  # fills the cache, warms the disk
        runs: dict[str, list[dict]] = {"cold": [], "warm": []}
        for _ in range(args.repeats):
            runs["cold"].append(start(args.flagfile, Path(folder), None))
            runs["warm"].append(start(args.flagfile, Path(folder), cache))
    for name, each in runs.items():
        results[name] = medians(each)
        show(name, results[name])
    report = {
        **machine.heading("jax", "jaxlib", "flax", "orbax-checkpoint", "grain"),
        "flagfile": args.flagfile,
        "repeats": args.repeats,
        "median": results,
        "runs": runs,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def start(flagfile: str, folder: Path, cache: Path | None) -> dict:
    """One start in a process of its own: seconds by part, and jax's own clocks."""
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        flags = [f"--flagfile={flagfile}", f"--workdir={workdir}/run", "--steps=1"]
        flags += ["--test=false", "--quiet"]
        flags += [f"--compile_cache={cache or ''}"]
        began = time.time()
        command = [sys.executable, __file__, "--child", *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    last_wall, last_processor = began, 0.0
    parts = {}
    for name, wall, processor in found["marks"]:
        mark = [wall - last_wall, processor - last_processor]
        parts[name] = [a + b for a, b in zip(parts.get(name, [0.0, 0.0]), mark)]
        last_wall, last_processor = wall, processor
    parts["first step done"] = [last_wall - began, last_processor]
    return {"parts": parts, "jax": found["jax"]}


def child(flags: list[str]) -> None:
    """Runs the trainer's command until its first step is done; prints the marks."""
    marks: list[tuple[str, float, float]] = []
    clocks: dict[str, list[float]] = {name: [0, 0.0] for name in EVENTS.values()}

    def mark(name: str) -> None:
        marks.append((name, time.time(), time.process_time()))

    def after(owner: object, attribute: str, name: str) -> None:
        """What passed since the last mark until `owner.attribute` returns is `name`."""
        inner = getattr(owner, attribute)

        def wrapped(*args, **kwargs):
            mark("the rest")
            result = inner(*args, **kwargs)
            mark(name)
            return result

        setattr(owner, attribute, wrapped)

    def count(event: str, seconds: float, **_: object) -> None:
        name = EVENTS.get(event.rpartition("/")[2])
        if name:
            clocks[name][0] += 1
            clocks[name][1] += seconds

    from jaxfaces import registry, train
    from jaxfaces.engine import commandline

    mark("import the command")
    after(commandline, "parse", "import the task, read flags")
    import jax

    registry.find("retrieval")
    mark("import the task, read flags")
    jax.monitoring.register_event_duration_secs_listener(count)
    from jaxfaces.engine import (
        assembly,
        checkpoints,
        evaluation,
        loop,
        program,
        report,
    )

    mark("import the loop")
    after(checkpoints.Checkpoints, "__init__", "open the run directory")
    after(assembly, "assemble", "data and phases")
    if hasattr(assembly.Assembly, "compile_ahead"):
        after(assembly.Assembly, "template", "trace")
        after(assembly.Assembly, "compile_ahead", "trace")
    after(assembly.Assembly, "start", "first state")
    after(evaluation, "measure", "first evaluation")
    after(evaluation, "draw", "figures")
    after(report, "draw", "figures")
    after(loop._Run, "_save", "checkpoint")
    step = program.Program.step

    def first_step(*args, **kwargs):
        mark("first batch")
        *_, token = step(*args, **kwargs)
        token.block_until_ready()
        mark("first step")
        print(json.dumps({"marks": marks, "jax": clocks}), flush=True)
        os._exit(0)

    program.Program.step = first_step
    train.main(flags)


def medians(runs: list[dict]) -> dict:
    return {
        kind: {
            name: [
                round(statistics.median(run[kind][name][i] for run in runs), 3)
                for i in range(2)
            ]
            for name in runs[0][kind]
        }
        for kind in ("parts", "jax")
    }


def show(name: str, found: dict) -> None:
    print(f"{name:<32}{'wall s':>8}{'cpu s':>8}")
    for part, (wall, processor) in found["parts"].items():
        print(f"  {part:<30}{wall:8.2f}{processor:8.2f}")
    for clock, (times, seconds) in found["jax"].items():
        print(f"  jax: {clock:<25}{seconds:8.2f}  {times:.0f} times")


if __name__ == "__main__":
    main()
