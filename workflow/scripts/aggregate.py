"""Collect what the runs measured into metrics.csv and render every table; nothing has to be complete."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from tood.runtime.files import atomic_path
from tood.study.curves import positives_by_epoch
from tood.study.declarations import Table, load_tables
from tood.study.plan import Plan
from tood.study.status import STOPPED, Status, most_urgent, study_status
from tood.study.tables import COLUMNS, build, read_complexity, write

READINGS = ["run", "seed", "reading", "metric", "value"]


def measured(statuses: Iterable[Status]) -> pd.DataFrame:
    """Every value there is, and which parts of what it was made with have changed since."""
    records = []
    for status in statuses:
        found = [(result.metrics.items(), result.stale) for result in status.results.values()]
        if status.report.get("state") == "done":
            found.append((positives(status.folder / "losses.jsonl"), status.training_stale))
        records += [
            (status.run.id, status.seed, metric, value, ", ".join(stale))
            for metrics, stale in found
            for metric, value in metrics
        ]
    return pd.DataFrame(records, columns=COLUMNS)


def readings(statuses: Iterable[Status]) -> pd.DataFrame:
    """Table 6 under other readings of its definitions, of runs whose Table 6 is up to date."""
    records = [
        (status.run.id, status.seed, reading, metric, value)
        for status in statuses
        if not status.stale
        for group in status.readings.values()
        for reading, metrics in group.items()
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(records, columns=READINGS)


def positives(path: Path) -> list[tuple[str, float]]:
    """Positives of an object and their IoU, in the first and the last epoch of a training."""
    if not path.is_file():
        return []
    epochs = positives_by_epoch(path).set_index("epoch")
    return [
        (f"{name} ({which})", epochs[column].get(epoch, float("nan")))
        for which, epoch in (("first", epochs.index.min()), ("last", epochs.index.max()))
        for name, column in (("Positives", "positives"), ("IoU", "positive_iou"))
    ]


def remarks(table: Table, statuses: Iterable[Status]) -> list[str]:
    """Why runs of this table have no result, or none that still holds; one line each."""
    shown = {row.run for row in table.rows}
    concerned = [status for status in statuses if status.run.id in shown]
    lines = [
        f"{status.run.id}, seed {status.seed}, {status.state}: {status.reason or 'no reason given'}"
        for status in concerned
        if status.state in STOPPED
    ]
    changed: dict[str, list[str]] = {}
    for status in concerned:
        if status.stale:
            changed.setdefault(status.run.id, []).extend(status.stale)
    if changed:
        named = "; ".join(f"{run}: {', '.join(dict.fromkeys(parts))}" for run, parts in changed.items())
        lines.append(
            f"stale: made with something else than the workflow would use now ({named}). Call the workflow "
            "again to renew it; where that finds nothing to do, add `--forcerun train`."
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=json.loads, required=True, help="its options, as JSON")
    parser.add_argument("--complexity", type=Path, required=True, help="CSV of all models")
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()

    plan = Plan(args.study)
    statuses = study_status(plan)
    metrics = pd.concat([measured(statuses), read_complexity(args.complexity)], ignore_index=True)
    metrics = metrics.astype({"seed": "Int64"})  # whole, or absent
    for name, frame in (("metrics.csv", metrics), ("table6_readings.csv", readings(statuses))):
        with atomic_path(args.results / name) as temporary:
            frame.to_csv(temporary, index=False)
    states: dict[str, list[str]] = {}
    for status in statuses:
        states.setdefault(status.run.id, []).append(status.state)
    urgent = {run: most_urgent(found) for run, found in states.items()}
    for table in load_tables(runs=plan.all_runs).values():
        frame = build(table, metrics, urgent, plan.all_runs, plan.seeds)
        write(table, frame, args.results / "tables", [*plan.notes(), *remarks(table, statuses)])


if __name__ == "__main__":
    main()
