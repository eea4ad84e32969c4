"""A user's own images in, their classes with probabilities out."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import softmax

from jaxfaces.engine.errors import RunError
from jaxfaces.engine.task import Predicted
from jaxfaces.imaging import figures
from jaxfaces.tasks import image_files

SHEET_IMAGES = 48


def write(
    predicted: Predicted,
    folder: Path,
    *,
    gallery: Predicted | None = None,
    format: str = "npz",
    neighbours: int = 5,
) -> None:
    """Writes the classes of files: tables and a picture.

    Args:
      predicted: logits (N, C) of N files.
      folder: where to write classes.csv, probabilities.npz or .parquet, classes.png.
      gallery: None.
      format: "npz" or "parquet".
      neighbours: how many of the likeliest classes the table has for each file; 0 is
        the likeliest alone.

    Raises:
      RunError: a logit is not finite.
    """
    logits = np.asarray(predicted.outputs, np.float64)
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise RunError(
            f"the logits of {predicted.names[bad[0]]} are not finite (so of "
            f"{len(bad)} in {len(logits)}): the network diverged in training"
        )
    probabilities = softmax(logits, axis=1)
    save = _save_parquet if format == "parquet" else _save_npz
    save(folder / f"probabilities.{format}", probabilities, predicted)
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = ranked[:, : max(1, neighbours)]
    with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "rank", "class", "probability"))
        for name, row, own in zip(predicted.names, probabilities, ranked):
            table.writerows(
                (name, rank, named(predicted.classes, label), f"{row[label]:.6f}")
                for rank, label in enumerate(own, 1)
            )
    files = len(predicted.names)
    shown = np.linspace(0, files - 1, min(SHEET_IMAGES, files)).astype(int)
    sheet = figures.picture_grid(
        image_files.pixels([(predicted, row) for row in shown]),
        [told(predicted.classes, probabilities[row]) for row in shown],
    )
    figures.to_png(sheet, folder / "classes.png")


def named(names: Sequence[str], label: int) -> str:
    """The name of a class; its number where it has none."""
    return names[label] if label < len(names) else str(label)


def told(names: Sequence[str], probabilities: np.ndarray) -> str:
    """The likeliest of (C,) probabilities in words, such as "cat, 93 %"."""
    best = int(np.argmax(probabilities))
    return f"{named(names, best)}, {100 * probabilities[best]:.0f} %"


def surest_mistakes(
    probabilities: np.ndarray, labels: np.ndarray, most: int
) -> np.ndarray:
    """Rows of (N, C) probabilities told wrongly, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return wrong[order][:most]


def _save_npz(path: Path, probabilities: np.ndarray, predicted: Predicted) -> None:
    # Text of fixed width: nothing is pickled.
    np.savez(
        path,
        probabilities=probabilities.astype(np.float32),
        files=np.array(predicted.names, np.str_),
        classes=np.array(_all_names(probabilities, predicted), np.str_),
        model=np.str_(predicted.model),
    )


def _save_parquet(path: Path, probabilities: np.ndarray, predicted: Predicted) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = _all_names(probabilities, predicted)
    columns = {"file": pa.array(predicted.names)}
    # Numbered, for two classes may have one name.
    columns |= {
        f"{label} {name}": pa.array(probabilities[:, label].astype(np.float32))
        for label, name in enumerate(names)
    }
    table = pa.table(columns).replace_schema_metadata({"model": predicted.model})
    parquet.write_table(table, path)


def _all_names(probabilities: np.ndarray, predicted: Predicted) -> list[str]:
    return [named(predicted.classes, label) for label in range(probabilities.shape[1])]
