"""How images to classify are divided."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from jaxfaces.data import folds, sources
from jaxfaces.tasks import classified_images, stored_images
from jaxfaces.tasks.classified_images import ClassifiedImages

DIGITS = ClassifiedImages(dataset="digits", grey=True)


def pixels(source):
    return source.read(np.arange(len(source)))["image"].reshape(len(source), -1)


def test_splits_are_disjoint_and_have_all_classes_in_their_shares():
    splits = [DIGITS.split(name) for name in ("train", "validation", "test")]
    sizes = [len(each) for each in splits]
    assert sum(sizes) == 1797
    assert sizes[2] == 360  # 359.4 and what is left of one
    assert sizes[1] == pytest.approx(0.1 * 0.8 * 1797, abs=1)
    for each in splits:
        shares = np.bincount(each.labels, minlength=10) / len(each)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)
    # Two digits may have the same pixels, but not many.
    rows = np.concatenate([pixels(each) for each in splits])
    assert len(np.unique(rows, axis=0)) > 1790


def test_the_seed_decides_alone():
    found = []
    for seed in (3, 3, 4):
        classified_images._splits.cache_clear()
        data = ClassifiedImages(dataset="digits", grey=True, split_seed=seed)
        found.append(pixels(data.split("train")))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_no_validation_and_no_test_where_none_is_wanted():
    data = ClassifiedImages(
        dataset="digits", grey=True, validation_fraction=0.0, test_fraction=0.0
    )
    assert data.split("validation") is None
    assert data.split("test") is None
    assert len(data.split("train")) == 1797


def test_reduced_sets_are_cut_as_the_searches_cut_them():
    """StratifiedShuffleSplit with random_state 0, twice, as Fast AutoAugment does."""
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    first = StratifiedShuffleSplit(n_splits=1, test_size=5000 - 400, random_state=0)
    rows, _ = next(first.split(list(range(5000)), labels))
    second = StratifiedShuffleSplit(n_splits=5, test_size=0.5, random_state=0)
    halves = next(second.split(list(range(400)), labels[rows]))
    taken, _ = folds.split_within_classes(labels, 400, seed=0)
    np.testing.assert_array_equal(taken, rows)
    mine = folds.split_within_classes(labels[taken], 200, seed=0)
    for own, theirs in zip(mine, halves):
        np.testing.assert_array_equal(own, theirs)


@pytest.mark.parametrize(
    "labels, count, words",
    [
        ([0, 0, 1], 2, "the smallest of 1"),
        ([0, 0, 1, 1], 1, "1 and 3 images cannot both"),
        ([0, 0, 1, 1], 3, "3 and 1 images cannot both"),
        ([0] * 100 + [1] * 2, 10, "would have none of class 1, which has 2 in all"),
    ],
)
def test_what_cannot_be_divided_says_why(labels, count, words):
    with pytest.raises(ValueError, match=words):
        folds.split_within_classes(np.array(labels), count, seed=0)


@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=6),
    st.floats(0.05, 0.95),
    st.integers(0, 100),
)
def test_both_sides_have_every_class_or_it_is_refused(counts, share, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    count = min(max(1, round(share * len(labels))), len(labels) - 1)
    try:
        sides = folds.split_within_classes(labels, count, seed=seed)
    except ValueError:
        return
    assert len(sides[0]) == count
    np.testing.assert_array_equal(
        np.sort(np.concatenate(sides)), np.arange(len(labels))
    )
    for side in sides:
        assert len(np.unique(labels[side])) == len(counts)


def stored(monkeypatch, labels, *, ids=None, names=None, test=None):
    """A divided data set whose image r is filled with the number r."""

    def source(labels, ids):
        column = np.arange(len(labels)).astype(np.uint8)[:, None, None, None]
        found = sources.from_arrays(
            np.broadcast_to(column, (len(labels), 2, 2, 1)), labels, names
        )
        return sources.dataclasses.replace(found, ids=ids)

    splits = {
        "train": source(np.asarray(labels), ids),
        "test": source(np.asarray(labels if test is None else test), None),
    }
    monkeypatch.setattr(stored_images, "_load", lambda split, **flags: splits[split])
    classified_images._splits.cache_clear()


@pytest.fixture(autouse=True)
def forget():
    yield
    classified_images._splits.cache_clear()


def test_images_are_taken_in_the_order_of_their_ids(monkeypatch):
    labels = np.arange(40) % 2
    order = np.random.default_rng(1).permutation(40)
    flags = {"train_images": 20, "validation_fraction": 0.0}
    ids = np.array([f"train_{n:05d}" for n in range(40)])
    stored(monkeypatch, labels, ids=ids)
    data = ClassifiedImages(dataset="some", **flags)
    wanted = pixels(data.split("train"))[:, 0]
    stored(monkeypatch, labels[order], ids=ids[order])
    found = order[pixels(data.split("train"))[:, 0]]
    np.testing.assert_array_equal(found, wanted)


def test_kept_classes_are_numbered_from_zero_in_every_split(monkeypatch):
    names = ("ant", "bee", "cat", "dog")
    stored(monkeypatch, np.repeat(np.arange(4), 10), names=names)
    data = ClassifiedImages(dataset="some", only_classes=(3, 1))
    for name in ("train", "validation", "test"):
        split = data.split(name)
        assert split.names == ("bee", "dog")
        assert set(np.unique(split.labels)) == {0, 1}
    assert data.classes == 2


def test_a_test_class_without_training_images_is_refused(monkeypatch):
    stored(monkeypatch, np.arange(20) % 2, test=np.array([0, 1, 5]))
    with pytest.raises(
        ValueError, match="--test_split: there are test images of class 5"
    ):
        ClassifiedImages(dataset="some").split("test")


def test_one_class_is_refused(monkeypatch):
    stored(monkeypatch, np.zeros(20, int))
    with pytest.raises(ValueError, match="leaves one class of images"):
        ClassifiedImages(dataset="some").split("train")


@pytest.mark.parametrize("count", [400, 403, 405])
def test_the_halves_of_a_reduced_set_are_those_of_the_searches(monkeypatch, count):
    labels = np.random.default_rng(1).integers(0, 10, count)
    stored(monkeypatch, labels)
    data = ClassifiedImages(dataset="some", validation_fraction=0.5)
    split = StratifiedShuffleSplit(n_splits=5, test_size=0.5, random_state=0)
    train, held = next(split.split(list(range(count)), labels))
    for name, rows in (("train", train), ("validation", held)):
        # Numbers beyond 255 wrap around in the pixels that stand for them.
        np.testing.assert_array_equal(pixels(data.split(name))[:, 0], rows % 256)
