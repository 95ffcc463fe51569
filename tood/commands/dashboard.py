"""What `tood show` and `tood progress` print: one run in full, or one line per run of a study."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from statistics import mean
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tood.ledger.status import STATES, Status, call_of, load_study, moment, read_status, study_status
from tood.runtime.files import finite, to_json
from tood.runtime.text import aligned
from tood.study.declarations import ExperimentError, cells_of, load_tables, unknown_run
from tood.study.paths import AP
from tood.study.plan import Plan

SECONDS_BETWEEN_UPDATES = 3.0
SECONDS_BETWEEN_LINES = 60.0  # in a log
COLUMNS = ("run", "seed", "state", "epoch", "iteration", "images/s", "left", "AP", "device", "attempt")
# A terminal may show the first rows only, so running ones come first.
_FIRST = ("running", *(state for state in STATES if state != "running"))
_STYLES = {"running": "cyan", "done": "green", "released": "green", "pending": "dim", "stale": "yellow"}


# One run


def show_run(run_id: str, name: str | None = None, seed: int | None = None, as_json: bool = False) -> str:
    """Everything known of a run: state, results, provenance, and the files they are in.

    Args:
        run_id: id of a run in `experiments/runs.yaml`.
        name: name of the study; None takes the study that was called last.
        seed: seed to show; None shows all seeds of the study.
        as_json: whether to return a list of objects, one per seed, instead of text.

    Raises:
        ExperimentError: there is no such run or study.
    """
    plan = load_study(name)
    if run_id not in plan.all_runs:
        raise ExperimentError(unknown_run(run_id, plan.all_runs))
    run = plan.all_runs[run_id]
    cells = cells_of(run_id, load_tables(runs=plan.all_runs))
    seeds = (plan.seeds_of(run_id) if seed is None else [seed]) if run.implemented else []
    found = [_facts(read_status(plan, run_id, number), plan) for number in seeds]
    if as_json:
        return to_json(found, indent=2, ensure_ascii=False)
    head = {"run": f"{run_id}: {run.title}", "cells": "; ".join(cells), "study": plan.name}
    if not run.implemented:
        head["state"] = f"{run.state}: nothing trains it"
    return "\n\n".join([_lines(head), *map(_lines, found)])


def _facts(status: Status, plan: Plan) -> dict:
    """Everything known of one seed, in the order of output."""
    facts: dict[str, Any] = {
        "run": status.run.id,
        "seed": status.seed,
        "state": status.state,
        "reason": status.reason,
    }
    choice = plan.choices.get(status.run.id)
    if choice and not choice.file:
        facts["released"] = "; ".join(choice.remarks)
    elif status.state == "pending" and not status.results:
        call = call_of(plan, runs=status.run.id, seeds=status.seed)
        facts["imported by" if plan.imports else "trained by"] = call
    if status.report:
        report = {key: value for key, value in status.report.items() if key not in facts}
        facts["import" if plan.imports else "training"] = report
    for name, result in status.results.items():
        facts[name] = finite(result.metrics)
        if result.stale:
            facts[name]["stale"] = result.stale
    if status.record:
        facts["record"] = status.record.path.as_posix()
    if status.provenance:
        facts["provenance"] = status.provenance
    files = sorted(path for path in status.folder.rglob("*") if path.is_file())
    facts["files"] = [str(path) for path in files if not path.name.startswith(".")]
    return {key: value for key, value in facts.items() if value not in ("", [])}


def _lines(facts: dict, indent: str = "") -> str:
    """One line per key and value; a mapping is indented below its key."""
    lines = []
    width = max(map(len, facts)) + 2
    for key, value in facts.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}", _lines(value, indent + "  ")]
            continue
        if key in ("started", "updated", "finished") and isinstance(value, int | float):
            value = moment(value)
        elif isinstance(value, float):
            value = f"{value:.6g}"
        elif isinstance(value, list):
            separator = ("\n" + indent + " " * width) if key == "files" else ", "
            value = separator.join(str(entry) for entry in value)
        if value is None or value in ("", {}):
            value = "–"
        lines.append(f"{indent}{key:<{width}}{value}")
    return "\n".join(lines)


# All runs


def show_progress(name: str | None = None, watch: bool = False, as_json: bool = False) -> None:
    """Print the state of all runs of a study: a table in a terminal, plain lines in a log.

    Args:
        name: name of the study; None takes the study that was called last.
        watch: whether to repeat this until every state is final, or until Ctrl-C.
        as_json: whether to print one object instead, with `runs` and `sum`.

    Raises:
        ExperimentError: there is no such study.
    """
    plan = load_study(name)
    if as_json:
        statuses = study_status(plan)
        runs = [dict(zip(COLUMNS, _row(status), strict=True)) for status in statuses]
        print(to_json({"runs": runs, "sum": summary(plan, statuses)}, indent=2, ensure_ascii=False))
        return
    console = Console()
    plain = not console.is_terminal or bool(os.environ.get("NO_COLOR"))
    with contextlib.suppress(KeyboardInterrupt):  # the way to stop watching
        _watch_plain(plan, watch) if plain else _watch(console, plan, watch)


def summary(plan: Plan, statuses: Sequence[Status]) -> dict:
    """The number of runs in each state, and an estimate of the seconds until all are trained.

    A running training reports its own time left. A training to come takes the mean time per epoch of those
    that are done or running. As many trainings as now are assumed to run in parallel. `seconds_left` is None
    while no training has reported a time.
    """
    counts = Counter(status.state for status in statuses)
    per_epoch, left, coming = [], 0.0, 0
    for status in statuses:
        report, epochs = status.report, status.run.epochs
        if status.state == "running" and report.get("seconds_left") is not None:
            iterations, done = report.get("iterations") or 0, report.get("iteration") or 0
            left += report["seconds_left"]
            if iterations > done:
                per_epoch.append(report["seconds_left"] * iterations / (iterations - done) / epochs)
            continue
        if report.get("seconds"):
            per_epoch.append(report["seconds"] / epochs)
        if plan.imports:
            continue  # an import takes seconds
        if status.state in ("pending", "running", "interrupted") or status.training_stale:
            coming += epochs
    known = per_epoch or not coming
    if known and coming:
        left += coming * mean(per_epoch)
    seconds = left / max(counts["running"], 1) if known else None
    return {
        "study": plan.name,
        "states": {state: counts[state] for state in STATES if counts[state]},
        "seconds_left": seconds,
    }


def _row(status: Status) -> tuple:
    """The values of COLUMNS; None for a value that is not known."""
    report = status.report
    epoch, iteration = (
        f"{report[done]}/{report.get(total)}" if report.get(done) is not None else None
        for done, total in (("epoch", "epochs"), ("iteration", "iterations"))
    )
    running = status.state == "running"
    return (
        *(status.run.id, status.seed, status.state, epoch, iteration),
        *(report.get("images_per_second"), report.get("seconds_left") if running else None),
        *(status.ap, report.get("device"), report.get("attempt")),
    )


def _cells(status: Status) -> list[str]:
    """The row as text."""
    values = dict(zip(COLUMNS, _row(status), strict=True))
    if values["images/s"] is not None:
        values["images/s"] = f"{values['images/s']:.1f}"
    if values["left"] is not None:
        values["left"] = _duration(values["left"])
    if values["AP"] is not None:
        values["AP"] = f"{values['AP']:.1f}" + (" (stale)" if status.results[AP].stale else "")
    return ["–" if value is None else str(value) for value in values.values()]


def _sum_line(plan: Plan, statuses: Sequence[Status]) -> str:
    found = summary(plan, statuses)
    counts = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    left = found["seconds_left"]
    return f"{plan.name}: {counts}; " + ("time left unknown" if left is None else f"{_duration(left)} left")


def _duration(seconds: float) -> str:
    try:
        return str(timedelta(seconds=round(seconds)))
    except (OverflowError, ValueError):
        return "unknown"


def _settled(statuses: Iterable[Status]) -> bool:
    return all(status.settled for status in statuses)


def _watch_plain(plan: Plan, watch: bool) -> None:
    """Aligned lines; an update prints only those that changed."""
    printed = set()
    while True:
        statuses = study_status(plan)
        rows = [(*COLUMNS, ""), *((*_cells(status), status.reason) for status in statuses)]
        for row, line in zip(rows, aligned(rows).splitlines(), strict=True):
            if row not in printed:
                printed.add(row)
                print(line)
        print(_sum_line(plan, statuses), flush=True)
        if not watch or _settled(statuses):
            return
        time.sleep(SECONDS_BETWEEN_LINES)


def _watch(console: Console, plan: Plan, watch: bool) -> None:
    statuses = study_status(plan)
    if not watch:
        console.print(_table(plan, statuses))
        return
    with Live(_table(plan, statuses), console=console, auto_refresh=False) as live:
        while not _settled(statuses):
            time.sleep(SECONDS_BETWEEN_UPDATES)
            statuses = study_status(plan)
            live.update(_table(plan, statuses), refresh=True)


def _table(plan: Plan, statuses: Sequence[Status]) -> Table:
    table = Table(*COLUMNS, title=_sum_line(plan, statuses), title_justify="left")
    for status in sorted(statuses, key=lambda status: _FIRST.index(status.state)):
        table.add_row(*_cells(status), style=_STYLES.get(status.state, "bold red"))
    return table
