import numpy as np
import pytest

from jaxfaces.data import streams


def numbered(examples, plan, sweep=1):
    """A stream whose only column is the row number plus 100."""
    return streams.from_columns({"x": np.arange(examples) + 100}, plan, sweep=sweep)


@pytest.mark.parametrize(
    "examples,batch_size,sweep", [(10, 4, 3), (8, 4, 2), (3, 8, 1)]
)
def test_ordered_plan_covers_rows_in_order_then_starts_again(
    examples, batch_size, sweep
):
    plan = streams.ordered_plan(examples, batch_size)
    assert streams.batches_to_cover(examples, batch_size) == sweep
    rows = np.concatenate([plan(n) for n in range(sweep)])
    assert rows[rows < examples].tolist() == list(range(examples))
    assert len(rows) == sweep * batch_size
    assert (rows[examples:] == examples).all()
    np.testing.assert_array_equal(plan(sweep), plan(0))


@pytest.mark.parametrize("sweep_number", [0, 1, 7])
def test_shuffled_plan_covers_every_row_once_a_sweep(sweep_number):
    plan = streams.shuffled_plan(23, 5, seed=3)
    rows = np.concatenate([plan(5 * sweep_number + n) for n in range(5)])
    assert sorted(rows[rows < 23]) == list(range(23))
    assert (rows == 23).sum() == 2


def test_shuffled_plan_depends_on_seed_and_number_alone():
    first = streams.shuffled_plan(50, 8, seed=1)
    later = streams.shuffled_plan(50, 8, seed=1)
    numbers = [20, 3, 0, 19, 3]
    wanted = {n: first(n) for n in range(21)}
    for n in numbers:
        np.testing.assert_array_equal(later(n), wanted[n])
    other = streams.shuffled_plan(50, 8, seed=2)
    assert any((other(n) != wanted[n]).any() for n in range(3))


def test_shuffled_sweeps_differ():
    plan = streams.shuffled_plan(64, 64, seed=0)
    assert (plan(0) != plan(1)).any()
    assert (plan(0) != np.arange(64)).any()


def test_shuffling_nothing_is_refused():
    with pytest.raises(ValueError, match="without examples"):
        streams.shuffled_plan(0, 4, seed=0)


def test_padding_is_zero_invalid_and_indexed_past_the_end():
    batch = streams.load_batch(numbered(5, streams.ordered_plan(5, 4)), 1)
    assert batch["x"].tolist() == [104, 0, 0, 0]
    assert batch["valid"].tolist() == [True, False, False, False]
    assert batch["index"].tolist() == [4, 5, 5, 5]
    assert batch["index"].dtype == np.int32


def test_padding_anywhere_in_a_batch_leaves_rows_in_place():
    stream = numbered(3, lambda n: np.array([3, 2, 3, 0]))
    assert streams.load_batch(stream, 0)["x"].tolist() == [0, 102, 0, 100]


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_parts_of_a_batch_laid_together_are_the_whole(parts, n):
    stream = numbered(19, streams.shuffled_plan(19, 8, seed=0))
    whole = streams.load_batch(stream, n)
    shares = [
        streams.load_batch(stream, n, part=part, parts=parts) for part in range(parts)
    ]
    for name, column in whole.items():
        joined = np.concatenate([share[name] for share in shares])
        np.testing.assert_array_equal(joined, column)
        assert joined.dtype == column.dtype


def test_a_share_reads_no_rows_but_its_own():
    asked = []

    def read(rows):
        asked.extend(rows.tolist())
        return {"x": rows}

    stream = streams.Stream(streams.ordered_plan(8, 8), read, 8, 0, 1)
    streams.load_batch(stream, 0, part=1, parts=4)
    assert asked == [2, 3]


def test_columns_keep_shape_and_type():
    images = np.arange(6 * 2 * 2, dtype=np.uint8).reshape(6, 2, 2, 1)
    stream = streams.from_columns(
        {"image": images}, streams.ordered_plan(6, 4), sweep=2
    )
    batch = streams.load_batch(stream, 1)
    assert batch["image"].shape == (4, 2, 2, 1)
    assert batch["image"].dtype == np.uint8
    np.testing.assert_array_equal(batch["image"][:2], images[4:])


@pytest.mark.parametrize("name", ["index", "valid"])
def test_reserved_columns_are_refused(name):
    plan = streams.ordered_plan(2, 2)
    stream = streams.from_columns({name: np.arange(2)}, plan, sweep=1)
    with pytest.raises(ValueError, match=name):
        streams.load_batch(stream, 0)


def test_batches_that_cannot_be_split_are_refused():
    stream = numbered(4, streams.ordered_plan(4, 4))
    with pytest.raises(ValueError, match="batch_size"):
        streams.load_batch(stream, 0, part=0, parts=3)


def test_a_batch_of_padding_alone_is_refused():
    stream = numbered(4, lambda n: np.full(4, 4))
    with pytest.raises(ValueError, match="empty"):
        streams.load_batch(stream, 0)


def test_columns_of_unequal_length_are_refused():
    columns = {"x": np.arange(3), "y": np.arange(4)}
    with pytest.raises(ValueError, match="'y': 4"):
        streams.from_columns(columns, streams.ordered_plan(3, 3), sweep=1)
