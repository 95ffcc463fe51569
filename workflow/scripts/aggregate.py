"""Collect what the runs measured into metrics.csv and render every table; nothing has to be complete."""

import argparse
import csv
import json
from pathlib import Path

import pandas as pd

from tood.experiments import load_runs, load_tables
from tood.files import atomic_path, read_json
from tood.tables import build, write

COLUMNS = ["run", "seed", "metric", "value"]
# Of several seeds, the state that most needs attention stands for the run.
ATTENTION = ("failed", "running", "pending", "done")


def collect(folder: Path, runs: list[str], seeds: list[int]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Metrics and states of all runs and seeds below the folder of their results."""
    records, states = [], {}
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
        states[run] = min(found, key=ATTENTION.index)
    return pd.DataFrame(records, columns=COLUMNS), states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="of the runs")
    parser.add_argument("--runs", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    parser.add_argument("--notes", type=json.loads, default=[], help="lines below each table, as JSON")
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()

    metrics, states = collect(args.folder, args.runs, args.seeds)
    with atomic_path(args.results / "metrics.csv") as temporary:
        metrics.to_csv(temporary, index=False, quoting=csv.QUOTE_MINIMAL)
    runs = load_runs()
    for table in load_tables(runs=runs).values():
        frame = build(table, metrics, states, runs, args.seeds)
        write(table, frame, args.results / "tables", args.notes)


if __name__ == "__main__":
    main()
