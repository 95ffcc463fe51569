"""What the runs of a study measured, in one frame and in every table; nothing has to be complete."""

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tood.ledger.records import read_record
from tood.ledger.references import load_references
from tood.ledger.server_scores import load_scores
from tood.ledger.status import Status, known_status, most_urgent
from tood.report import shared_seeds
from tood.report.claims_table import write_claims
from tood.report.comparison import compare
from tood.report.evidence import Evidence
from tood.report.kept import checks
from tood.report.methods import write_methods
from tood.report.readings import READINGS
from tood.report.shown import asked_for, claims_of, tables_of
from tood.report.tables import (
    FEWEST,
    NO_METRICS,
    as_metrics,
    build,
    joined,
    read_complexity,
    with_enough_objects,
    write,
)
from tood.runtime.failures import State
from tood.runtime.files import atomic_path
from tood.study.claims import load_claims
from tood.study.declarations import Table, load_tables
from tood.study.paths import CONFIGS, RESULTS, StudyPaths
from tood.study.plan import Plan
from tood.study.released import ReleasedFile
from tood.study.source_files import config_settings

RENEW = "Call the workflow again to renew it; where that finds nothing to do, add `--forcerun train`."


def write_results(plan: Plan, complexity: Path) -> None:
    """Write `metrics.csv`, `table6_readings.csv`, every table and that of the claims from what there is.

    Args:
        complexity: CSV of all models; may be missing.
    """
    paths, statuses = StudyPaths(plan.name), known_status(plan)
    counted = read_complexity(complexity)
    counted = counted[~counted["run"].isin(list(reshaped(plan)))]
    # In one order, so that a call of some runs leaves the files as they are.
    runs = list(plan.all_runs)
    in_order = sorted(statuses, key=lambda status: (runs.index(status.run.id), status.seed))
    metrics = joined([measured(plan, in_order), counted]).assign(study=plan.name)
    of_readings = readings(in_order)
    for path, frame in ((paths.metrics, metrics), (paths.readings, of_readings)):
        with atomic_path(path) as temporary:
            frame.to_csv(temporary, index=False)
    declared = load_tables(runs=plan.all_runs)
    about = [*plan.notes([status.training for status in statuses]), *of_data(statuses)]
    _write_tables(plan, statuses, metrics, declared, about)
    claims = claims_of(plan, load_claims(plan.all_runs, declared))
    evidence = Evidence(plan.name, metrics, plan.scale.comparable, of_readings, checks(RESULTS, plan.name))
    notes = [*about, *remarks([run for claim in claims for run in claim.runs], statuses)]
    write_claims(claims, evidence, declared, paths.tables, notes, paper=not plan.own_data)


def _write_tables(
    plan: Plan,
    statuses: Sequence[Status],
    metrics: pd.DataFrame,
    declared: Mapping[str, Table],
    about: Sequence[str],
) -> None:
    """Every table of the study; `about` are the notes below each."""
    folder, shown = StudyPaths(plan.name).tables, with_enough_objects(metrics)
    states: dict[str, list[State]] = {}
    for status in statuses:
        states.setdefault(status.run.id, []).append(status.state)
    urgent = {run: most_urgent(of_seeds) for run, of_seeds in states.items()}
    seeds = {run: plan.seeds_of(run) for run in plan.all_runs}
    references, scores = load_references(plan.all_runs), load_scores(plan.name, plan.all_runs)
    released = _released(statuses)
    for table in tables_of(plan, declared).values():
        frame = build(table, shown, urgent, plan.all_runs, seeds, references, scores)
        notes = [*about, *remarks([row.run for row in table.rows], statuses), *of_sizes(table, metrics)]
        if plan.tolerance:
            frame = compare(table, frame, plan.tolerance)
            if any(f"{metric}_difference" in frame for metric in table.metrics):
                notes.append(plan.tolerance.described)
        if plan.imports:
            files = (released.get(row.run) for row in table.rows)
            frame["released"] = [f"{file['file']} {file['sha256']}" if file else "" for file in files]
            notes += _without_file(plan, table)
            table = with_origins(table, released)
        write(table, frame, folder, [*notes, *shared_seeds.remark(metrics, table)])
    if plan.own_data:
        runs = [plan.all_runs[run] for run in asked_for(plan)]
        write_methods(runs, shown, urgent, folder, [*about, *remarks([run.id for run in runs], statuses)])


def _released(statuses: Iterable[Status]) -> dict[str, Mapping]:
    """What is known of the released file of each run that has one."""
    return {
        status.run.id: status.provenance["released"]
        for status in statuses
        if status.report.get("state") == State.RELEASED and status.provenance.get("released")
    }


def _without_file(plan: Plan, table: Table) -> list[str]:
    """Why rows have no released file, a line for each run."""
    choices = {row.run: plan.choices.get(row.run) for row in table.rows}
    return [
        f"{run}: {' '.join(choice.remarks)}" for run, choice in choices.items() if choice and not choice.file
    ]


def reshaped(plan: Plan) -> set[str]:
    """The runs whose networks a study varies, so that counts of the declared ones are not theirs."""
    networks = tuple(f"model.{part}." for part in ("backbone", "neck", "bbox_head"))
    return {
        run for run, changed in plan.variations.items() if any(key.startswith(networks) for key in changed)
    }


def of_sizes(table: Table, metrics: pd.DataFrame) -> list[str]:
    """Which of a table's metrics are not shown, as too few objects are of their size class; one line."""
    of_table = metrics[metrics["metric"].isin(list(table.metrics))]
    shown = with_enough_objects(of_table)["value"].notna()
    hidden = of_table.loc[~shown & of_table["value"].notna(), "metric"].unique()
    if not len(hidden):
        return []
    return [f"Not shown, as fewer than {FEWEST} objects have this size: {', '.join(hidden)}."]


def of_data(statuses: Iterable[Status]) -> list[str]:
    """What the check of the data said of them, such as what training leaves out."""
    notes = [(status.provenance.get("data") or {}).get("notes", []) for status in statuses]
    return list(dict.fromkeys(f"Data: {note}" for of_status in notes for note in of_status))


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


def measured(plan: Plan, statuses: Iterable[Status]) -> pd.DataFrame:
    """Every value there is, what it was made with, and whether that has changed since.

    Returns:
        The columns of `tood.report.tables.COLUMNS`. `data_seed` is that of drawn images, `lr` the learning
        rate after the warm-up, `epochs` is of the whole training.
    """
    values: list[dict[str, Any]] = []
    for status in statuses:
        results: list[tuple[Iterable[tuple[str, float]], list[str]]] = [
            (result.metrics.items(), result.stale) for result in status.results.values()
        ]
        if status.report.get("state") == State.DONE:
            results.append((positives(status.epochs), status.training_stale))
        made_with, objects = _made_with(plan, status), _objects(plan, status)
        values += [
            made_with
            | {"metric": metric, "value": value, "objects": objects.get(metric), "stale": bool(stale)}
            for metrics, stale in results
            for metric, value in metrics
        ]
    return as_metrics(pd.DataFrame(values)) if values else NO_METRICS


def _made_with(plan: Plan, status: Status) -> dict[str, Any]:
    """What distinguishes a training from others, as columns of `metrics.csv`."""
    settings: Mapping[str, Any] = status.provenance.get("settings") or plan.settings(status.run.id)
    rate = (settings.get("train") or {}).get("lr")
    if rate is None:  # the scale leaves it to the configuration, which may be a program
        with contextlib.suppress(ValueError, KeyError):
            rate = config_settings(CONFIGS / status.run.config)["train"]["lr"]
    return {
        "study": plan.name,
        "run": status.run.id,
        "seed": status.seed,
        "data_seed": plan.drawing.seed if plan.drawing else None,
        "lr": None if plan.imports else rate,
        "epochs": None if plan.imports else (settings.get("run") or {}).get("epochs"),
    }


def _objects(plan: Plan, status: Status) -> Mapping[str, int]:
    """How many objects APS, APM and APL rest on; records have it, also that of a training that is here."""
    record = status.record or read_record(StudyPaths(plan.name).record(*status.training))
    return record.objects if record else {}


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
    lines += reconstructions(concerned)
    changed: dict[str, list[str]] = {}
    for status in concerned:
        if status.stale:
            changed.setdefault(status.run.id, []).extend(status.stale)
    if changed:
        named = "; ".join(f"{run}: {', '.join(dict.fromkeys(parts))}" for run, parts in changed.items())
        lines.append(f"stale: made with something else than the workflow would use now ({named}). {RENEW}")
    return lines


def reconstructions(statuses: Iterable[Status]) -> list[str]:
    """A line for each method whose code was not published."""
    titles = dict.fromkeys(status.run.title for status in statuses if status.run.reconstruction)
    return [
        f"{title}: no code of its authors was published, so it was written from what is public about it; its "
        "result is not a reproduction of theirs."
        for title in titles
    ]
