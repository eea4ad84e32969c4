"""Which phase a step belongs to and which batches it reads."""

import dataclasses
import pickle

import pytest

from jaxfaces.engine.task import Cycle, Phase
from jaxfaces.engine.timeline import Timeline


def phase(name, steps, *streams):
    return Phase(name, steps, lambda *_: None, streams=streams or ("train",))


def names(timeline, steps):
    found = [timeline.at(step) for step in range(steps)]
    return "".join(p.name + ("!" if begins else "") for p, begins in found)


def test_one_phase_lasts_the_whole_run():
    timeline = Timeline([phase("a", None)], 4)
    assert names(timeline, 4) == "a!aaa"
    assert timeline.reads(3) == {"train": 3}


def test_phases_follow_each_other_and_the_last_fills_the_run():
    timeline = Timeline([phase("a", 2), phase("b", 1), phase("c", 1)], 6)
    assert names(timeline, 6) == "a!ab!c!cc"


def test_a_cycle_repeats_and_begins_each_phase_anew():
    timeline = Timeline([phase("p", 1), Cycle([phase("a", 2), phase("b", 1)])], 8)
    assert names(timeline, 8) == "p!a!ab!a!ab!a!"


def test_lengthening_changes_no_earlier_step():
    entries = [phase("p", 3), Cycle([phase("a", 2), phase("b", 1)])]
    short, long = Timeline(entries, 7), Timeline(entries, 30)
    assert names(short, 7) == names(long, 7)
    assert all(short.reads(step) == long.reads(step) for step in range(8))


def test_a_bare_timeline_reads_the_same_and_holds_no_functions():
    def enter(state, key):
        raise NotImplementedError

    first = dataclasses.replace(phase("p", 3, "z"), enter=enter)
    timeline = Timeline([first, Cycle([phase("a", 2, "x"), phase("b", 1, "y")])], 9)
    bare = timeline.bare()
    for step in range(9):
        assert bare.reads(step) == timeline.reads(step)
        (here, begins), (there, begun) = bare.at(step), timeline.at(step)
        assert (here.name, here.streams, begins) == (there.name, there.streams, begun)
    # It can be pickled by reference, which a task's closures cannot.
    assert pickle.loads(pickle.dumps(bare)).reads(9) == timeline.reads(9)
    assert all(each.enter is None for each in bare.phases)


@pytest.mark.parametrize(
    "entries",
    [
        [phase("a", 3, "x"), phase("b", 4, "x", "y"), phase("c", None, "y")],
        [Cycle([phase("a", 2, "x"), phase("b", 3, "x", "y"), phase("c", 1, "z")])],
        [phase("p", 4, "z"), Cycle([phase("a", 1, "x"), phase("b", 2, "y")])],
    ],
)
def test_reads_count_the_steps_that_read_each_stream(entries):
    timeline = Timeline(entries, 40)
    counts = dict.fromkeys(timeline.reads(0), 0)
    for step in range(40):
        assert timeline.reads(step) == counts
        for name in timeline.at(step)[0].streams:
            counts[name] += 1


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [phase("a", 1), phase("a", 2)],
        [phase("a", None), phase("b", 2)],
        [Cycle([phase("a", 1)]), phase("b", 1)],
        [Cycle([phase("a", None)])],
        [Cycle([phase("a", 0)])],
        [Cycle([])],
    ],
)
def test_phases_that_cannot_be_laid_out_are_refused(entries):
    with pytest.raises(ValueError, match="phase|Cycle"):
        Timeline(entries, 5)
