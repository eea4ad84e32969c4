"""What is predicted of a split, and that it is predicted once."""

import gc
import types
import weakref

import numpy as np

from jaxfaces.data import streams
from jaxfaces.engine.evaluation import Examination, collect
from jaxfaces.engine.options import Options
from jaxfaces.engine.reader import Sweep

ROWS = np.arange(10, dtype=np.float32)


def stream():
    columns = {"x": np.stack([ROWS, -ROWS], axis=1), "label": ROWS.astype(int) % 3}
    return streams.from_columns(columns, streams.ordered_plan(10, 4), sweep=3)


class Doubling:
    """A prediction that counts its batches."""

    batches = 0

    def __call__(self, batch):
        self.batches += 1
        return {"double": 2 * batch["x"]}


def test_rows_are_collected_in_order_without_the_padding():
    outputs, columns = collect(Doubling(), Sweep(stream(), Options()))
    np.testing.assert_array_equal(outputs["double"][:, 1], -2 * ROWS)
    assert columns.keys() >= {"label", "index"} and "x" not in columns
    np.testing.assert_array_equal(columns["label"], ROWS % 3)


def test_a_sweep_is_predicted_once_for_the_same_prediction_alone():
    sweep, first, second = Sweep(stream(), Options()), Doubling(), Doubling()
    one, again = collect(first, sweep), collect(first, sweep)
    assert first.batches == 3 and one is again
    collect(second, sweep)
    assert second.batches == 3
    collect(second, Sweep(stream(), Options()))
    assert second.batches == 6


def test_batches_of_another_origin_are_collected_every_time():
    predict, batches = Doubling(), list(Sweep(stream(), Options()))
    for _ in range(2):
        np.testing.assert_array_equal(collect(predict, batches)[1]["index"], ROWS)
    assert predict.batches == 6


def test_what_a_sweep_gave_goes_with_it():
    sweep = Sweep(stream(), Options())
    _, columns = collect(Doubling(), sweep)
    held = weakref.ref(columns["label"])
    del columns
    assert held() is not None
    del sweep
    gc.collect()
    assert held() is None


class Task:
    """Asks for measures, classes and figures of one sweep."""

    def evaluate(self, state, predict, batches, sizes):
        outputs, _ = collect(predict, batches["rows"])
        return {"sum": state + outputs["double"].sum()}

    def classwise(self, state, predict, batches, sizes):
        outputs, columns = collect(predict, batches["rows"])
        return {"most": np.array([outputs["double"].max() * state])}

    def figures(self, state, predict, batches):
        return {"picture": collect(predict, batches["rows"])[0]["double"]}


def test_measures_classes_and_figures_of_every_seed_share_one_prediction():
    made = []

    def predictor(_):
        made.append(Doubling())
        return made[-1]

    program = types.SimpleNamespace(
        task=Task(),
        seeds=2,
        sizes={},
        state_of=lambda state, seed: state[seed],
        variables=lambda state: state,
        predictor=predictor,
    )
    found = Examination(program, [1, 2], {"rows": stream()}, Options())
    assert found.measures() == [{"sum": 1.0}, {"sum": 2.0}]
    np.testing.assert_array_equal(found.classwise()["most"], [[18.0], [36.0]])
    np.testing.assert_array_equal(found.figures()["picture"][:, 0], 2 * ROWS)
    assert [each.batches for each in made] == [3, 3]


def test_a_task_need_not_have_classes_or_figures():
    program = types.SimpleNamespace(task=types.SimpleNamespace(), seeds=1)
    found = Examination(program, None, {}, Options())
    assert found.classwise() == {} and found.figures() == {}
