"""Everything a run is made of, put together from a task and options."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfaces.data.streams import Stream, ordered
from jaxfaces.engine import config, mesh, reader
from jaxfaces.engine import resident as resident_lib
from jaxfaces.engine.checkpoints import Checkpoints
from jaxfaces.engine.errors import CheckpointError, OtherProgramError, RunError
from jaxfaces.engine.options import Options
from jaxfaces.engine.program import Program
from jaxfaces.engine.rundir import RunDir
from jaxfaces.engine.timeline import Timeline

# How often a reader follows a run that replaces its checkpoints meanwhile.
READINGS = 20
# Seconds in which a deletion that has begun ends: files go first, their folder last.
DELETION = 0.2


@dataclasses.dataclass(frozen=True)
class Assembly:
    """A task with its data, its phases and its compiled programs."""

    task: Any
    options: Options
    streams: Mapping[str, Stream]
    sizes: Mapping[str, tuple[int, int]]
    timeline: Timeline
    program: Program

    def first_batch(self) -> Any:
        """The first batch of every training stream, on the devices."""
        return mesh.put(self.program.mesh, self._first_host_batch)

    @functools.cached_property
    def _first_host_batch(self) -> Any:
        return reader.first_batch(self.timeline, self.streams)

    @functools.cached_property
    def resident(self) -> Mapping[str, Stream]:
        """The training streams that lie on the devices; all processes ask together.

        Raises:
          RunError: `--resident=on` asks for one that cannot.
        """
        read = {name: self.streams[name] for name in self.timeline.reads(0)}
        return resident_lib.chosen(read, self.options.resident, self.program.mesh)

    def evaluation_streams(self, split: str) -> Mapping[str, Stream]:
        """The streams of a split, each swept once in order; {} where there are none."""
        streams = self.task.streams(split, self.options.stream_seed)
        if split != "train":
            return streams
        return {name: ordered(stream) for name, stream in streams.items()}

    def start(self) -> dict[str, Any]:
        """What a checkpoint holds, before any step."""
        return self.program.start(self.first_batch(), self.timeline.phases)

    def template(self) -> dict[str, Any]:
        """Shapes, types and places of what a checkpoint holds; makes no state."""
        return self.program.like(self.first_batch(), self.timeline.phases)

    def compile_ahead(self, step: int, template: Mapping[str, Any]) -> None:
        """Begins to compile, in a thread, what step number `step` will need."""
        phase, _ = self.timeline.at(step)
        # Given as the steps will be: a program for batches on the devices is another.
        fed = mesh.feed(self.program.mesh, self._first_host_batch)
        put = self.first_batch() if self.resident else {}
        given = {n: (put if n in self.resident else fed)[n] for n in phase.streams}
        self.program.compile_ahead(phase, template, given)


def assemble(
    task: Any, options: Options, *, warn: Callable[[str], None] = lambda _: None
) -> Assembly:
    """Puts a run together.

    Args:
      task: a task; its `steps` is the length of the run.
      options: the engine's options.
      warn: gets one line for each thing the user should know.

    Raises:
      RunError: the task has no training streams, or a phase reads one that it has not.
    """
    steps = task.steps
    if options.schedule_steps:
        task = config.replace(task, {"steps": options.schedule_steps})
    streams = task.streams("train", options.stream_seed)
    if not streams:
        raise RunError("the task has no training data")
    sizes = {name: (s.examples, s.classes) for name, s in streams.items()}
    timeline = Timeline(task.phases(sizes), steps)
    missing = set(timeline.reads(0)) - set(streams)
    if missing:
        raise RunError(
            f"a phase reads the stream {sorted(missing)[0]!r}; "
            f"the task has {sorted(streams)}"
        )
    program = Program(
        task,
        mesh.make(options.devices),
        sizes,
        seed=options.seed,
        seeds=options.parallel_seeds,
        patience=options.patience,
        deterministic=options.deterministic,
        shard_state=options.shard_state,
        warn=warn,
    )
    return Assembly(task, options, streams, sizes, timeline, program)


def restore(
    workdir: Path | str,
    *,
    checkpoint: str = "last",
    task_class: type | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Assembly, Any, int]:
    """Puts a finished or running run together again, at one of its checkpoints.

    Args:
      workdir: its directory, which is only read.
      checkpoint: "last", "best" or the number of a step.
      task_class: the task's dataclass, where it cannot be imported by its name.
      overrides: flags to change, of those that cannot change a result.

    Returns:
      The assembly, the state and the step.

    Raises:
      CheckpointError: there is no such checkpoint.
    """
    run = RunDir(Path(workdir))
    task, options = run.read(task_class)
    task, options = _override(task, options, overrides or {})
    assembly = assemble(task, options)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step, tree = _read(checkpoints, checkpoint, assembly.template())
        return assembly, tree["state"], step


def _read(checkpoints: Checkpoints, checkpoint: str, template: Any) -> tuple[int, Any]:
    """The chosen step and its tree, though a running run replaces its checkpoints."""
    for _ in range(READINGS):
        steps = checkpoints.steps()
        try:
            step = _choose(checkpoints, steps, checkpoint)
            return step, checkpoints.restore(step, template)
        except OtherProgramError:
            raise  # a newer one would not help
        except CheckpointError as error:
            time.sleep(DELETION)
            if checkpoints.steps() == steps:
                raise
            last = error
    raise CheckpointError(
        f"the run replaces the checkpoints in {checkpoints.folder} faster than they "
        "can be read: try again, or raise its --checkpoint_every or --keep"
    ) from last


def _override(
    task: Any, options: Options, overrides: Mapping[str, Any]
) -> tuple[Any, Options]:
    fixed = {
        k.flag for k in config.knobs(task) + config.knobs(options) if not k.runtime
    }
    fixed -= {"devices"}  # measuring needs no more of them than there are
    changed = fixed & set(overrides)
    if changed:
        raise RunError(
            f"--{sorted(changed)[0]} belongs to the run and cannot be changed"
        )
    mine = {knob.flag for knob in config.knobs(task)}
    own = {k: v for k, v in overrides.items() if k in mine}
    rest = {k: v for k, v in overrides.items() if k not in mine}
    return config.replace(task, own), config.replace(options, rest)


def _choose(checkpoints: Checkpoints, steps: Sequence[int], checkpoint: str) -> int:
    if not steps:
        raise CheckpointError(f"{checkpoints.folder} holds no complete checkpoint")
    if checkpoint == "last":
        return steps[-1]
    if checkpoint == "best":
        best = checkpoints.meta(steps[-1])["best"]
        if best is None:
            raise CheckpointError("no validation measure has chosen a best checkpoint")
        return int(best["step"])
    if checkpoint.isdigit() and int(checkpoint) in steps:
        return int(checkpoint)
    raise CheckpointError(
        f"--checkpoint={checkpoint} must be last, best or one of {steps}"
    )
