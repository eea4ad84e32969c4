import numpy as np
import pytest

from jaxfaces.data import folds

LABELS = np.array([7, 3, 3, 9, 7, 1, 9, 1, 4, 4])


@pytest.mark.parametrize(
    "fraction,held",
    [(0.0, []), (0.01, [9]), (0.2, [9]), (0.21, [7, 9]), (0.8, [3, 4, 7, 9])],
)
def test_the_last_classes_in_label_order_are_held_out(fraction, held):
    train, validation = folds.split_classes(LABELS, fraction)
    assert sorted(set(LABELS[validation])) == held
    assert not set(LABELS[train]) & set(held)
    assert sorted([*train, *validation]) == list(range(len(LABELS)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()


def test_rounding_error_takes_no_extra_class():
    labels = np.arange(100)
    assert 0.07 * 100 > 7  # what a plain ceil would round up to 8
    assert len(folds.split_classes(labels, 0.07)[1]) == 7


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5])
def test_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        folds.split_classes(LABELS, fraction)


def test_some_class_must_be_left_to_train_on():
    with pytest.raises(ValueError, match="all 5 classes"):
        folds.split_classes(LABELS, 0.9)
