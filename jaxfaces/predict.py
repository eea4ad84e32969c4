"""Own files in, results out: python -m jaxfaces.predict --workdir=runs/x IMAGES…."""

import csv
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxfaces.data import files, images
from jaxfaces.data.files import Input
from jaxfaces.engine import commandline, config
from jaxfaces.engine.errors import RunError

if TYPE_CHECKING:
    from jaxfaces.engine.loading import Trained
    from jaxfaces.engine.task import Predicted

USAGE = """Applies a trained run to your own images; needs none of its training data.

  python -m jaxfaces.predict --workdir=runs/x photos more/one.jpg
  python -m jaxfaces.predict --workdir=runs/x --output=all --format=parquet photos
  python -m jaxfaces.predict --workdir=runs/x --gallery=all --output=new new_photos

Folders are searched to the bottom, in name order, for PNG, JPEG, GIF, BMP, WebP and
PPM files; hidden ones are left out. A file given by name is tried whatever its suffix.
Names that begin with - come after the word --. Animations give their first frame, EXIF
rotation is applied, transparency is laid on white; then an image is fitted as in
training.

A retrieval run writes to --output:
  embeddings.npz   embeddings (N, D) of length 1 and their files, for numpy.load; or
                   embeddings.parquet: columns file and embedding
  neighbours.csv   the nearest others of each image by cosine similarity
  neighbours.png   some images with their nearest
  files.csv        what became of every file: ok, or skipped with the reason
  predictions.json the run, the step, the numbers

A classification run writes, beside files.csv and predictions.json:
  classes.csv      the likeliest --neighbours classes of each image
  probabilities.npz or .parquet, of all classes
  classes.png      some images with their class
Later predictions with the same --output replace them."""

# What a prediction wrote: a folder that holds it holds no images.
MANIFEST = "predictions.json"
# So many files that were left out are named on the terminal; files.csv names all.
NAMED = 10


@dataclasses.dataclass(frozen=True)
class Command:
    """Flags of this command."""

    workdir: str = config.knob("", "Run directory, or a .safetensors file of one.")
    output: str = config.knob(
        "", "Folder for results; empty is predictions in the run directory."
    )
    variables: str = config.knob(
        "last",
        "Those of the last step, or of the best validation measure.",
        choices=("last", "best"),
    )
    seed: int = config.knob(0, "Which of --parallel_seeds, from 0.", lower=0)
    format: str = config.knob(
        "npz", "Of the table of embeddings.", choices=("npz", "parquet")
    )
    neighbours: int = config.knob(
        8, "How many of each image to look for; 0 is none.", lower=0
    )
    gallery: str = config.knob(
        "",
        "Where to look: a folder of images, or what an earlier prediction wrote (its "
        "folder, .npz or .parquet). Empty is among the images themselves.",
    )
    on_bad_example: str = config.knob(
        "skip",
        "A file that is no image, is damaged or too large: leave it out, or stop.",
        choices=("skip", "error"),
    )
    batch_size: int = config.knob(
        0, "Images at once; 0 is as in evaluation.", lower=0, upper=65536
    )
    max_pixels: int = config.knob(
        images.MAX_PIXELS,
        "Largest width times height, checked before decoding.",
        lower=1,
        upper=89_000_000,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code (2 usage, 1 it failed)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    configs = {"The command": Command()}
    flags = words[: words.index("--")] if "--" in words else words
    if any(word in commandline.HELP for word in flags):
        commandline.show(USAGE + "\n" + commandline.describe(configs))
        return 0
    try:
        built, given = commandline.parse_mixed(words, configs)
        command = built["The command"]
        if not command.workdir:
            raise commandline.UsageError("--workdir=FOLDER is missing")
        if not given:
            raise commandline.UsageError("which images? Name files or folders")
    except commandline.UsageError as error:
        return commandline.fail(error, 2)
    return commandline.guarded(lambda: _predict(command, given))


def _predict(command: Command, given: Sequence[str]) -> None:
    from jaxfaces.engine import loading, prediction
    from jaxfaces.engine.results import written_together

    inputs = files.collect(given, results=MANIFEST)
    workdir = Path(command.workdir)
    beside = workdir.parent if workdir.suffix == ".safetensors" else workdir
    output = Path(command.output or beside / "predictions")
    place = _gallery_place(command.gallery, output)
    best = command.variables == "best"
    trained = loading.load(workdir, best=best, seed=command.seed)
    prediction.check(trained.task, gallery=place is not None)
    facts: dict[str, Any] = {
        "workdir": command.workdir,
        "variables": command.variables,
        "step": trained.step,
    }
    with written_together(output, MANIFEST, facts) as folder:
        gallery, searched = _gallery(command, trained, place)
        predicted, inputs = _embed(command, trained, inputs)
        trained.task.write(
            predicted,
            folder,
            gallery=gallery,
            format=command.format,
            neighbours=command.neighbours,
        )
        roles = {"image": inputs, "gallery": searched}
        _account(folder / "files.csv", roles)
        ok = len(predicted.names)
        facts |= {"ok": ok, "skipped": len(inputs) - ok, "model": predicted.model}
    _name_some([each for group in roles.values() for each in group if each.problem])
    skipped = f", {len(inputs) - ok:,} skipped" if ok < len(inputs) else ""
    where = files.named(output).name
    print(f"{ok:,} of {len(inputs):,} files predicted{skipped}; results in {where}")


def _embed(
    command: Command, trained: "Trained", inputs: Sequence[Input]
) -> tuple["Predicted", list[Input]]:
    from jaxfaces.engine import prediction

    return prediction.predict(
        trained,
        inputs,
        batch_size=command.batch_size,
        max_pixels=command.max_pixels,
        skip=command.on_bad_example == "skip",
        progress=True,
    )


def _gallery_place(gallery: str, output: Path) -> Path | None:
    """Where to search, once it is there and no place that the results replace."""
    if not gallery:
        return None
    path = Path(gallery)
    if not os.path.exists(path):  # unlike Path.exists, also of impossible names
        raise RunError(f"--gallery={path}: no such file or folder")
    place = path if path.is_dir() else path.parent
    if os.path.realpath(place) == os.path.realpath(output):
        raise RunError(
            f"--gallery={path} and --output={output}: the results would replace the "
            "gallery; choose another --output"
        )
    return path


def _gallery(
    command: Command, trained: "Trained", path: Path | None
) -> tuple["Predicted | None", list[Input]]:
    """What to search, and the files that were read for it."""
    if path is None:
        return None, []
    if path.is_dir() and not (path / MANIFEST).exists():
        inputs = files.collect([path], results=MANIFEST)
        return _embed(command, trained, inputs)
    return trained.task.read_outputs(path), []


def _account(path: Path, roles: dict[str, list[Input]]) -> None:
    """Writes what became of every file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file", "status", "reason", "role"))
        for role, inputs in roles.items():
            table.writerows(
                (each.name, "skipped" if each.problem else "ok", each.problem, role)
                for each in inputs
            )


def _name_some(skipped: Sequence[Input]) -> None:
    for each in skipped[:NAMED]:
        line = " ".join(f"skipped {each.name}: {each.problem}".split())
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        print(shown, file=sys.stderr)
    if len(skipped) > NAMED:
        print(f"… and {len(skipped) - NAMED:,} more", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
