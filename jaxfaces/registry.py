"""The tasks by name: where each lives and what it does. Imports none of them."""

import dataclasses
import difflib
import importlib
import sys

TASKS = {
    "classification": (
        "jaxfaces.tasks.classification:Classification",
        "images told apart by class: augmentation policies, mixing, reduced sets",
    ),
    "policy_search": (
        "jaxfaces.tasks.policy_search:PolicySearch",
        "a search for an augmentation policy beside a network's training (DADA)",
    ),
    "retrieval": (
        "jaxfaces.tasks.retrieval:Retrieval",
        "embeddings for image retrieval: ranked list loss, contrastive loss",
    ),
    "video_retrieval": (
        "jaxfaces.tasks.video_retrieval:VideoRetrieval",
        "people found again in video: frame attention, soft mining over tracklets",
    ),
}


def find(name: str) -> type:
    """The dataclass of a task, by registered name or as `module:Class`.

    Raises:
      ValueError: there is no such task.
    """
    location = TASKS[name][0] if name in TASKS else name
    module, colon, attribute = location.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, TASKS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"--task={name!r} is none of: {', '.join(TASKS)}{hint} "
            "(a task of your own is named module:Class)"
        )
    try:
        task = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module does when it is imported
        if name in TASKS:
            raise
        raise ValueError(f"--task={name!r} cannot be found: {error!r}") from error
    fitting = isinstance(task, type) and dataclasses.is_dataclass(task)
    if not fitting or not hasattr(task, "streams"):
        raise ValueError(f"--task={name!r} is no task (docs/adding_a_task.md)")
    return task


def known(name: str) -> type:
    """What `find` gives, but no module is imported for a name that is not registered.

    For names that come from a file, which may be anybody's.

    Raises:
      ValueError: there is no such task, or its module was not imported.
    """
    module = name.partition(":")[0]
    if name not in TASKS and ":" in name and module not in sys.modules:
        raise ValueError(
            f"the task {name!r} is none of: {', '.join(TASKS)}, and a file says not "
            f"what to import: load its run directory, or import {module} or give "
            "task_class= where you trust it"
        )
    return find(name)


def name_of(cls: type) -> str:
    """The name that `find` maps to `cls`."""
    location = f"{cls.__module__}:{cls.__qualname__}"
    for name, (registered, _) in TASKS.items():
        if registered == location:
            return name
    return location
