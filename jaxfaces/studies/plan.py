"""What a study compares: arms, seeds, budgets, read from flags before anything runs."""

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfaces.engine import commandline, flagfiles
from jaxfaces.engine.errors import RunError, UsageError
from jaxfaces.engine.options import Options, smoke
from jaxfaces.studies import command_words
from jaxfaces.studies import contrasts as contrasts_lib
from jaxfaces.studies.contrasts import Contrast
from jaxfaces.studies.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][\w+.-]{0,63}")
RESERVED = ("tuning",)  # folders beside those of the arms
OWN = ("seed", "parallel_seeds", "workdir", "smoke", "classwise")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the methods compared.

    Attributes:
      name: its name, that of its folder too.
      words: flags of its runs.
      task: the task that they give, of seed 0 where they depend on it.
      options: the options of the engine that they give; the seed is the run's.
      grid: flags to tune and their values.
    """

    name: str
    words: tuple[str, ...]
    task: Any
    options: Options
    grid: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def flags(self) -> dict[str, str]:
        """All flags that can change a result, but for what the study sets itself."""
        lines = commandline.flag_lines(self.task, self.options, runtime=False)
        pairs = (line.removeprefix("--").partition("=")[::2] for line in lines)
        found = {name: value for name, value in pairs if name not in (*OWN, "test")}
        return found | self.by_seed

    @property
    def budget(self) -> dict[str, int | None]:
        """Steps, and the examples that one reads where the task says so."""
        size = getattr(self.task, "examples_per_step", None)
        size = size or getattr(self.task, "batch_size", None)
        return {"steps": self.task.steps, "examples_per_step": size}

    @property
    def by_seed(self) -> dict[str, str]:
        """The flags that have the seed of the run in their value, as they are given."""
        return command_words.by_seed(self.words)

    def of_seed(self, seed: int, *, smoke: bool = False) -> "Arm":
        """The arm of a run: with its seed where a flag's value says {seed}."""
        if not self.by_seed:
            return self
        words = command_words.at_seed(self.words, seed)
        arm = _arm(self.name, words, {}, f"arm {self.name}")
        return _smoked(arm) if smoke else arm

    def changed(self, *words: str, why: str = "") -> "Arm":
        """The same with further flags.

        Raises:
          UsageError: they cannot be; the message names the arm.
        """
        where = f"arm {self.name}{why}"
        return _arm(self.name, (*self.words, *words), self.grid, where)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study.

    Attributes:
      settings: its own flags.
      arms: what is compared.
      command: the words that repeat it.
    """

    settings: Settings
    arms: tuple[Arm, ...]
    command: tuple[str, ...]

    @property
    def workdir(self) -> Path:
        """Folder of the runs."""
        return Path(self.settings.workdir)

    @property
    def name(self) -> str:
        """Name of the result's files."""
        return self.settings.name or self.workdir.resolve().name

    @property
    def reference(self) -> str:
        """Name of the reference arm."""
        return self.settings.reference or self.arms[0].name

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Sums of arms to test beside the differences to the reference."""
        names = [arm.name for arm in self.arms]
        return contrasts_lib.parse(self.settings.contrasts, names)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the final runs."""
        return self.settings.seeds[: 1 if self.settings.smoke else None]

    @property
    def primary(self) -> tuple[float, str]:
        """Sign (1 where larger is better) and name of the primary measure."""
        from jaxfaces.engine.evaluation import parse_monitor  # imports jax

        return parse_monitor(self.settings.primary or self.arms[0].task.monitor)

    @property
    def measures(self) -> list[str]:
        """What the table shows, the primary measure first."""
        return list(dict.fromkeys((self.primary[1], *self.settings.measures)))


def read(words: Sequence[str]) -> Plan:
    """Reads a study from the words of a command line.

    Raises:
      UsageError: a flag of the study or of an arm is wrong; the message names the arm.
    """
    own, arms, tune, shared = command_words.divided(flagfiles.expand(words))
    built, _ = commandline.parse(own, {"study": Settings()}, with_task=False)
    settings = built["study"]
    if not settings.workdir:
        raise UsageError("--workdir=FOLDER is missing")
    if not arms:
        raise UsageError("a study needs --arm=NAME with its flags, one or more")
    grid = dict(command_words.grid(text, "--tune") for text in tune)
    found = tuple(_read_arm(text, shared, grid, settings) for text in arms)
    plan = Plan(settings, found, command_words.repeating(words))
    _check(plan)
    return plan


def _read_arm(
    text: str, shared: Sequence[str], grid: Mapping, settings: Settings
) -> Arm:
    try:
        name, *words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--arm={text!r} cannot be read: {error}") from error
    if not NAME.fullmatch(name) or name in RESERVED:
        raise UsageError(
            f"an arm cannot be called {name!r}: letters, digits and _ + . - are "
            f"allowed, {', '.join(RESERVED)} is not (--arm=NAME --flag=value ...)"
        )
    own, nested, tune, words = command_words.divided(words)
    if own or nested:
        raise UsageError(f"arm {name}: {(own or ['--arm'])[0]} is a flag of the study")
    tuned = {**grid, **dict(command_words.grid(text, f"arm {name}") for text in tune)}
    test = f"--test={'true' if settings.split == 'test' else 'false'}"
    arm = _arm(name, (*shared, *words, test), tuned, f"arm {name}")
    return _smoked(arm) if settings.smoke else arm


def _smoked(arm: Arm) -> Arm:
    try:
        task, options = smoke(arm.task, arm.options)
    except RunError as error:
        raise UsageError(f"arm {arm.name}: {error}") from error
    return dataclasses.replace(arm, task=task, options=options, grid={})


def _arm(name: str, words: tuple[str, ...], grid: Mapping, where: str) -> Arm:
    try:
        given = map(command_words.flag_of, flagfiles.expand(words))
        taken = set(given) & set(OWN)
        if taken:
            raise UsageError(f"--{min(taken)} is set by the study")
        parsed = command_words.at_seed(words, 0)
        built, task = commandline.parse(parsed, {"options": Options()})
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return Arm(name, words, task, built["options"], grid)


def _check(plan: Plan) -> None:
    """Raises UsageError where the arms do not fit each other or the study."""
    settings, names = plan.settings, [arm.name for arm in plan.arms]
    _check_apart(plan)
    if plan.reference not in names:
        raise UsageError(f"--reference={plan.reference} is none of {', '.join(names)}")
    if not NAME.fullmatch(plan.name):
        raise UsageError(f"--name={plan.name!r} does not do as the name of a file")
    contrasts_lib.parse(settings.contrasts, names)
    try:
        primary = plan.primary[1]
    except RunError as error:
        raise UsageError(f"--primary: {error}") from error
    for arm in plan.arms:
        if not settings.primary and arm.task.monitor != plan.arms[0].task.monitor:
            raise UsageError("the arms' tasks have several monitors: give --primary")
        needs = settings.split == "validation" or arm.grid
        if needs and not arm.options.eval_every:
            raise UsageError(
                f"arm {arm.name}: {primary} of validation needs eval_every"
            )
        if arm.by_seed and settings.seeds_at_once > 1:
            raise UsageError(
                f"arm {arm.name}: a flag with {command_words.SEED} in it cannot serve "
                f"several seeds at once: --seeds_at_once={settings.seeds_at_once} must "
                "be 1"
            )
    _check_budgets(plan)
    shared = set(settings.seeds) & set(settings.tune_seeds)
    if any(arm.grid for arm in plan.arms) and shared:
        raise UsageError(f"--tune_seeds and --seeds share {sorted(shared)}")
    chunks(plan.seeds, settings.seeds_at_once)


def _check_apart(plan: Plan) -> None:
    """Raises UsageError where two arms have one name or are the same."""
    names: set[str] = set()
    flags: dict[str, str] = {}
    for arm in plan.arms:
        if arm.name in names:
            raise UsageError(f"two arms are called {arm.name}")
        what = json.dumps([arm.flags, arm.grid], sort_keys=True)
        # As on a command line where an arm was not quoted.
        if what in flags and not plan.settings.smoke:
            raise UsageError(f"arms {flags[what]} and {arm.name} have the same flags")
        names.add(arm.name)
        flags[what] = arm.name


def _check_budgets(plan: Plan) -> None:
    """Raises UsageError where the arms' budgets differ and may not."""
    budgets = {arm.name: arm.budget for arm in plan.arms}
    if len({tuple(b.values()) for b in budgets.values()}) > 1:
        if not plan.settings.unequal_budgets:
            raise UsageError(
                "the arms differ in their budgets: "
                + ", ".join(f"{name} {words(b)}" for name, b in budgets.items())
                + ". Make them equal, or give --unequal_budgets"
            )


def words(budget: Mapping[str, Any]) -> str:
    """A budget in words."""
    size = budget["examples_per_step"]
    steps = f"{budget['steps']:,} steps"
    return f"{steps} of {size:,} examples" if size else steps


def chunks(seeds: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Seeds in groups that are trained at once.

    Raises:
      UsageError: those of a group do not follow each other.
    """
    found = [tuple(seeds[i : i + size]) for i in range(0, len(seeds), size)]
    for group in found:
        if list(group) != list(range(group[0], group[0] + len(group))):
            raise UsageError(f"--seeds_at_once={size} needs consecutive --seeds")
    return found
