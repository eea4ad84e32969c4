"""The page on the wing runs from top to bottom and names what there is."""

import re
from pathlib import Path

import numpy as np

import augment

PAGE = Path(__file__).parents[2] / "docs" / "augment.md"


def test_the_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    names: dict = {}
    exec("\n".join(blocks), names)  # the page is ours
    assert names["changed"].shape == names["again"].shape == (8, 32, 32, 3)
    assert names["image"].dtype == names["turned"].dtype == np.uint8
    assert np.isfinite(names["slope"]) and names["slope"] != 0
    found, step = names["found"], names["step"]
    assert found.logits.shape == (105,) and (found.probabilities != 0).sum() == 8
    assert step.gradient.shape == (105, 2) and np.any(step.gradient != 0)


def test_the_names_exist():
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"augment\.(\w+)\(", text))
    assert {name for name in named if not hasattr(augment, name)} == set()
    operations = {
        each.name for each in (*augment.OPERATIONS, *augment.EXTRA_OPERATIONS)
    }
    assert operations <= set(re.findall(r"`(\w+)`", text))
