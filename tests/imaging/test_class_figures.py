"""What the figures of a classifier show."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxfaces.imaging import class_figures, figures


def as_png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream)


def test_a_confusion_matrix_names_classes_and_writes_shares():
    counts = np.array([[9, 1], [0, 5]])
    found = class_figures.confusion_matrix(counts, title="T", names=("cat", "dog"))
    axes = found.axes[0]
    assert [each.get_text() for each in axes.texts] == ["90", "10", "100"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["cat", "dog"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.9, 0.1], [0, 1]])
    as_png(found)


def test_many_classes_have_neither_names_nor_numbers():
    counts = np.eye(200, dtype=int)
    names = [str(n) for n in range(200)]
    found = class_figures.confusion_matrix(counts, title="T", names=names)
    assert not found.axes[0].texts
    assert max(as_png(found).size) < 2500


def test_a_class_without_images_is_a_row_of_zeros():
    found = class_figures.confusion_matrix(np.array([[0, 0], [1, 3]]), title="T")
    np.testing.assert_allclose(found.axes[0].images[0].get_array()[0], 0)


def test_empty_bins_have_no_point():
    counts = np.array([0, 2, 0, 6])
    confidence, accuracy = np.array([0, 0.4, 0, 0.9]), np.array([0, 0.5, 0, 1.0])
    found = class_figures.reliability_diagram(counts, confidence, accuracy, title="T")
    above, below = found.axes
    np.testing.assert_allclose(
        above.collections[0].get_offsets(), [[0.4, 0.5], [0.9, 1]]
    )
    assert below.get_ylabel() == "share of images"
    as_png(found)


def test_a_grid_wraps_and_frames():
    images = np.full((5, 8, 8, 3), 255, np.uint8)
    marks = [True, False, None, None, None]
    grid = figures.picture_grid(images, list("abcde"), columns=2, marks=marks)
    one = figures.picture_grid(images[:1], ["a"])
    assert grid.size[1] > 2.5 * one.size[1] * 0.8
    assert grid.getpixel((11, 11)) == (0, 158, 115)  # the green of a hit


@pytest.mark.parametrize("count, captions", [(0, []), (2, ["a"])])
def test_a_grid_needs_a_caption_an_image(count, captions):
    with pytest.raises(ValueError, match="as many captions and marks as images"):
        figures.picture_grid(np.zeros((count, 4, 4, 3), np.uint8), captions)
