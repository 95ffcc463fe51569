"""The trainings of a study that need not be done, as a record of theirs stands."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from tood.ledger.status import Status, status_with_records
from tood.runtime.failures import State
from tood.study.declarations import Table
from tood.study.paths import ALIGNMENT, AP
from tood.study.plan import Plan, Training


def analysed_runs(plan: Plan, tables: Mapping[str, Table]) -> list[str]:
    """The study's runs in Table 6 and what extends it, whose classification and localisation are compared."""
    ids, own = {run.id for run in plan.runs}, set(tables["table6"].metrics)
    compared = [row.run for table in tables.values() if own <= set(table.metrics) for row in table.rows]
    return [run for run in dict.fromkeys(compared) if run in ids]


def recorded(
    plan: Plan, tables: Mapping[str, Table], statuses: Iterable[Status] | None = None
) -> dict[Training, Path]:
    """The trainings of the study for which a record stands, and the record of each.

    Those that were trained here, and those that the study is to train afresh, are not among them.

    Args:
        statuses: result of `status_with_records`; None asks for it.
    """
    if plan.study.fresh:
        return {}
    analysed = analysed_runs(plan, tables)
    standing: dict[Training, Path] = {}
    for status in status_with_records(plan) if statuses is None else statuses:
        wanted = {AP, *([ALIGNMENT] if status.run.id in analysed else [])}
        complete = status.state.finished and wanted <= set(status.results)
        if status.record and (complete or status.state == State.DIVERGED):
            standing[status.training] = status.record.path
    return standing
