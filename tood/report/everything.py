"""All that is shown of a study, from what is there."""

from collections.abc import Mapping

from tood.ledger.standing import recorded
from tood.ledger.status import known_status
from tood.report.figures import figures, up_to_date, without_weights
from tood.report.metrics import write_results
from tood.report.page import write_report
from tood.study.declarations import Table
from tood.study.paths import COMPLEXITY, StudyPaths
from tood.study.plan import Plan


def render_what_is_there(plan: Plan, tables: Mapping[str, Table]) -> bool:
    """Tables and report from what is there, with what failed or is missing named.

    Returns:
        False where no training ever started and no record is there: there is nothing to say
    """
    paths = StudyPaths(plan.name)
    if not any(status.report for status in known_status(plan)):
        return False
    sources = figures(plan, tables)
    lacking = without_weights(plan, sources, recorded(plan, tables))
    write_results(plan, COMPLEXITY)
    pictures = {name: paths.figures / f"{name}.png" for name in sources}
    shown = [name for name, picture in pictures.items() if up_to_date(picture, plan, sources[name])]
    why = "not there yet, or older than what it would show; call the workflow again"
    absent = {name: lacking.get(name, why) for name in sources if name not in shown}
    write_report(plan, [pictures[name] for name in shown], absent)
    return True
