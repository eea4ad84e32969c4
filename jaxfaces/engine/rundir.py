"""A run directory: what it holds, and whether a command may go on with it."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfaces import registry
from jaxfaces.data.streams import Stream, column_types
from jaxfaces.engine import commandline, config, flagfiles
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.files import remove_torn, replacing, write_text
from jaxfaces.engine.options import Options

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


@dataclasses.dataclass(frozen=True)
class RunDir:
    """Names of the files of a run."""

    folder: Path

    @property
    def flags(self) -> Path:
        """The resolved flags: a flagfile that repeats the run."""
        return self.folder / "flags.cfg"

    @property
    def checkpoints(self) -> Path:
        """Orbax checkpoints, one folder a step."""
        return self.folder / "checkpoints"

    @property
    def figures(self) -> Path:
        """Pictures of the last evaluation."""
        return self.folder / "figures"

    @property
    def sizes(self) -> Path:
        """(examples, classes) of the training streams."""
        return self.folder / "sizes.json"

    @property
    def inputs(self) -> Path:
        """Digests of the files that flags name."""
        return self.folder / "inputs.json"

    @property
    def columns(self) -> Path:
        """Type and shape of one row of each column that prediction may read."""
        return self.folder / "columns.json"

    @property
    def summary(self) -> Path:
        """Final measures, seed, versions, hardware, time."""
        return self.folder / "summary.json"

    def params(self, seed: int = 0, *, best: bool = False) -> Path:
        """Inference variables of the last (or best) state of the n-th parallel seed."""
        name = "params_best" if best else "params"
        return self.folder / f"{name}{f'_{seed}' if seed else ''}.safetensors"

    def text(self, name: str, seed: int = 0) -> Path:
        """A text file of the task, of the n-th parallel seed."""
        path = self.folder / name
        return path.with_stem(f"{path.stem}_{seed}") if seed else path

    @property
    def classwise(self) -> Path:
        """The last measures class by class, arrays (seeds, classes) by name."""
        return self.folder / "classwise.npz"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint; until then every flag may still change."""
        if not self.checkpoints.exists():
            return False
        return any(path.name.isdigit() for path in self.checkpoints.iterdir())

    def make(self) -> None:
        """Makes the directory.

        Raises:
          RunError: it cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"--workdir={self.folder} cannot be written: {error}"
            ) from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Says what to do when the disk gives up meanwhile.

        Raises:
          RunError: the disk is full, has failed or became read-only.
        """
        try:
            yield
        except OSError as error:
            ours = str(error.filename or "").startswith(str(self.folder))
            if error.errno not in _DISK_ERRORS and not ours:
                raise
            raise RunError(
                f"--workdir={self.folder} cannot be written any more: {error}. What "
                "was saved is whole; make room, then give the same command to go on"
            ) from error

    def open(self, task: Any, options: Options) -> tuple[Any, Options]:
        """Begins a run in the directory, or checks that the one in it is this one.

        Returns:
          The task and options to go on with: as given, but where `steps` was raised the
          schedules keep the length with which they began.

        Raises:
          RunError: the directory holds something else, or a flag differs that may not.
        """
        if self.flags.exists():
            if self.begun:
                task, options = self._continue(task, options)
        elif any(p for p in self.folder.iterdir() if not p.name.startswith(".")):
            raise RunError(
                f"--workdir={self.folder} is not empty and holds no run "
                "(no flags.cfg); choose another folder"
            )
        for place in (self.folder, self.figures):
            remove_torn(place)
        comment = f"python -m jaxfaces.train {shlex.join(sys.argv[1:])}"
        with replacing(self.flags) as temporary:
            commandline.write_flagfile(temporary, comment, task, options)
        return task, options

    def finished(self, saved: Sequence[int], steps: int) -> dict[str, Any] | None:
        """The summary, if the run has one and it is of its last step."""
        if not self.summary.exists() or not saved or saved[-1] < steps:
            return None
        try:
            summary = json.loads(self.summary.read_text(encoding="utf-8"))
            whole = summary["steps"] == steps and "measures" in summary
        except (ValueError, LookupError, TypeError, RecursionError):
            return None  # damaged: the last checkpoint gives it again
        return summary if whole else None

    def read(self, task_class: type | None = None) -> tuple[Any, Options]:
        """The task and options of the run.

        Args:
          task_class: the task's dataclass, where it cannot be found by its name (one
            that was defined in a notebook).

        Raises:
          RunError: there is no run here, or its flags cannot be read.
        """
        if not self.flags.exists():
            raise RunError(f"--workdir={self.folder} holds no run (no flags.cfg)")
        try:
            return self._read(task_class)
        except commandline.UsageError as error:
            raise RunError(f"{self.flags} cannot be read: {error}") from error

    def _read(self, task_class: type | None) -> tuple[Any, Options]:
        configs = {"options": Options()}
        if task_class is not None:
            lines = flagfiles.expand([f"--flagfile={self.flags}"])
            try:
                built, task = commandline.read_lines(lines, configs, task_class)
            except commandline.UsageError as error:
                named = [line for line in lines if line.startswith("--task=")]
                if named in ([], [f"--task={registry.name_of(task_class)}"]):
                    raise
                raise RunError(
                    f"--workdir={self.folder} holds a run of another task, "
                    f"{', '.join(named)}; give another folder"
                ) from error
        else:
            built, task = commandline.read_flagfile(self.flags, configs)
        return task, built["options"]

    def _continue(self, task: Any, options: Options) -> tuple[Any, Options]:
        old_task, old_options = self.read(type(task))
        options = config.replace(
            options,
            {"schedule_steps": options.schedule_steps or old_options.schedule_steps},
        )
        if task.steps > old_task.steps:
            length = old_options.schedule_steps or old_task.steps
            options = config.replace(options, {"schedule_steps": length})
            old_options = config.replace(old_options, {"schedule_steps": length})
            old_task = config.replace(old_task, {"steps": task.steps})
        changed = [
            f"--{knob.flag} was {knob.format(old)}, is {knob.format(new)}"
            for knob, old, new in config.differences(old_task, task)
            + config.differences(old_options, options)
            if not knob.runtime
        ]
        if changed:
            raise RunError(
                f"{self.folder} holds a run with other flags: {'; '.join(changed)}. "
                "Give the same flags to resume it, or another --workdir"
            )
        return task, options

    def settle_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Saves the sizes of the streams, or checks that they are as they were.

        Raises:
          RunError: the data has changed since the run began.
        """
        now = {name: list(pair) for name, pair in sizes.items()}
        then = self._settled(self.sizes, now)
        if then != now:
            raise RunError(
                f"the data changed since {self.folder} was begun: streams had "
                f"(examples, classes) {then}, now {now}"
            )

    def settle_inputs(self, inputs: Mapping[str, Path]) -> None:
        """Saves digests of files that flags name, or checks that they are as they were.

        Args:
          inputs: the files by flag.

        Raises:
          RunError: a file has changed since the run began.
        """
        now = {}
        for flag, path in inputs.items():
            try:
                content = path.read_bytes()
            except OSError as error:
                raise RunError(f"--{flag}={path} cannot be read: {error}") from error
            now[flag] = hashlib.blake2b(content, digest_size=16).hexdigest()
        then = self._settled(self.inputs, now)
        for flag, digest in now.items():
            if then.get(flag) != digest:
                raise RunError(
                    f"--{flag}={inputs[flag]} changed since {self.folder} was begun; "
                    "put the old file back, or give another --workdir"
                )

    def _settled(self, path: Path, now: dict[str, Any]) -> dict[str, Any]:
        """What a file of a begun run holds; in a new one, writes it."""
        if self.begun and path.exists():
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError) as error:
                raise RunError(
                    f"{path} is damaged ({error}); remove it to go on with the "
                    f"data as they are now, {now}"
                ) from error
        write_text(path, json.dumps(now, indent=2) + "\n")
        return now

    def note_columns(self, streams: Mapping[str, Stream]) -> None:
        """Saves what a batch of the first stream looks like, for use without data."""
        if not (self.begun and self.columns.exists()):
            types = column_types(next(iter(streams.values())))
            write_text(self.columns, json.dumps(types, indent=2) + "\n")
