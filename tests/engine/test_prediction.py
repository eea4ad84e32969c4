"""Files in batches of one shape: what is kept, what is left out, what is padded."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfaces.data.errors import DataError
from jaxfaces.data.files import Input
from jaxfaces.data.streams import Stream, ordered_plan
from jaxfaces.engine import prediction
from jaxfaces.engine.errors import RunError
from jaxfaces.engine.loading import Trained


def trained(values, *, batch=4, apply=None, reads=None):
    """A run over "files" that hold one value each; a string says what is wrong."""

    def read(rows):
        if reads is not None:
            reads.extend(rows)
        for row in rows:
            if isinstance(values[row], str):
                raise DataError(values[row])
        return {"x": np.stack([np.asarray(values[row], np.float32) for row in rows])}

    def read_files(paths, *, max_pixels):
        assert len(paths) == len(values)
        return Stream(ordered_plan(len(values), batch), read, len(values), 0, 1)

    def double(variables, batch):
        return {"y": batch["x"] * variables["w"], "index": batch["index"]}

    task = types.SimpleNamespace(read_files=read_files, write=None)
    return Trained(task, apply or double, {"w": jnp.float32(2)}, 7)


def inputs(count):
    return [Input(f"file {n}", None) for n in range(count)]


@pytest.mark.parametrize("bad", [(), (0,), (3,), (0, 1, 2, 3), (8,), (2, 5, 7)])
@pytest.mark.parametrize("size", [0, 1, 2, 9, 100])
def test_good_rows_keep_their_order_whatever_is_left_out(bad, size):
    values = ["torn" if n in bad else [n, -n] for n in range(9)]
    run = trained(values)
    found, checked = prediction.predict(run, inputs(9), batch_size=size)
    kept = [n for n in range(9) if n not in bad]
    assert found.names == [f"file {n}" for n in kept]
    np.testing.assert_array_equal(found.outputs["y"], [[2 * n, -2 * n] for n in kept])
    np.testing.assert_array_equal(found.outputs["index"], range(len(kept)))
    assert [each.problem for each in checked] == [
        "torn" if n in bad else "" for n in range(9)
    ]
    np.testing.assert_array_equal(found.read(np.array([0]))["x"], [values[kept[0]]])


def test_one_shape_is_compiled_and_padding_is_marked():
    seen = []

    def apply(variables, batch):
        seen.append(batch["x"].shape)
        return jnp.where(batch["valid"], batch["x"], jnp.nan)

    run = trained([float(n) for n in range(10)], batch=4, apply=apply)
    found, _ = prediction.predict(run, inputs(10))
    np.testing.assert_array_equal(found.outputs, range(10))
    assert set(seen) == {(4,)}
    assert len(seen) <= 2  # once for its shapes, once to compile


def test_few_files_make_a_small_batch():
    shapes = []

    def apply(variables, batch):
        shapes.append(batch["x"].shape)
        return batch["x"]

    prediction.predict(trained([1.0, 2.0], batch=256, apply=apply), inputs(2))
    assert set(shapes) == {(2,)}


def test_files_are_not_read_long_before_they_are_needed():
    reads = []
    values = ["torn", *range(1000)]
    run = trained(values, batch=4, reads=reads)
    with pytest.raises(DataError, match="file 0: torn; --on_bad_example=skip"):
        prediction.predict(run, inputs(1001), skip=False)
    assert len(reads) <= 9


def test_what_was_left_out_before_is_not_read():
    given = inputs(3)
    given[1] = given[1].because("hidden", passed_over=True)
    found, checked = prediction.predict(trained([1.0, 2.0]), given, skip=False)
    assert found.names == ["file 0", "file 2"]
    assert checked == given
    given[1] = given[1].because("no such file")
    with pytest.raises(DataError, match="file 1: no such file"):
        prediction.predict(trained([1.0, 2.0]), given, skip=False)


def test_nothing_good_is_an_error():
    with pytest.raises(DataError, match="none of 2 files .* file 0: torn"):
        prediction.predict(trained(["torn", "bent"]), inputs(2))


def test_a_file_of_another_shape_is_left_out_and_says_so():
    run = trained([[1, 2], [1, 2, 3], [3, 4]])
    found, checked = prediction.predict(run, inputs(3))
    assert found.names == ["file 0", "file 2"]
    assert "is 3, the first file 2; only a run trained with" in checked[1].problem


def test_a_network_that_does_not_take_the_files_is_named():
    def apply(variables, batch):
        return batch["x"] @ jnp.ones((3, 1))

    with pytest.raises(RunError, match="the network does not take 2: "):
        prediction.predict(trained([[1, 2]], apply=apply), inputs(1))


def test_a_task_that_reads_no_files_is_named():
    for given, missing in {
        (): "read_files, write",
        ("read_files",): "write",
        ("write",): "read_files",
    }.items():
        task = types.SimpleNamespace(**dict.fromkeys(given))
        words = f"SimpleNamespace cannot read files: it has no {missing} "
        with pytest.raises(RunError, match=words):
            prediction.predict(Trained(task, None, {}, 0), inputs(1))


def test_a_digest_tells_values_shapes_types_and_names_apart():
    base = np.arange(4, dtype=np.float32)
    trees = [
        {"a": base},
        {"b": base},
        {"a": base.reshape(2, 2)},
        {"a": base.view(np.int32)},
        {"a": base + np.float32([0, 0, 0, 1e-6])},
        {"a": {"a": base}},
    ]
    assert len({prediction.digest(tree) for tree in trees}) == len(trees)
    assert prediction.digest({"a": jnp.asarray(base)}) == prediction.digest(trees[0])
