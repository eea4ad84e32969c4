"""What the engine itself can be told, the same for every task."""

import dataclasses
from typing import Any

from jaxfaces.engine.config import knob, replace
from jaxfaces.engine.errors import RunError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a run that are not its task's."""

    seed: int = knob(
        0, "Seed of initial parameters, of every random draw and of the data.", lower=0
    )
    data_seed: int = knob(-1, "Seed of the order of the data; -1 is --seed.", lower=-1)
    parallel_seeds: int = knob(
        1,
        "Train this many seeds at once, from --seed on, on shared batches.",
        lower=1,
        upper=1024,
    )
    devices: int = knob(0, "How many devices share a batch; 0 is all.", lower=0)
    shard_state: str = knob(
        "replicated",
        "The state whole on every device, or full: parameters and optimiser state "
        "split over the devices.",
        choices=("replicated", "full"),
        runtime=True,
    )
    schedule_steps: int = knob(
        0,
        "Length of the schedules; 0 is --steps. Kept when --steps of a run is raised.",
        lower=0,
    )
    init_from: str = knob("", "FILE.safetensors of another run to start from.")
    init_skip: tuple[str, ...] = knob(
        (), "Variables that --init_from leaves fresh, by name or part of it: head."
    )
    eval_every: int = knob(
        500, "Steps between evaluations of the validation split; 0 is never.", lower=0
    )
    checkpoint_every: int = knob(500, "Steps between checkpoints.", lower=1)
    on_nan: str = knob(
        "stop",
        "At a step whose metrics are not finite: stop, or leave the step out.",
        choices=("stop", "skip"),
        runtime=True,
    )
    nan_patience: int = knob(
        10, "Steps in a row that --on_nan=skip leaves out.", lower=1, runtime=True
    )
    deterministic: bool = knob(
        False,
        "Make runs on a GPU equal bit for bit; slower (they are on a CPU anyway).",
    )
    test: bool = knob(False, "Measure the test split too, once, after the last step.")
    classwise: bool = knob(
        False,
        "Write the last measures class by class too, where the task has them: to "
        "classwise.npz.",
        runtime=True,
    )
    log_every: int = knob(50, "Steps between lines of the log.", lower=1, runtime=True)
    keep: int = knob(
        2, "Newest checkpoints to keep, beside the best.", lower=1, runtime=True
    )
    resume: str = knob(
        "newest",
        "Where the newest checkpoint is damaged: stop, or take the latest good one.",
        choices=("newest", "latest_good"),
        runtime=True,
    )
    workers: int = knob(
        0,
        "Processes that read data; 0 reads in threads, as data in memory always is.",
        lower=0,
        upper=256,
        runtime=True,
    )
    threads: int = knob(2, "Threads that read data.", lower=1, upper=256, runtime=True)
    prefetch: int = knob(4, "Batches to read ahead.", lower=1, upper=1024, runtime=True)
    resident: str = knob(
        "auto",
        "Keep training data that are in memory on the devices and send a step row "
        "numbers alone; auto: where a quarter of an accelerator's memory holds them.",
        choices=("auto", "on", "off"),
        runtime=True,
    )
    compile_cache: str = knob(
        "", "Folder that keeps compiled programs between runs.", runtime=True
    )
    profile: str = knob(
        "", "START:COUNT writes a trace of COUNT steps from START.", runtime=True
    )
    quiet: bool = knob(False, "Print nothing but errors.", runtime=True)

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        if self.init_skip and not self.init_from:
            raise ValueError("--init_skip needs --init_from=FILE.safetensors")
        if self.profile:
            start, _, count = self.profile.partition(":")
            if not (start.isdecimal() and count.isdecimal() and int(count) > 0):
                raise ValueError(
                    f"--profile must be START:COUNT, two whole numbers such as 20:5, "
                    f"got {self.profile!r}"
                )

    @property
    def patience(self) -> int | None:
        """Bad steps in a row that are left out; None stops at the first."""
        return self.nan_patience if self.on_nan == "skip" else None

    @property
    def stream_seed(self) -> int:
        """The seed that the order of the data follows."""
        return self.seed if self.data_seed < 0 else self.data_seed


def smoke(task: Any, options: Options) -> tuple[Any, Options]:
    """The run of two steps on made-up data that `--smoke` stands for.

    Raises:
      RunError: the task has no such form.
    """
    if not hasattr(task, "smoke"):
        raise RunError(f"--smoke: {type(task).__name__} has no smoke()")
    every = {"eval_every": 2, "checkpoint_every": 1, "log_every": 1}
    return replace(task.smoke(), {"steps": 2}), replace(options, every)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How this process finds the others of its run; kept by no run directory."""

    distributed: bool = knob(
        False,
        "One of several processes of one run, as SLURM, Open MPI, Kubernetes or a TPU "
        "pod describes them.",
    )
    coordinator: str = knob(
        "", "HOST:PORT of process 0, where nothing describes the processes."
    )
    processes: int = knob(0, "How many processes, with --coordinator.", lower=0)
    process: int = knob(
        -1, "Number of this process from 0, with --coordinator.", lower=-1
    )
    join_seconds: int = knob(
        300, "How long to wait for the others to start.", lower=1, upper=86_400
    )
    heartbeat_seconds: int = knob(
        100,
        "After how long a silent process counts as dead, and all stop.",
        lower=2,
        upper=86_400,
    )

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        given = bool(self.coordinator), self.processes > 0, self.process >= 0
        if any(given) and not all(given):
            raise ValueError(
                "--coordinator=HOST:PORT, --processes=N and --process=I belong together"
            )
        if not self.coordinator:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(
                f"--coordinator must be HOST:PORT, got {self.coordinator!r}"
            )
        if self.process >= self.processes:
            raise ValueError(
                f"--process={self.process} must be less than "
                f"--processes={self.processes}"
            )
