"""Collect what the runs measured into metrics.csv and render every table; nothing has to be complete."""

import argparse
import json
from pathlib import Path

import pandas as pd

from tood.experiments import load_runs, load_tables
from tood.files import atomic_path, read_json
from tood.records import positives_by_epoch
from tood.tables import build, write

METRICS = ["run", "seed", "metric", "value"]
READINGS = ["run", "seed", "reading", "metric", "value"]
# Columns of the complexity file as the tables name them
COMPLEXITY = {
    "head_params_m": "Head params (M)",
    "params_m": "Full params (M)",
    "head_gflops": "Head FLOPs (G)",
    "gflops": "Full FLOPs (G)",
}
# Of several seeds, the state that most needs attention stands for the run.
ATTENTION = ("failed", "running", "pending", "done")


def collect(
    folder: Path, runs: list[str], seeds: list[int]
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Metrics, Table 6 under other readings of its definitions, and states, from the folder of the runs."""
    records, readings, states = [], [], {}
    for run in runs:
        found = []
        for seed in seeds:
            place = folder / run / f"seed{seed}"
            state = place / "state.json"
            found.append(read_json(state)["state"] if state.is_file() else "pending")
            for name in ("ap.json", "alignment.json"):
                if (place / name).is_file():
                    records += [
                        (run, seed, metric, value) for metric, value in read_json(place / name).items()
                    ]
            if (place / "losses.jsonl").is_file() and found[-1] == "done":
                records += [(run, seed, *measured) for measured in positives(place / "losses.jsonl")]
            variants = place / "alignment_variants.json"
            if variants.is_file():
                readings += [
                    (run, seed, reading, metric, value)
                    for group in read_json(variants).values()
                    for reading, metrics in group.items()
                    for metric, value in metrics.items()
                ]
        states[run] = min(found, key=ATTENTION.index)
    return pd.DataFrame(records, columns=METRICS), pd.DataFrame(readings, columns=READINGS), states


def positives(path: Path) -> list[tuple[str, float]]:
    """Positives of an object and their IoU, in the first and the last epoch of a training."""
    epochs = positives_by_epoch(path).set_index("epoch")
    return [
        (f"{name} ({which})", epochs[column].get(epoch, float("nan")))
        for which, epoch in (("first", epochs.index.min()), ("last", epochs.index.max()))
        for name, column in (("Positives", "positives"), ("IoU", "positive_iou"))
    ]


def complexity(path: Path) -> pd.DataFrame:
    """Parameters and FLOPs as metrics without a seed: they belong to the model, not to a training."""
    if not path.is_file():
        return pd.DataFrame(columns=METRICS)
    long = pd.read_csv(path).rename(columns=COMPLEXITY).melt("run", var_name="metric")
    return long.assign(seed=float("nan"))[METRICS].sort_values(["run", "metric"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of the runs")
    parser.add_argument("--complexity", type=Path, required=True, help="CSV of all models")
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--notes", type=json.loads, default=[], help="lines below each table, as JSON")
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()

    metrics, readings, states = collect(args.folder, args.runs, args.seeds)
    metrics = pd.concat([metrics, complexity(args.complexity)], ignore_index=True)
    metrics = metrics.astype({"seed": "Int64"})  # whole, or absent
    for name, frame in (("metrics.csv", metrics), ("table6_readings.csv", readings)):
        with atomic_path(args.results / name) as temporary:
            frame.to_csv(temporary, index=False)
    runs = load_runs()
    for table in load_tables(runs=runs).values():
        frame = build(table, metrics, states, runs, args.seeds)
        write(table, frame, args.results / "tables", args.notes)


if __name__ == "__main__":
    main()
