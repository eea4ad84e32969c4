"""The flags of a study itself."""

import dataclasses

from jaxfaces.engine.config import knob


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of a study."""

    workdir: str = knob("", "Folder of the study's runs; shared by its processes.")
    name: str = knob("", "Name of the files of the result; empty is that of --workdir.")
    title: str = knob("", "Heading of the result; empty is its name.")
    primary: str = knob(
        "",
        "The measure that the study is about, as max:NAME or min:NAME; empty is the "
        "task's monitor.",
    )
    measures: tuple[str, ...] = knob((), "Further measures to show.")
    split: str = knob("test", "What is measured.", choices=("test", "validation"))
    seeds: tuple[int, ...] = knob((0, 1, 2, 3, 4), "Seeds of every arm.", lower=0)
    reference: str = knob("", "Arm that the others are compared with; empty: first.")
    contrasts: tuple[str, ...] = knob(
        (), "Sums of arms to test too, each NAME: ARM - ARM + ARM."
    )
    percent: bool = knob(True, "Print measures times 100.")
    plain: tuple[str, ...] = knob(
        (), "Those of --measures that --percent leaves as they are."
    )
    unequal_budgets: bool = knob(
        False, "Let arms differ in steps or batch size; the table says so."
    )
    seeds_at_once: int = knob(
        1, "Seeds trained in one process on shared batches.", lower=1, upper=1024
    )
    tune_trials: int = knob(
        0, "Trials of each arm, drawn from its grid; 0 is the whole grid.", lower=0
    )
    tune_seeds: tuple[int, ...] = knob(
        (1000,), "Seeds of the trials; none of --seeds.", lower=0
    )
    tune_steps: int = knob(0, "Steps of a trial; 0 is those of the arm.", lower=0)
    out: str = knob("docs/results", "Folder of the result.", runtime=True)
    dry_run: bool = knob(
        False, "Show arms, runs left and predicted time, and end.", runtime=True
    )
    retry_failed: bool = knob(False, "Try failed runs again.", runtime=True)
    wait: bool = knob(
        True,
        "Wait for the runs that other processes hold, to take over what they leave.",
        runtime=True,
    )
    smoke: bool = knob(False, "Two steps on made-up data, one seed, to try a flagfile.")

    def __post_init__(self) -> None:
        """Checks what one knob cannot."""
        for name in self.plain:
            if name not in self.measures:
                raise ValueError(f"--plain={name} is not among --measures")
        for flag, seeds in (("seeds", self.seeds), ("tune_seeds", self.tune_seeds)):
            if not seeds or len(set(seeds)) < len(seeds):
                raise ValueError(f"--{flag} must be some different seeds, got {seeds}")
