"""The result of a study: what its runs found, and the statistics, as one JSON."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxfaces.engine.errors import RunError
from jaxfaces.engine.files import write_text
from jaxfaces.studies import differences, statistics
from jaxfaces.studies.collected import Collected
from jaxfaces.studies.plan import Arm, Plan

FORMAT = "jaxfaces study 1"


def gather(
    plan: Plan, arms: Mapping[str, Arm | None], tuning: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of the study's JSON.

    Args:
      plan: the study.
      arms: by name with the flags of the final runs; None where tuning gave none.
      tuning: what `tuning.choose` returned.
    """
    primary = plan.primary[1]
    flags = {name: arm.flags for name, arm in arms.items() if arm}
    common = _common(list(flags.values()))
    found = {}
    collected = {name: Collected(arm, plan) for name, arm in arms.items()}
    reference = collected[plan.reference]
    for name, arm in arms.items():
        each = collected[name]
        own = flags.get(name, {})
        budget = (arm or next(a for a in plan.arms if a.name == name)).budget
        found[name] = {
            "flags": {k: v for k, v in own.items() if k not in common},
            "budget": {**budget, "examples": each.one("examples")},
            "runs": each.rows,
            "measures": each.means(plan.measures),
            "untrained": each.means(plan.measures, "untrained"),
            "seconds": each.seconds(),
            "convergence": each.convergence(primary),
            "curve": each.curve(primary),
        }
        if tuning:
            found[name]["tuning"] = tuning[name]
        if name != plan.reference:
            terms = [(1, each), (-1, reference)]
            found[name] |= differences.measured(terms, plan.measures)
    others = {name: each for name, each in found.items() if name != plan.reference}
    differences.adjust(others, primary)
    return _clean(
        {
            "format": FORMAT,
            "name": plan.name,
            "title": plan.settings.title or plan.name,
            "command": f"python -m jaxfaces.study {shlex.join(plan.command)}",
            "primary": {"name": primary, "better": _better(plan)},
            "measures": plan.measures,
            "percent": plan.settings.percent,
            "plain": plan.settings.plain,
            "split": plan.settings.split,
            "seeds": list(plan.seeds),
            "seeds_at_once": plan.settings.seeds_at_once,
            "reference": plan.reference,
            "level": statistics.LEVEL,
            "equal_budgets": len({json.dumps(a.budget) for a in plan.arms}) == 1,
            "flags": common,
            "arms": found,
            "contrasts": differences.gather(plan.contrasts, collected, plan.measures),
            "environments": _environments(list(collected.values())),
        }
    )


def _better(plan: Plan) -> str:
    return "larger" if plan.primary[0] > 0 else "smaller"


def _common(flags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Flags that are equal in all arms."""
    if not flags:
        return {}
    first, *others = flags
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }


def _environments(collected: Sequence[Collected]) -> list[dict[str, Any]]:
    """The different versions and machines of the runs, and how many each has."""
    found: dict[str, dict[str, Any]] = {}
    for each in collected:
        for _, summary in each.summaries:
            place = {key: summary[key] for key in ("versions", "hardware")}
            entry = found.setdefault(json.dumps(place, sort_keys=True), place)
            entry["runs"] = entry.get("runs", 0) + 1
    return [found[key] for key in sorted(found)]


def _clean(value: Any) -> Any:
    """NaN as null, which JSON has."""
    if isinstance(value, Mapping):
        return {key: _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Writes the JSON of a study."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any] | None:
    """The study of a JSON file; None where it holds something else.

    Raises:
      RunError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    ours = isinstance(found, dict) and found.get("format") == FORMAT
    return found if ours else None
