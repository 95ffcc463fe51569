"""What the runs of a study measured, in one frame and in every table; nothing has to be complete."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from tood.ledger.references import load_references
from tood.ledger.server_scores import load_scores
from tood.ledger.status import Status, known_status, most_urgent
from tood.report.claims_table import write_claims
from tood.report.comparison import compare
from tood.report.tables import COLUMNS, build, read_complexity, write
from tood.runtime.failures import State
from tood.runtime.files import atomic_path
from tood.study.claims import load_claims
from tood.study.declarations import Table, load_tables
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.study.released import ReleasedFile

READINGS = ["run", "seed", "reading", "metric", "value"]


def write_results(plan: Plan, complexity: Path) -> None:
    """Write `metrics.csv`, `table6_readings.csv`, every table and that of the claims from what there is.

    Args:
        complexity: CSV of all models; may be missing.
    """
    paths, statuses = StudyPaths(plan.name), known_status(plan)
    metrics = pd.concat([measured(statuses), read_complexity(complexity)], ignore_index=True)
    metrics = metrics.astype({"seed": "Int64"})  # whole, or absent
    for path, frame in ((paths.metrics, metrics), (paths.readings, readings(statuses))):
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, index=False)
    states: dict[str, list[State]] = {}
    for status in statuses:
        states.setdefault(status.run.id, []).append(status.state)
    about = [*plan.notes([status.training for status in statuses]), *of_data(statuses)]
    urgent = {run: most_urgent(of_seeds) for run, of_seeds in states.items()}
    seeds = {run: plan.seeds_of(run) for run in plan.all_runs}
    references, scores = load_references(plan.all_runs), load_scores(plan.name, plan.all_runs)
    released = {
        status.run.id: status.provenance["released"]
        for status in statuses
        if status.report.get("state") == State.RELEASED and status.provenance.get("released")
    }
    tables = load_tables(runs=plan.all_runs)
    for table in tables.values():
        frame = build(table, metrics, urgent, plan.all_runs, seeds, references, scores)
        notes = [*about, *remarks([row.run for row in table.rows], statuses)]
        if plan.tolerance:
            frame = compare(table, frame, plan.tolerance)
            if any(f"{metric}_difference" in frame for metric in table.metrics):
                notes.append(plan.tolerance.described)
        if plan.imports:
            files = (released.get(row.run) for row in table.rows)
            frame["released"] = [f"{file['file']} {file['sha256']}" if file else "" for file in files]
            choices = {row.run: plan.choices.get(row.run) for row in table.rows}
            notes += [
                f"{run}: {' '.join(choice.remarks)}"
                for run, choice in choices.items()
                if choice and not choice.file
            ]
            table = with_origins(table, released)
        write(table, frame, paths.tables, notes)
    claims = load_claims(plan.all_runs, tables)
    of_claims = remarks([run for claim in claims for run in claim.runs], statuses)
    write_claims(claims, metrics, tables, paths.tables, [*about, *of_claims])


def of_data(statuses: Iterable[Status]) -> list[str]:
    """What the check of the data said of them, such as what training leaves out."""
    said = [(status.provenance.get("data") or {}).get("notes", []) for status in statuses]
    return list(dict.fromkeys(f"Data: {note}" for notes in said for note in notes))


def with_origins(table: Table, released: Mapping[str, Mapping]) -> Table:
    """The table with a footnote at each row of released weights: their file, its hash, and what is stated."""
    rows = []
    for row in table.rows:
        texts = [row.footnote]
        if facts := released.get(row.run):
            declared = {key: facts[key] for key in facts if key in ReleasedFile.model_fields}
            file = ReleasedFile(**declared)
            texts.append(
                f"Released, not trained here: {file.file} of {file.from_whom}, sha256 {facts['sha256']}."
            )
            texts.append(file.stated())
        rows.append(row.model_copy(update={"footnote": " ".join(filter(None, texts))}))
    return table.model_copy(update={"rows": rows})


def measured(statuses: Iterable[Status]) -> pd.DataFrame:
    """Every value there is, and which parts of what it was made with have changed since.

    Returns:
        the columns of `tood.report.tables.COLUMNS`
    """
    values = []
    for status in statuses:
        results: list[tuple[Iterable[tuple[str, float]], list[str]]] = [
            (result.metrics.items(), result.stale) for result in status.results.values()
        ]
        if status.report.get("state") == State.DONE:
            results.append((positives(status.epochs), status.training_stale))
        values += [
            (status.run.id, status.seed, metric, value, ", ".join(stale))
            for metrics, stale in results
            for metric, value in metrics
        ]
    return pd.DataFrame(values, columns=COLUMNS)


def readings(statuses: Iterable[Status]) -> pd.DataFrame:
    """Table 6 under other readings of its definitions, of runs whose Table 6 is up to date.

    Returns:
        the columns of `READINGS`
    """
    entries = [
        (status.run.id, status.seed, reading, metric, math.nan if value is None else value)
        for status in statuses
        if not status.stale
        for group in status.readings.values()
        for reading, metrics in group.items()
        for metric, value in metrics.items()
    ]
    return pd.DataFrame(entries, columns=READINGS)


def positives(epochs: Iterable[Mapping[str, float | None]]) -> list[tuple[str, float]]:
    """Positives per object and their IoU, in the first and the last epoch of a training that has any object.

    Args:
        epochs: as `tood.ledger.curves.by_epoch` gives them; without one there is no metric.
    """
    known = [epoch for epoch in epochs if epoch["positives"] is not None]
    if not known:
        return []
    return [
        (f"{name} ({which})", math.nan if (value := epoch[column]) is None else value)
        for which, epoch in (("first", known[0]), ("last", known[-1]))
        for name, column in (("Positives", "positives"), ("IoU", "positive_iou"))
    ]


def remarks(runs: Iterable[str], statuses: Iterable[Status]) -> list[str]:
    """Why these runs have no result, or none that still holds; one line each."""
    shown = set(runs)
    concerned = [status for status in statuses if status.run.id in shown]
    lines = [
        f"{status.run.id}, seed {status.seed}, {status.state}: {status.reason or 'no reason given'}"
        for status in concerned
        if status.state.stopped
    ]
    titles = dict.fromkeys(status.run.title for status in concerned if status.run.reconstruction)
    lines += [
        f"{title}: no code of its authors was published, so it was written from what is public about it; its "
        "result is not a reproduction of theirs."
        for title in titles
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
