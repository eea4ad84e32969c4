"""Gathers finished runs of named arms into one JSON and one picture.

  python tests/benchmarks/collect_runs.py --out=docs/results/x.json \
      rll=runs/rll_0,runs/rll_1 contrastive=runs/con_0,runs/con_1

The JSON holds every seed's measures, their mean and standard deviation, the flags, the
time and the hardware; the picture the validation measure over training time.
"""

import argparse
import json
import statistics
from pathlib import Path

from matplotlib.figure import Figure

from jaxfaces.engine.logs import read

MEASURES = ("recall_at_1", "recall_at_2", "recall_at_4", "recall_at_8", "map_at_r")
MEASURES += ("r_precision", "nmi", "f1")
RUN_FLAGS = ("--data_dir=", "--compile_cache=", "--task=", "--seed=")


def arm(folders: list[Path]) -> dict:
    """What the runs of one arm found."""
    runs = [json.loads((f / "summary.json").read_text()) for f in folders]
    lines = (folders[0] / "flags.cfg").read_text().splitlines()
    flags = [x for x in lines if x.startswith("--") and not x.startswith(RUN_FLAGS)]
    splits = {}
    for split in runs[0]["measures"]:
        found = [run["measures"][split] for run in runs]
        splits[split] = {
            name: {
                "mean": statistics.mean(each[name] for each in found),
                "sd": statistics.stdev([each[name] for each in found])
                if len(found) > 1
                else None,
                "seeds": [each[name] for each in found],
            }
            for name in MEASURES
        }
    return {
        "seeds": [run["seed"] for run in runs],
        "measures": splits,
        "seconds": [run["seconds"] for run in runs],
        "examples_per_second": [run["examples_per_second"] for run in runs],
        "steps": runs[0]["steps"],
        "flags": flags,
        "versions": runs[0]["versions"],
        "hardware": runs[0]["hardware"],
    }


def curve(folder: Path, measure: str, seconds: float) -> tuple[list, list]:
    """Minutes of training and the validation measure of one run."""
    name = f"validation/{measure}"
    points = [r for r in read(folder / "metrics.jsonl") if r["name"] == name]
    last = points[-1]["step"]
    minutes = [point["step"] / last * seconds / 60 for point in points]
    return minutes, [point["value"] for point in points]


def main() -> None:
    """Reads the runs, writes JSON and PNG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("arms", nargs="+", metavar="NAME=RUN,RUN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure", default="map_at_r")
    args = parser.parse_args()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    results = {}
    for number, text in enumerate(args.arms):
        name, _, paths = text.partition("=")
        folders = [Path(path) for path in paths.split(",")]
        results[name] = arm(folders)
        for folder, seconds in zip(folders, results[name]["seconds"]):
            x, y = curve(folder, args.measure, seconds)
            label = name if folder is folders[0] else None
            axes.plot(x, y, marker="o", markersize=3, color=f"C{number}", label=label)
    axes.set(xlabel="minutes", ylabel=f"validation {args.measure}")
    axes.grid(alpha=0.3)
    axes.legend()
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    figure.savefig(args.out.with_suffix(".png"), dpi=120)
    for name, result in results.items():
        for split, measures in result["measures"].items():
            row = "  ".join(f"{k} {100 * v['mean']:.1f}" for k, v in measures.items())
            print(f"{name:<14}{split:<20}{row}")


if __name__ == "__main__":
    main()
