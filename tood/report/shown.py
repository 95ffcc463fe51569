"""Which tables a study has, and which of their rows were asked for.

Read at every workflow start.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tood.ledger.status import other_trainings
from tood.study.claims import Claim
from tood.study.declarations import Table
from tood.study.plan import Plan

CLAIMS = "claims"
METHODS = "methods"  # of a study of the user's own data: its runs with their AP, see `tood.report.methods`
METHOD_METRICS = ("AP", "AP50", "AP75", "APS", "APM", "APL")  # that this table has
SWEPT = ("table4", "table_m")  # tables of which figures are drawn
# Of the paper-sized models, so they say nothing of a study of other data
COMPLEXITY_METRICS = ("Head params (M)", "Full params (M)", "Head FLOPs (G)", "Full FLOPs (G)")


def asked_for(plan: Plan) -> list[str]:
    """The runs of a study: those of this call, then others that have a record, each once."""
    return list(dict.fromkeys(training.run for training in (*plan.trainings, *other_trainings(plan))))


def tables_of(plan: Plan, tables: Mapping[str, Table]) -> dict[str, Table]:
    """The declared tables as a study has them.

    A study of the user's own data has none of the paper's values and no row of a run that it does not have.
    Of it a table remains that has more than AP, which is in `METHODS`, or that is a whole sweep.
    """
    if not plan.own_data:
        return dict(tables)
    runs = asked_for(plan)
    cut = {name: _without_paper(table, runs) for name, table in tables.items()}
    whole = [name for name in SWEPT if len(cut[name].rows) == len(tables[name].rows)]
    return {
        name: table
        for name, table in cut.items()
        if table.rows and (name in whole or not set(table.metrics) <= set(METHOD_METRICS))
    }


def claims_of(plan: Plan, claims: Iterable[Claim]) -> list[Claim]:
    """The claims that a study judges: all, or of one of the user's own data those on its runs."""
    runs = set(asked_for(plan)) if plan.own_data else None
    return [
        claim
        for claim in claims
        if runs is None or (runs.issuperset(claim.runs) and claim.metric not in COMPLEXITY_METRICS)
    ]


def table_names(plan: Plan, tables: Mapping[str, Table]) -> list[str]:
    """The names of all tables that are written for a study, in the order of the page."""
    names = sorted(tables_of(plan, tables), key=lambda name: (not name.startswith("table"), name))
    return [*([METHODS] if plan.own_data else []), CLAIMS, *names]


def _without_paper(table: Table, runs: Collection[str]) -> Table:
    metrics = {name: spec for name, spec in table.metrics.items() if name not in COMPLEXITY_METRICS}
    changes: dict[str, Any] = {"paper": {}, "paper_set": None}
    if table.printed and table.footnotes_of == "paper":
        changes["footnote"] = None
    rows = [row.model_copy(update=changes) for row in table.rows if row.run in runs]
    return table.model_copy(update={"metrics": metrics, "paper_set": None, "rows": rows})
