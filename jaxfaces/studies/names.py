"""How tables and pictures call a measure."""

import re

SHORT = {"map_at_r": "MAP@R", "nmi": "NMI", "f1": "F1", "mrr": "MRR"}


def label(measure: str) -> str:
    """A measure as it is printed: recall_at_1 is R@1."""
    recall = re.fullmatch(r"recall_at_(\d+)", measure)
    if recall:
        return f"R@{recall[1]}"
    return SHORT.get(measure, measure.replace("_", " "))
