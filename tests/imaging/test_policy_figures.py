"""What the figures of a search show."""

import io

import numpy as np
from PIL import Image

from jaxfaces.imaging import policy_figures


def as_png(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream)


def test_a_search_over_time_follows_what_moved_farthest():
    steps = np.arange(5)
    curves = {f"op {n}": steps * (n - 2.5) for n in range(12)}
    found = policy_figures.policy_over_time(
        steps, np.linspace(2, 1, 5), 2.0, [("Weights", curves), ("Levels", curves)]
    )
    entropy, weights, _ = found.axes
    assert entropy.get_ylim() == (0, 2.1)
    names = [text.get_text() for text in weights.get_legend().get_texts()]
    assert names == ["op 11", "op 10", "op 9", "op 8", "op 7", "op 6"]
    assert as_png(found).size[0] > 100


def test_operations_stand_in_the_order_of_their_use():
    found = policy_figures.operation_weights(
        ("a", "b", "c"),
        np.array([0.1, 0.3, 0.2]),
        np.full(3, 0.2),
        np.array([0.5, 0.7, 0.1]),
    )
    left, right = found.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["a", "c", "b"]
    np.testing.assert_allclose(right.lines[0].get_xdata(), [0.5, 0.1, 0.7])
    assert as_png(found).size[0] > 100
