"""Results of checks of the machine, and how they are shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from tood.runtime.text import aligned


class Outcome(StrEnum):
    """Of one check."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


_STYLES = {Outcome.OK: "green", Outcome.MISSING: "bold red", Outcome.NOTE: "yellow"}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    state: Outcome
    detail: str
    hint: str = ""
    required: bool = False
    section: str = ""  # filled in by `examine`


def lacks_required(findings: Iterable[Finding]) -> bool:
    """Whether something that the study requires is missing."""
    return any(finding.required and finding.state == Outcome.MISSING for finding in findings)


def show(findings: Sequence[Finding]) -> None:
    """Print findings to stdout: a table in a terminal, one aligned line per finding in a log."""
    from rich.console import Console  # here, as the guard of every call does without rich
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        rows = [(f.section, f.what, f.state, "; ".join(filter(None, (f.detail, f.hint)))) for f in findings]
        print(aligned(rows))
        return
    table = Table("", "what", "state", "detail")
    for section, members in groupby(findings, lambda finding: finding.section):
        for number, finding in enumerate(members):
            # As Text, so that brackets in a path are not read as markup.
            detail = Text(finding.detail)
            if finding.hint:
                detail.append(f"\n{finding.hint}", style="italic")
            state = Text(finding.state, style=_STYLES[finding.state])
            table.add_row(Text("" if number else section, style="bold"), Text(finding.what), state, detail)
        table.add_section()
    console.print(table)
