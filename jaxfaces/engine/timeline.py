"""Which phase a step belongs to, and which batches it reads."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jaxfaces.engine.task import Cycle, Phase


class Timeline:
    """The phases of a run laid out over its steps, a pure function of the step number.

    Args:
      entries: phases in order; the last may be a Cycle, and is lengthened or cut to
        fill `steps`.
      steps: number of steps of the run, >= 1.

    Raises:
      ValueError: no phases, a name used twice, a Cycle before the end, or a phase of no
        length where one is needed.
    """

    def __init__(self, entries: Sequence[Phase | Cycle], steps: int):
        if not entries:
            raise ValueError("a task needs at least one phase")
        *before, last = entries
        self.steps, self._entries = steps, tuple(entries)
        self._before = [_fixed(phase) for phase in before]
        self._cyclic = isinstance(last, Cycle)
        if isinstance(last, Cycle):
            self._last = [_fixed(phase) for phase in last.phases]
        else:
            self._last = [last]
        self.phases = [*self._before, *self._last]
        names = Counter(phase.name for phase in self.phases)
        twice = [name for name, count in names.items() if count > 1]
        if twice or not self._last:
            raise ValueError(f"phases must have names of their own, got {list(names)}")
        self._offset = sum(_length(phase) for phase in self._before)
        self._period = sum(_length(p) for p in self._last) if self._cyclic else 0

    def bare(self) -> "Timeline":
        """The same without the functions of its phases, to be sent to a process."""

        def strip(entry: Phase | Cycle) -> Phase | Cycle:
            if isinstance(entry, Cycle):
                return Cycle([_stripped(phase) for phase in entry.phases])
            return _stripped(entry)

        return Timeline([strip(entry) for entry in self._entries], self.steps)

    def at(self, step: int) -> tuple[Phase, bool]:
        """The phase of a step, and whether the phase begins there."""
        start = 0
        for phase in self._before:
            if step < start + _length(phase):
                return phase, step == start
            start += _length(phase)
        if not self._cyclic:
            return self._last[0], step == start
        position = (step - start) % self._period
        for phase in self._last:
            if position < _length(phase):
                return phase, position == 0
            position -= _length(phase)
        raise AssertionError("a cycle covers its whole period")

    def reads(self, step: int) -> dict[str, int]:
        """How many batches each stream has given before `step`."""
        counts = dict.fromkeys((s for p in self.phases for s in p.streams), 0)

        def count(phases: Sequence[Phase], left: int) -> int:
            for phase in phases:
                took = min(left, _length(phase))
                for name in phase.streams:
                    counts[name] += took
                left -= took
            return left

        left = count(self._before, min(step, self._offset)) + step - self._offset
        if left <= 0:
            return counts
        if not self._cyclic:
            for name in self._last[0].streams:
                counts[name] += left
            return counts
        whole, rest = divmod(left, self._period)
        for phase in self._last:
            for name in phase.streams:
                counts[name] += whole * _length(phase)
        count(self._last, rest)
        return counts


def _stripped(phase: Phase) -> Phase:
    return dataclasses.replace(phase, step=_absent, enter=None)


def _absent(*_: object) -> Any:
    raise AssertionError("a bare timeline has no functions")


def _fixed(phase: Phase | Cycle) -> Phase:
    if isinstance(phase, Cycle):
        raise ValueError("only the last entry of phases may be a Cycle")
    if phase.steps is None or phase.steps < 1:
        raise ValueError(f"phase {phase.name!r} must last at least one step")
    return phase


def _length(phase: Phase) -> int:
    return phase.steps or 0
