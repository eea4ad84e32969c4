"""Tables and pictures of studies, from their JSON files alone."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfaces.engine.errors import RunError
from jaxfaces.engine.files import write_text
from jaxfaces.studies import results
from jaxfaces.studies.names import label
from jaxfaces.studies.plan import words

BEGIN, END = "<!-- studies: begin -->", "<!-- studies: end -->"


def write(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes JSON, table and, where there are learning curves, the picture."""
    from jaxfaces.studies import figures  # matplotlib takes a second to import

    stem = folder / result["name"]
    results.write(stem.with_suffix(".json"), result)
    write_text(stem.with_suffix(".md"), page(result))
    written = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    if figures.drawable(result):
        figures.draw(result, stem.with_suffix(".png"))
        written.append(stem.with_suffix(".png"))
    return written


def rebuild(folder: Path, readme: Path | None) -> list[Path]:
    """Writes all tables and pictures again, and the README's table.

    Args:
      folder: of the JSON files; those that are no studies are left alone.
      readme: the file with the markers of the overview; None is none.

    Returns:
      The files written.

    Raises:
      RunError: a file cannot be read, or the README has no markers.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder of results")
    studies = found(folder)
    written = [path for each in studies for path in write(each, folder)]
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        place = Path(os.path.relpath(folder, readme.parent))
        write_text(readme, with_overview(text, studies, place))
        written.append(readme)
    return written


def found(folder: Path) -> list[dict[str, Any]]:
    """The studies of a folder, by name."""
    read = [results.read(path) for path in sorted(folder.glob("*.json"))]
    return [each for each in read if each is not None]


def with_overview(text: str, studies: Sequence[Mapping], folder: Path) -> str:
    """A page with the overview of studies, in `folder` from there, between markers."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise RunError(f"the README has no lines {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{overview(studies, folder)}{END}{tail}"


def overview(studies: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """One row a study."""
    rows = [_overview_row(result, folder) for result in studies]
    head = ("study", "measure", "reference", "against the reference, 95 % interval")
    return _table(head, rows)


def _overview_row(result: Mapping[str, Any], folder: Path) -> list[str]:
    name, seeds = result["primary"]["name"], len(result["seeds"])
    reference = result["arms"][result["reference"]]
    others = {n: a for n, a in result["arms"].items() if n != result["reference"]}
    return [
        f"[{result['title']}]({folder.as_posix()}/{result['name']}.md)",
        f"{label(name)}{', %' if result['percent'] else ''}, {_plural(seeds, 'seed')}",
        f"{result['reference']} {_spread(reference, name, result)}",
        "<br>".join(
            f"{arm} {_spread(each, name, result)}: {_difference(each, name, result)}"
            if name in each["measures"]
            else f"{arm} **failed**"
            for arm, each in others.items()
        ),
    ]


def page(result: Mapping[str, Any]) -> str:
    """The page of a study."""
    return "\n".join(_page(result)).rstrip() + "\n"


def _page(result: Mapping[str, Any]) -> Iterator[str]:
    primary = result["primary"]
    yield f"# {result['title']}\n"
    seeds = _plural(len(result["seeds"]), "seed")
    plain = ", ".join(label(name) for name in result.get("plain", ()))
    but = f" but {plain}" if plain else ""
    percent = f" Measures{but} are in percent, differences in points."
    yield (
        f"Primary measure: **{label(primary['name'])}** ({primary['better']} is "
        f"better) on the {result['split']} split, {seeds} an arm, reference "
        f"**{result['reference']}**.{percent if result['percent'] else ''}"
    )
    yield _budget(result) + "\n"
    yield _arms(result)
    yield from _contrasts(result)
    yield f"![Learning curves and differences]({result['name']}.png)\n"
    yield "What the columns mean: `docs/studies.md`."
    yield from _failed(result)
    yield from _flags(result)
    yield from _tuning(result)
    yield "\n## How it was run\n"
    yield f"```\n{result['command']}\n```\n"
    for place in result["environments"]:
        yield _environment(place)


def _budget(result: Mapping[str, Any]) -> str:
    budgets = {name: words(arm["budget"]) for name, arm in result["arms"].items()}
    if result["equal_budgets"]:
        return f"Budget of every run: {next(iter(budgets.values()))}."
    each = ", ".join(f"{name} {budget}" for name, budget in budgets.items())
    return f"**The budgets differ**: {each}."


def _arms(result: Mapping[str, Any]) -> str:
    """The table of the arms."""
    name, *others = result["measures"]
    head = [
        "arm",
        label(name),
        "difference [95 %]",
        "p",
        "p, Holm",
        "[95 %] over classes",
    ]
    head += [label(other) for other in others]
    head += ["last fifth", "examples read", "a run", "seeds"]
    rows = []
    for arm, each in result["arms"].items():
        reference = arm == result["reference"]
        found = each.get("difference", {}).get(name, {})
        classes = each.get("over_classes", {}).get(name)
        change = each["convergence"] and each["convergence"]["change"]
        rows.append(
            [
                f"{arm} (reference)" if reference else arm,
                _spread(each, name, result),
                "" if reference else _difference(each, name, result),
                _p(found.get("p")),
                _p(found.get("p_holm")),
                _interval(classes, result) if classes else "",
                *(_spread(each, other, result) for other in others),
                "" if change is None else _signed(change, result),
                _examples(each["budget"]["examples"]),
                _duration(each["seconds"]),
                _seeds(each),
            ]
        )
    untrained = result["arms"][result["reference"]]["untrained"]
    if untrained:
        mean = [_spread({"measures": untrained}, m, result) for m in result["measures"]]
        rows.append(["untrained", mean[0], "", "", "", "", *mean[1:], "", "", "", ""])
    return _table(head, rows)


def _contrasts(result: Mapping[str, Any]) -> Iterator[str]:
    """The table of the sums of arms; a study of an older version has none."""
    found, name = result.get("contrasts", {}), result["primary"]["name"]
    if found:
        rows = []
        for contrast, each in found.items():
            over = each["difference"].get(name, {})
            classes = each["over_classes"].get(name)
            known = [_difference(each, name, result), _p(over.get("p"))]
            known += [_p(over.get("p_holm"))]
            known += [_interval(classes, result) if classes else ""]
            rows.append([contrast, each["sum"], *known])
        head = ("contrast", "sum", f"{label(name)} [95 %]", "p", "p, Holm")
        yield _table((*head, "[95 %] over classes"), rows)


def _failed(result: Mapping[str, Any]) -> Iterator[str]:
    bad = [
        [arm, str(run["seed"]), run.get("error", "not done")]
        for arm, each in result["arms"].items()
        for run in each["runs"]
        if run["status"] != "finished"
    ]
    if bad:
        yield "\n## Runs that failed\n"
        yield _table(("arm", "seed", "error"), bad)


def _flags(result: Mapping[str, Any]) -> Iterator[str]:
    arms = result["arms"]
    flags = list(dict.fromkeys(flag for arm in arms.values() for flag in arm["flags"]))
    if flags:
        rows = [
            [f"`--{flag}`", *(arm["flags"].get(flag, "") for arm in arms.values())]
            for flag in flags
        ]
        yield "\n## Where the arms differ\n"
        yield _table(("flag", *arms), rows)


def _tuning(result: Mapping[str, Any]) -> Iterator[str]:
    tuned = {n: arm["tuning"] for n, arm in result["arms"].items() if "tuning" in arm}
    if not tuned:
        return
    first = next(iter(tuned.values()))
    yield "\n## Tuning\n"
    yield (
        f"Validation {label(first['measure'])}, "
        f"{_plural(len(first['trials']), 'trial')} an arm of {first['steps']:,} steps, "
        f"seeds {', '.join(map(str, first['seeds']))}; the best is bold.\n"
    )
    rows = []
    for arm, record in tuned.items():
        for number, trial in enumerate(record["trials"]):
            values = ", ".join(f"{k}={v}" for k, v in trial["values"].items())
            mean = trial["mean"]
            shown = "failed" if mean is None else _number(mean, result)
            best = number == record["chosen"]
            rows.append([arm, values, f"**{shown}**" if best else shown])
    yield _table(("arm", "flags", label(first["measure"])), rows)


def _environment(place: Mapping[str, Any]) -> str:
    hardware, versions = place["hardware"], place["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{_plural(place['runs'], 'run')}: {hardware['devices']} × {hardware['kind']}, "
        f"{hardware['processor']}, {_plural(hardware['cores'], 'core')}; {packages}."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _number(value: float, result: Mapping[str, Any], digits: int = 4) -> str:
    return f"{100 * value:.1f}" if result["percent"] else f"{value:.{digits}g}"


def _signed(value: float, result: Mapping[str, Any]) -> str:
    return f"{100 * value:+.1f}" if result["percent"] else f"{value:+.3g}"


def _spread(arm: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> str:
    """Mean ± standard deviation."""
    found = arm["measures"].get(name)
    if found is None:
        return "**failed**" if arm.get("runs") else ""
    if name in result.get("plain", ()):
        result = {"percent": False}
    mean = _number(found["mean"], result)
    if found["sd"] is None:
        return mean
    return f"{mean} ± {_number(found['sd'], result, digits=2)}"


def _difference(arm: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> str:
    """A difference, its interval, and whether that includes zero."""
    found = arm["difference"].get(name)
    if found is None:
        return "**failed**"
    mean = _signed(found["mean"], result)
    if found["low"] is None:
        return f"{mean} (one seed, no interval)"
    zero = ", includes zero" if found["low"] <= 0 <= found["high"] else ""
    return f"{mean} {_interval(found, result)}{zero}"


def _interval(found: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    return f"[{_signed(found['low'], result)}, {_signed(found['high'], result)}]"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _examples(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return ", ".join(f"{each:,}" for each in values if each is not None)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _seeds(arm: Mapping[str, Any]) -> str:
    done = sum(run["status"] == "finished" for run in arm["runs"])
    total = len(arm["runs"])
    return str(total) if done == total else f"**{done} of {total}**"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
