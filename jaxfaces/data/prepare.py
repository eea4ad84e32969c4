r"""Prepares an image collection once, so that training reads it quickly.

Download and extract the collection yourself, then for instance

  python -m jaxfaces.data.prepare --dataset=cub200 --source=CUB_200_2011 \
      --data_dir=data

writes data/cub200/1.0.0, which --data_dir=data or JAXFACES_DATA=data then finds. An
image folder of your own with one sub-folder a class becomes the data set `flowers` by

  python -m jaxfaces.data.prepare --dataset=folder --name=flowers --source=photos \
      --test_fraction=0.5 --data_dir=data

Training and test classes are disjoint. What --source must hold:

"""

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from jaxfaces.data import array_records, builders, layouts
from jaxfaces.data.errors import DataError

# The stored stand-in for fine-grained photographs is small on purpose.
_SHORTER_SIDE = {"caltech101_retrieval": 80}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; exits with status 1 and one line on trouble.

    Args:
      argv: program name and arguments, `sys.argv` by default.
    """
    values = _define()
    try:
        left = values(list(sys.argv if argv is None else argv))
        if values.help:
            print(_help(values))
            return
        if len(left) > 1:
            raise DataError(f"what is {left[1]!r}? Arguments are --name=value")
        name, counts, target = _prepare(values)
    except (DataError, flags.Error, OSError) as error:
        sys.exit(f"prepare: {error}")
    except KeyboardInterrupt:
        sys.exit("prepare: interrupted, nothing was written")
    print(f"{name} is in {target}")
    for split, count in counts.items():
        print(f"  {split}: {count} images")


def _define() -> flags.FlagValues:
    """The command's flags, apart from absl's global ones."""
    values = flags.FlagValues()

    def common(name: str, text: str) -> None:
        flags.DEFINE_string(name, "", text, flag_values=values)

    flags.DEFINE_enum(
        "dataset", None, list(layouts.LAYOUTS), "The layout.", flag_values=values
    )
    common("source", "The folder that holds the extracted collection.")
    common("data_dir", f"Where data sets live; ${array_records.VARIABLE} by default.")
    common("name", "Name of the new data set; that of --dataset by default.")
    flags.DEFINE_float(
        "test_fraction",
        0.5,
        "For --dataset=folder: share of the classes, the last by name, to test on.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_list(
        "test_classes",
        [],
        "For --dataset=folder: names of the classes to test on instead.",
        flag_values=values,
    )
    for name, text in (("overwrite", "Replace a data set."), ("help", "Show this.")):
        flags.DEFINE_bool(name, False, text, flag_values=values)
    return values


def _help(values: flags.FlagValues) -> str:
    parts = [
        f"{name}\n" + textwrap.indent(inspect.getdoc(layout) or "", "  ")
        for name, layout in layouts.LAYOUTS.items()
    ]
    return "\n\n".join([__doc__.strip(), *parts, "Flags:\n" + values.get_help()])


def _prepare(values: flags.FlagValues) -> tuple[str, dict[str, int], Path]:
    """Checks the flags and writes; returns name, images a split, and where."""
    if values.dataset is None:
        raise DataError(f"--dataset is one of {', '.join(layouts.LAYOUTS)}")
    data_dir = values.data_dir or os.environ.get(array_records.VARIABLE, "")
    if not data_dir:
        raise DataError(f"give --data_dir=DIR or set {array_records.VARIABLE}")
    source = Path(values.source)
    if not values.source or not source.is_dir():
        raise DataError(f"--source={values.source!r} is no folder")
    name = values.name or values.dataset
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise DataError(
            f"--name={name!r}: use lower-case letters, digits and underscores"
        )
    options = {}
    if values.dataset == "folder":
        options = {
            "test_fraction": values.test_fraction,
            "test_classes": values.test_classes,
        }
    entries = layouts.read(values.dataset, source, **options)
    counts = builders.write(
        entries,
        source,
        name=name,
        data_dir=Path(data_dir),
        description=f"{values.dataset}, class-disjoint training and test splits.",
        shorter_side=_SHORTER_SIDE.get(values.dataset, 0),
        overwrite=values.overwrite,
    )
    return name, counts, Path(data_dir) / name / builders.VERSION


if __name__ == "__main__":
    main()
