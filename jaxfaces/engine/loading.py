"""A trained run, ready for a notebook."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxfaces.engine import variables as variables_lib
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.rundir import RunDir


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `load` gives back.

    Attributes:
      task: the task with its hyper-parameters.
      apply: `(variables, batch) -> outputs`, pure; the task's `predict`.
      variables: nested dictionaries of arrays.
      step: at which step of the run they were taken.
      classes: names of the classes that it was trained on, by label; () where they
        have none.
    """

    task: Any
    apply: Callable[[Any, Mapping[str, Any]], Any]
    variables: Any
    step: int
    classes: tuple[str, ...] = ()


def load(
    workdir: Path | str,
    *,
    best: bool = False,
    seed: int = 0,
    task_class: type | None = None,
) -> Trained:
    """Loads a finished or running run; needs neither its data nor its optimiser.

    Args:
      workdir: the run directory, or one of its .safetensors files alone.
      best: the variables of the best validation measure instead of the newest.
      seed: which of several parallel seeds, counted from 0.
      task_class: the task's dataclass, where it was defined in a notebook and cannot be
        imported by name, or where one file names a module that is not imported.

    Returns:
      Task, apply function and variables.

    Raises:
      RunError: there is no run, or its files are missing or damaged.
    """
    path = Path(workdir)
    if path.suffix == ".safetensors":
        if best or seed:
            raise RunError(f"{path} is one file; name that of the best, or of the seed")
        loaded, metadata = variables_lib.load(path)
        task = variables_lib.task_of(path, metadata, task_class)
    else:
        folder = RunDir(path)
        task, _ = folder.read(task_class)
        path = folder.params(seed, best=best)
        loaded, metadata = variables_lib.load(path)
    arrays = jax.tree.map(jax.numpy.asarray, loaded)
    step = variables_lib.step_of(path, metadata)
    classes = variables_lib.classes_of(path, metadata)
    return Trained(task, task.predict, arrays, step, classes)
