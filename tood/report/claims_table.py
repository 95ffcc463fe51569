"""The table of the paper's claims with the verdicts of a study, in CSV, Markdown and LaTeX."""

import math
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tood.report.contrasts import CONFIDENCE, CONFIDENCE_WITHIN
from tood.report.effects import effect_with_interval, percent, shown
from tood.report.evidence import Evidence, judge, summary
from tood.report.markup import DASH, latex, latex_table, markdown, markdown_table
from tood.report.readings import DEFAULT
from tood.report.tables import footnote_marks
from tood.report.verdicts import Verdict
from tood.runtime.files import write_text
from tood.study.claims import Claim, load_checks
from tood.study.declarations import Table, load_runs

NAME = "claims"  # of the table's files
_SIDES = {Verdict.SAME_DIRECTION: "inside of", Verdict.OPPOSITE: "outside of"}
_WORDS = 3  # columns that are not numbers
_SHORT_HEADER = ["Claim", "Verdict", "Metric", "paper", "ours", "Seeds", "Robustness"]
_HEADER = [*_SHORT_HEADER[:-1], "SD", "p", "Holm's p", "Robustness", "Section"]
_INTERVALS = (
    f"Intervals: {CONFIDENCE:.0%}, by Student's t over paired seeds; {CONFIDENCE_WITHIN:.0%} where a claim "
    "has a margin, which is two one-sided tests at 5%. A verdict needs at least two seeds. p is two-sided, "
    "of no difference. Where a claim has a margin p is of a difference outside of it: a small p says that "
    "the runs are alike, and one near 1 that they are not. Holm's p is adjusted over all contrasts of all "
    "claims. Verdicts rest on the intervals, without this adjustment."
)
_PERCENT = (
    "Percentages: the difference in percent of the number of boxes of the run that is compared with, as "
    "numbers of boxes depend on the number of images."
)
_LEVEL = 1 - CONFIDENCE
_LOST_BY_HOLM = "Not significant after Holm's correction: p is below .05, and Holm's p is not."
_CAPTION = (
    "Statements of the paper as differences between runs (Feng et al., TOOD, ICCV 2021), signed so that the "
    "paper's effect is positive, or with a margin around 0. {paper}SD is of the difference, over seeds."
)
_PAPER = "The paper's effects are differences of the values that it prints. "


def write_claims(
    claims: Sequence[Claim],
    evidence: Evidence,
    tables: Mapping[str, Table],
    directory: Path,
    notes: Sequence[str],
    paper: bool = True,
) -> None:
    """Write `claims.csv`, a row for each contrast, and `claims.md` and `.tex`, a row for each claim.

    Args:
        claims: with their tables among `tables`.
        evidence: what they are judged by.
        tables: by name.
        directory: of the files.
        notes: facts about the study.
        paper: whether the paper's own effects are shown, which are of COCO.
    """
    judged = judge(claims, evidence, tables)
    if not paper:
        judged["paper"] = math.nan
    write_text(directory / f"{NAME}.csv", judged.to_csv(index=False, float_format="%.8g"))
    frame = summary(judged)
    header = [name for name in _HEADER if paper or name != "paper"]
    margins = [f"{claim.claim}: {claim.why}" for claim in claims if claim.why]
    below = [_INTERVALS, *_on_percent(frame), *_looked_again(judged, evidence.study), *margins, *notes]
    body, footnotes = _layout(claims, frame, tables, header)
    write_text(directory / f"{NAME}.md", _markdown(body, [*footnotes, *map(markdown, below)], header))
    body, footnotes = _layout(claims, frame, tables, header, latex, r"\textsuperscript{{{}}}")
    caption = latex(_caption(header))
    text = latex_table(NAME, caption, header, body, _WORDS, [*footnotes, *map(latex, below)])
    write_text(directory / f"{NAME}.tex", text)


def claims_markdown(claims: Sequence[Claim], evidence: Evidence, tables: Mapping[str, Table]) -> str:
    """The claims for which a run was measured, in Markdown; arguments as of `write_claims`."""
    judged = judge(claims, evidence, tables)
    frame = summary(judged)
    known = [index for index, verdict in enumerate(frame["verdict"]) if verdict != Verdict.PENDING]
    chosen = [claims[index] for index in known]
    others = f"Claims without a verdict, as a run is not trained: {len(claims) - len(chosen)}."
    below = [_INTERVALS, *_on_percent(frame.iloc[known]), *_looked_again(judged, evidence.study)]
    below += [others] if len(chosen) < len(claims) else []
    body, footnotes = _layout(chosen, frame.iloc[known], tables, _HEADER)
    return _markdown(body, [*footnotes, *map(markdown, below)], _HEADER)


def headlines_markdown(
    claims: Sequence[Claim], judged: pd.DataFrame, tables: Mapping[str, Table], caption: str
) -> str:
    """The claims that are declared as headlines, in Markdown.

    Args:
        claims: all of them.
        judged: what `judge` says of them.
        tables: by name.
        caption: in Markdown.
    """
    chosen = [claim for claim in claims if claim.headline]
    frame = summary(judged).set_index("id", drop=False).loc[[claim.id for claim in chosen]]
    body, footnotes = _layout(chosen, frame, tables, _SHORT_HEADER)
    below = [*footnotes, *map(markdown, _on_percent(frame))]
    return markdown_table(caption, _SHORT_HEADER, body, _WORDS, below)


def _layout(
    claims: Sequence[Claim],
    frame: pd.DataFrame,
    tables: Mapping[str, Table],
    header: Sequence[str],
    escape: Callable[[str], str] = markdown,
    superscript: str = "<sup>{}</sup>",
) -> tuple[list[list[str]], list[str]]:
    """The columns of the body that a header names, and footnotes, escaped."""
    specs = [tables[claim.table].metrics[claim.metric] for claim in claims]
    rows = frame.to_dict("records")
    lost = [row["p"] < _LEVEL <= row["holm_p"] for row in rows]
    texts = [*(row["note"] for row in rows), _LOST_BY_HOLM if any(lost) else None]
    marks = footnote_marks(texts, string.ascii_letters, superscript)
    body = []
    for row, spec, by_holm in zip(rows, specs, lost, strict=True):
        cells = dict(zip(_HEADER, map(escape, _cells(row, spec)), strict=True))
        cells["Claim"] += marks.get(row["note"], "")
        cells["Verdict"] += marks[_LOST_BY_HOLM] if by_holm else ""
        body.append([cells[name] for name in header])
    return body, [f"{mark} {escape(text)}" for text, mark in marks.items()]


def _markdown(body: Sequence[Sequence[str]], below: Sequence[str], header: Sequence[str]) -> str:
    return markdown_table(f"**Claims.** {markdown(_caption(header))}", header, body, _WORDS, below)


def _on_percent(frame: pd.DataFrame) -> list[str]:
    return [_PERCENT] if frame[["base", "paper_base"]].notna().any(axis=None) else []


def _looked_again(judged: pd.DataFrame, study: str) -> list[str]:
    """What the column "Robustness" names, and which other studies have no values yet; none without others."""
    names = [name for name in dict.fromkeys(judged["check"]) if name]
    if not names and set(judged["reading"]) == {DEFAULT}:
        return []
    what = {check.name: check.what for check in load_checks(study, load_runs())}
    studies = [f"{name}, {what[name]}" for name in names if what.get(name)]
    lines = [
        "Robustness: Welch, intervals that do not pair seeds; a reading, Table 6 under another definition "
        f"that the paper's words allow{''.join(f'; {each}' for each in studies)}."
    ]
    measured = set(judged.loc[judged["seeds"] > 0, "check"])
    if pending := [name for name in names if name not in measured]:
        lines.append(f"Not trained yet: {', '.join(pending)}.")
    return lines


def _caption(header: Sequence[str]) -> str:
    return _CAPTION.format(paper=_PAPER if "paper" in header else "")


def verdict_with_welch(row: Mapping) -> str:
    """The verdict in a row of `summary`, and what Welch's interval says where that is something else.

    Of a claim that runs are alike it has also the side of the margin.
    """
    side = "" if math.isnan(row["within"]) else _SIDES.get(row["direction"], "")
    return row["verdict"] + (f": {side} the margin" if side else "") + by_welch(row)


def by_welch(row: Mapping) -> str:
    """What Welch's interval says of a row of `judge`, in brackets; empty where it says the same."""
    return "" if row["direction"] == row["welch_direction"] else f" (by Welch: {row['welch_direction']})"


def shown_p(value: float) -> str:
    """A p-value as tables show it."""
    return DASH if math.isnan(value) else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def margin(row: Mapping, spec: str) -> str:
    """What follows the claim that runs are alike: within which margin, and which run is subtracted."""
    if math.isnan(row["within"]):
        return ""
    return f" (within {format(row['within'], spec)}; {row['contrast'].replace(' - ', ' − ')})"


def _cells(row: Mapping, spec: str) -> list[str]:
    seeds = str(row["seeds"]) if row["seeds"] or math.isnan(row["mean"]) else "none"
    return [
        f"{row['number']}: {row['claim']}{margin(row, spec)}",
        verdict_with_welch(row),
        row["metric"],
        "; ".join(filter(None, [shown(row["paper"], spec), percent(row["paper"], row["paper_base"])])),
        "; ".join(filter(None, [effect_with_interval(row, spec), percent(row["mean"], row["base"])])),
        seeds,
        DASH if math.isnan(row["sd"]) else format(row["sd"], spec),
        shown_p(row["p"]),
        shown_p(row["holm_p"]),
        row["robustness"] or DASH,
        row["section"],
    ]
