"""The contract between the engine and a task.

A task is a frozen dataclass of knobs with the methods of `Task`. The engine knows
nothing else of it: what to train, on what, in which phases, how to measure it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from jaxfaces.data.streams import Stream

Batch = Mapping[str, Mapping[str, Any]]
Sizes = Mapping[str, tuple[int, int]]
# Metrics are pairs (sum, count): they add over steps and over devices.
Metrics = Mapping[str, tuple[Any, Any]]
Step = Callable[[Any, Batch, Any], tuple[Any, Metrics]]
Enter = Callable[[Any, Any], tuple[Any, Metrics]]


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one jitted step.

    Attributes:
      name: unique within a task; its metrics are logged as `name/metric`.
      steps: how many steps it lasts; None, in the last entry only, is the rest.
      step: `(state, batch, key) -> (state, metrics)`, pure; `batch[stream]` has the
        columns of each stream it reads, and `key` depends on (seed, step number) alone.
      streams: names of the streams whose next batch the step gets.
      enter: `(state, key) -> (state, metrics)`, pure, run when the phase begins.
    """

    name: str
    steps: int | None
    step: Step
    streams: Sequence[str] = ("train",)
    enter: Enter | None = None


@dataclasses.dataclass(frozen=True)
class Cycle:
    """Phases repeated in order until the run ends; only as the last entry."""

    phases: Sequence[Phase]


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a task's `predict` gave for files.

    Attributes:
      names: names of the N files, in the order of the rows.
      outputs: pytree of numpy arrays with a row a file.
      read: maps row numbers to the columns of `read_files` again, for pictures of a
        few; raises `DataError` where a file is gone.
      model: digest of the variables that made the outputs, "" where it is not known.
      classes: names of the classes of training by label, () where they have none.
    """

    names: Sequence[str]
    outputs: Any
    read: Callable[[Any], Mapping[str, Any]]
    model: str = ""
    classes: Sequence[str] = ()


class Task(Protocol):
    """What the engine asks of a task.

    `figures`, `texts`, `remarks`, `remedies`, `classwise`, `smoke`, `sharding`,
    `imported` and `inputs` may be left out; so may `examples_per_step`, how many
    examples a step reads, which a study compares between its arms and otherwise takes
    from a knob `batch_size`; so may `with_variables`, for a state made by
    `engine.steps`; so may `read_files` and `write` where `python -m jaxfaces.predict`
    shall not serve the task, and `read_outputs` where it shall search no gallery.
    """

    steps: int
    #: "max:NAME" or "min:NAME": the measure of `evaluate` that chooses the best state.
    monitor: ClassVar[str]
    #: What to try, in words, when a metric of a step is not finite, by its name; the
    #: flags of the optimiser where it is not here. Of several the first by name counts.
    remedies: ClassVar[Mapping[str, str]]

    def streams(self, split: str, seed: int) -> Mapping[str, Stream]:
        """The streams of "train", "validation" or "test"; {} where a split is absent.

        The batches of a stream depend on `seed` and their number alone.
        """

    def init(self, key: Any, batch: Batch, sizes: Sizes) -> Any:
        """The first state: a pytree of all that training learns or remembers.

        `batch` holds the first batch of every training stream, `sizes[name]` the pair
        (examples, classes) of each.
        """

    def phases(self, sizes: Sizes) -> Sequence[Phase | Cycle]:
        """What happens when; the last entry is lengthened or cut to fill `steps`."""

    def inference(self, state: Any) -> Any:
        """The variables that prediction needs: nested dictionaries of arrays."""

    def inputs(self) -> Mapping[str, Path]:
        """Files that flags name and training depends on, by flag: may not change."""

    def with_variables(self, state: Any, variables: Any) -> Any:
        """A first state that starts from what `inference` gave; for `--init_from`."""

    def imported(
        self, fresh: Mapping[str, Any]
    ) -> tuple[Path, Mapping[str, Any]] | None:
        """A file to start from that no run wrote, and variables of it by name.

        `fresh` holds the shapes of all that `inference` gives, by path: "params/w".
        The others stay as initialised; None is no file. Not called to resume.
        """

    def predict(self, variables: Any, batch: Mapping[str, Any]) -> Any:
        """Outputs for one batch of one stream; pure, jitted by the engine."""

    def evaluate(
        self, state: Any, predict: Callable, batches: Mapping[str, Any], sizes: Sizes
    ) -> Mapping[str, float]:
        """Measures of a split. `predict(batch)` is bound to this state's variables.

        `batches[name]` iterates over the host batches of one sweep of that stream.
        """

    def figures(
        self, state: Any, predict: Callable, batches: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Pictures by name: matplotlib figures, PIL images or (H, W[, C]) arrays."""

    def texts(self, state: Any) -> Mapping[str, str]:
        """Text files of the run directory by name, such as {"policy.json": ...}."""

    def remarks(self, state: Any) -> Sequence[str]:
        """What users should be warned of after an evaluation; each is said once."""

    def classwise(
        self, state: Any, predict: Callable, batches: Mapping[str, Any], sizes: Sizes
    ) -> Mapping[str, Any]:
        """Measures of each class of a split by name: arrays (C,), classes in order."""

    def smoke(self) -> "Task":
        """The same task in tiny, on made-up data, for a run of two steps."""

    def sharding(self, state: Any) -> Any:
        """How the state is split: a `PartitionSpec` for each leaf.

        `state` holds shapes; the mesh has the axis "data". Without it `--shard_state`
        decides for all leaves.
        """

    def read_files(self, paths: Sequence[Path], *, max_pixels: int) -> Stream:
        """A user's own files, a row each and in order, decoded as in training.

        Its `read` raises `DataError` for a row that it cannot use; the message says
        why, the engine which. Neither the training data nor the state is at hand.
        """

    def write(
        self,
        predicted: Predicted,
        folder: Path,
        *,
        gallery: Predicted | None,
        format: str,
        neighbours: int,
    ) -> None:
        """Writes outputs to a new folder, as tables and pictures.

        `gallery` is what to compare with, None being the files themselves; `format` is
        "npz" or "parquet"; of `neighbours` 0 stands for none.
        """

    def read_outputs(self, path: Path) -> Predicted:
        """What `write` wrote, for a later gallery; `DataError` where it cannot be."""
