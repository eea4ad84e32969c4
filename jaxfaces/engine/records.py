"""What a run finds out and writes down: measures, the best state, pictures, summary."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfaces.engine import config, distributed, evaluation, report, variables
from jaxfaces.engine.assembly import Assembly
from jaxfaces.engine.files import replacing, write_text
from jaxfaces.engine.logs import Log, Progress, Silence
from jaxfaces.engine.rundir import RunDir


class Records:
    """The records of a run in its directory, written by process 0.

    What they are made of is computed by all processes together.

    Args:
      parts: what is run.
      folder: its directory.
      log: its log, open.
      progress: its progress bar.
      meta: what checkpoints remember beside arrays; brought up to date here.
    """

    def __init__(
        self,
        parts: Assembly,
        folder: RunDir,
        log: Log | Silence,
        progress: Progress,
        meta: dict[str, Any],
    ):
        self.parts, self.folder, self.log = parts, folder, log
        self.progress, self.meta = progress, meta
        self._program, self._options = parts.program, parts.options
        self._writes = distributed.is_main()
        self._said: set[str] = set()
        self.validation = parts.evaluation_streams("validation")
        read = {"train": parts.streams, "validation": self.validation}
        self._left_out = report.left_out(**read)
        if self._writes:
            folder.note_columns(self.validation or parts.streams)
        # Schedules may be shorter than the run, whose flags go into its files.
        self._task = config.replace(parts.task, {"steps": parts.timeline.steps})
        named = (stream.names for stream in parts.streams.values() if stream.names)
        self._classes = next(named, ())

    def evaluate(self, step: int, tree: Mapping[str, Any]) -> None:
        """Measures the validation split, keeps the best parameters, draws pictures."""
        examination = self._examine(tree["state"], self.validation)
        measures = self._measure(examination)
        means = self._log(step, "validation", measures)
        self.meta["measures"] = measures
        if step == 0:
            self.meta["initial"] = measures
        self._compare(step, tree, measures)
        self.progress.say(report.line(step, means))
        self._remarks(tree["state"])
        self._draw(examination, "")
        self._texts(tree["state"])

    def _compare(self, step: int, tree: Mapping[str, Any], measures: list) -> None:
        monitor = self.parts.task.monitor
        sign, name = evaluation.parse_monitor(monitor)
        running = np.atleast_1d(tree["health"].failed) == 0
        chosen = [each for each, runs in zip(measures, running) if runs]
        value = evaluation.monitored(monitor, chosen or measures)
        self.progress.show(**{name: value})
        best = self.meta["best"]
        if np.isfinite(value) and (best is None or sign * value > sign * best["value"]):
            self.meta["best"] = {"step": step, "value": value, "measure": name}
            self.parameters(step, tree["state"], best=True)

    def parameters(self, step: int, state: Any, *, best: bool = False) -> None:
        """Writes the inference variables of every seed."""
        for seed in range(self._program.seeds):
            found = self._program.variables(self._program.state_of(state, seed))
            if self._writes:
                variables.save(
                    self.folder.params(seed, best=best),
                    found,
                    metadata=variables.describe(
                        self._task,
                        self._options,
                        step=step,
                        seed=seed,
                        classes=self._classes,
                    ),
                )

    def finish(self, step: int, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Measures the test split if asked to, and writes the summary."""
        streams = self._test_streams() if self._options.test else {}
        last = self._examine(tree["state"], streams or self.validation)
        test = self._test(step, last, streams) if streams else {}
        if self._options.classwise:
            self._classwise(last)
        self._texts(tree["state"])
        summary = report.summarize(
            self.parts, self.meta, test, tree["health"], self._left_out
        )
        summary |= {"remarks": self._remarks(tree["state"])}
        if self._writes:
            report.draw(self.folder.figures, {}, self.log.records())
            report.write(self.folder.summary, summary)
        return summary

    def _test_streams(self) -> Mapping:
        streams = self.parts.evaluation_streams("test")
        if not streams:
            self.warn("--test is set, but the task has no test split")
        self._left_out |= report.left_out(test=streams)
        return streams

    def _test(
        self, step: int, last: evaluation.Examination, streams: Mapping
    ) -> dict[str, Any]:
        """Measures of the test split for the first state (made again) and the last."""
        found = {}
        if not self.meta["init_from"]:  # by now its file may be another
            first = self._program.init(self.parts.first_batch())
            found["test_initial"] = self._measure(self._examine(first, streams))
        found["test"] = self._measure(last)
        for split, measures in found.items():
            self._log(step, split, measures)
        self._draw(last, "test_")
        return found

    def _classwise(self, last: evaluation.Examination) -> None:
        """Writes the measures of each class of the test split, else of validation."""
        found = last.classwise()
        if found and self._writes:
            with replacing(self.folder.classwise) as path, path.open("wb") as file:
                np.savez(file, allow_pickle=False, **found)

    def _texts(self, state: Any) -> None:
        """Writes the task's text files, of every seed."""
        if not hasattr(self.parts.task, "texts"):
            return
        for seed in range(self._program.seeds):
            found = self.parts.task.texts(self._program.state_of(state, seed))
            for name, text in found.items() if self._writes else ():
                write_text(self.folder.text(name, seed), text)

    def _remarks(self, state: Any) -> list[str]:
        """What the task notices about any seed; warns of each thing once."""
        if not hasattr(self.parts.task, "remarks"):
            return []
        made = [
            line
            for seed in range(self._program.seeds)
            for line in self.parts.task.remarks(self._program.state_of(state, seed))
        ]
        found = list(dict.fromkeys(made))
        for line in found:
            if line not in self._said:
                self.warn(line)
        self._said.update(found)
        return found

    def _examine(self, state: Any, streams: Mapping) -> evaluation.Examination:
        return evaluation.Examination(self._program, state, streams, self._options)

    def _measure(self, examination: evaluation.Examination) -> list[dict[str, float]]:
        # Those of process 0 for all: their last digits may choose the best state.
        return distributed.share(examination.measures())

    def _log(self, step: int, split: str, measures: list) -> dict[str, float]:
        """Logs measures of a split; returns their means over seeds."""
        values = {name: [each[name] for each in measures] for name in measures[0]}
        self.log.write_seeds(step, split, values)
        return {name: float(np.mean(each)) for name, each in values.items()}

    def _draw(self, examination: evaluation.Examination, prefix: str) -> None:
        pictures = examination.figures()
        if not self._writes:
            return
        named = {f"{prefix}{name}": picture for name, picture in pictures.items()}
        report.draw(self.folder.figures, named, [] if prefix else self.log.records())

    def warn(self, line: str) -> None:
        """Prints a warning above the progress bar."""
        self.progress.say(f"warning: {line}")
