"""`tood progress`: the states of a study's runs, also while they train."""

import argparse
import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from statistics import mean

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tood.commands.options import add_study, print_json
from tood.commands.studies import study_header
from tood.ledger.plans import load_study
from tood.ledger.status import Status, study_status
from tood.runtime.failures import State
from tood.runtime.text import aligned
from tood.study.paths import AP
from tood.study.plan import Plan

SECONDS_BETWEEN_UPDATES = 3.0
SECONDS_BETWEEN_LINES = 60.0  # in a log
COLUMNS = ("run", "seed", "state", "epoch", "iteration", "images/s", "left", "AP", "device", "attempt")
# A terminal may show the first rows only, so running ones come first.
_FIRST = (State.RUNNING, *(state for state in State if state != State.RUNNING))
_STYLES = {
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.RELEASED: "green",
    State.PENDING: "dim",
    State.STALE: "yellow",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_study(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="repeat until every state is final")
    how.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the state of all runs of a study: a table in a terminal, plain lines in a log, or JSON."""
    plan = load_study(options.name)
    if options.json:
        statuses = study_status(plan)
        runs = [dict(zip(COLUMNS, _row(status), strict=True)) for status in statuses]
        print_json({"runs": runs, "sum": totals(plan, statuses)})
        return 0
    console = Console()
    plain = not console.is_terminal or bool(os.environ.get("NO_COLOR"))
    with contextlib.suppress(KeyboardInterrupt):  # the way to stop watching
        print(study_header(plan, options.name))
        _print(plan, options.watch) if plain else _draw(console, plan, options.watch)
    return 0


def totals(plan: Plan, statuses: Sequence[Status]) -> dict:
    """The number of runs in each state, and an estimate of the seconds until all are trained.

    A running training reports its own time left. A training to come takes the mean time per epoch of those
    that are done or running. As many trainings as now are assumed to run in parallel. `seconds_left` is None
    while no training has reported a time.
    """
    counts = Counter(status.state for status in statuses)
    per_epoch, left, coming = [], 0.0, 0
    for status in statuses:
        report, epochs = status.report, status.run.epochs
        if status.state == State.RUNNING and report.get("seconds_left") is not None:
            iterations, done = report.get("iterations") or 0, report.get("iteration") or 0
            left += report["seconds_left"]
            if iterations > done:
                per_epoch.append(report["seconds_left"] * iterations / (iterations - done) / epochs)
            continue
        if report.get("seconds"):
            per_epoch.append(report["seconds"] / epochs)
        if plan.imports:
            continue  # an import takes seconds
        if status.state in (State.PENDING, State.RUNNING, State.INTERRUPTED) or status.training_stale:
            coming += epochs
    known = per_epoch or not coming
    if known and coming:
        left += coming * mean(per_epoch)
    seconds = left / max(counts[State.RUNNING], 1) if known else None
    return {
        "study": plan.name,
        "states": {state: counts[state] for state in State if counts[state]},
        "seconds_left": seconds,
    }


def _row(status: Status) -> tuple:
    """The values of COLUMNS; None for a value that is not known."""
    report = status.report
    epoch, iteration = (
        f"{report[done]}/{report.get(total)}" if report.get(done) is not None else None
        for done, total in (("epoch", "epochs"), ("iteration", "iterations"))
    )
    running = status.state == State.RUNNING
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
    sums = totals(plan, statuses)
    counts = ", ".join(f"{count} {state}" for state, count in sums["states"].items())
    left = sums["seconds_left"]
    return f"{plan.name}: {counts}; " + ("time left unknown" if left is None else f"{_duration(left)} left")


def _duration(seconds: float) -> str:
    try:
        return str(timedelta(seconds=round(seconds)))
    except (OverflowError, ValueError):
        return "unknown"


def _updates(plan: Plan, watch: bool, seconds: float) -> Iterator[list[Status]]:
    """The statuses now, and when watching once more each few seconds, until every state is final."""
    while True:
        statuses = study_status(plan)
        yield statuses
        if not watch or all(status.settled for status in statuses):
            return
        time.sleep(seconds)


def _print(plan: Plan, watch: bool) -> None:
    """Aligned lines; an update prints only those that changed."""
    printed = set()
    for statuses in _updates(plan, watch, SECONDS_BETWEEN_LINES):
        rows = [(*COLUMNS, ""), *((*_cells(status), status.reason) for status in statuses)]
        for row, line in zip(rows, aligned(rows).splitlines(), strict=True):
            if row not in printed:
                printed.add(row)
                print(line)
        print(_sum_line(plan, statuses), flush=True)


def _draw(console: Console, plan: Plan, watch: bool) -> None:
    """A table in a terminal."""
    with Live(console=console, auto_refresh=False) as live:
        for statuses in _updates(plan, watch, SECONDS_BETWEEN_UPDATES):
            live.update(_table(plan, statuses), refresh=True)


def _table(plan: Plan, statuses: Sequence[Status]) -> Table:
    table = Table(*COLUMNS, title=_sum_line(plan, statuses), title_justify="left")
    for status in sorted(statuses, key=lambda status: _FIRST.index(status.state)):
        table.add_row(*_cells(status), style=_STYLES.get(status.state, "bold red"))
    return table
