"""The tables of `report.html`: the rows that were asked for, from the files under `tables/`."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from tood.report.markup import DASH, cells_of_table, html
from tood.report.shown import COMPLEXITY_METRICS, SWEPT
from tood.study.claims import Claim
from tood.study.declarations import Table

_MARK = re.compile(r"<sup>(\w+)</sup>")
# Columns of values that are not this study's, by the beginning of their names
_OTHERS = ("paper", "reference", "same", "test-dev")
# Of the claims, what a narrow page is to show first; the other columns follow in their order.
_FIRST = ("ours", "Verdict", "paper", "Metric")
_CLAIM_WORDS = {"Verdict": "words", "Metric": "words"}
_BELOW = "Robustness"  # the column of claims that is as long as a sentence: a line below each row
_SHORT_TITLE = 12  # characters of a title that the list of contents has whole
_IMAGES = "Images: "  # how the remark begins that says of which images the columns are
_SHORT = 4  # characters of names of keys whose values stand on one line


class Cell(NamedTuple):
    """A cell of a table, or the title of a column."""

    content: Markup
    # Class in HTML: "words", "number", "other" for a number that is not this study's
    kind: str


class PageRow(NamedTuple):
    """A row of a table."""

    run: str  # whose row in the table of runs it leads to; empty where there is none
    label: Sequence[Markup]  # in lines
    cells: Sequence[Cell]
    below: Markup = Markup()  # in a line of its own below the cells

    @property
    def linked(self) -> Markup:
        """The first line of the label, as a link that leaves out marks of footnotes."""
        text, marks = _MARK.sub("", self.label[0]), [mark[0] for mark in _MARK.finditer(self.label[0])]
        return Markup('<a href="#run-{}">{}</a>{}').format(self.run, Markup(text), Markup("".join(marks)))


@dataclass(frozen=True)
class Section:
    """A table of the page, with what is said about it."""

    id: str
    title: str
    caption: str = ""
    label: Sequence[Markup] = ()  # title of the first column, in lines
    header: Sequence[Cell] = ()
    rows: Sequence[PageRow] = ()
    runs: Sequence[str] = ()  # that the remarks of its file are on
    left_out: int = 0  # rows of runs that the study does not have
    remarks: Sequence[str] = ()  # paragraphs of Markdown that concern this table
    footnotes: Sequence[Markup] = ()
    empty: str = ""  # why there is nothing to show, in one line
    pictures: list = field(default_factory=list)

    @property
    def short(self) -> str:
        """Its title in the list of contents."""
        return self.title if len(self.title) <= _SHORT_TITLE else self.id.replace("_", " ").capitalize()


def table_section(
    path: Path, table: Table, states: Mapping[str, Collection[str]], of_paper: Collection[str] = ()
) -> Section:
    """A declared table: the rows of the study's runs, and those of other models whose sizes are known.

    Args:
        path: its Markdown; the CSV beside it has the same rows.
        table: its declaration.
        states: of the runs of the study, those of their seeds.
        of_paper: the runs of tables that the paper prints.
    """
    content = _read(path)
    known = pd.read_csv(path.with_suffix(".csv"))[list(table.metrics)].notna()
    in_study = [place for place, row in enumerate(table.rows) if row.run in states]
    with_value = [place for place in in_study if known.loc[place].any()]
    if why := _why_empty(table, states, in_study, with_value, of_paper):
        return Section(path.stem, content.title, empty=why)
    sized = known[[metric for metric in table.metrics if metric in COMPLEXITY_METRICS]].any(axis=1)
    shown = [place for place in range(len(table.rows)) if place in in_study or sized[place]]
    rows = [content.rows[place] for place in shown]
    keys, words = len(table.keys), len(table.columns)
    short = max(map(len, table.keys)) <= _SHORT
    # Numbers first: a narrow page does not show all columns at once.
    numbers = [
        place for place in range(words, len(content.header)) if any(row[place] != DASH for row in rows)
    ]
    kinds = {place: _kind(content.header[place]) for place in numbers}
    return _section(
        path,
        content,
        label=_label(content.header[:keys], short),
        columns=kinds | dict.fromkeys(range(keys, words), "words"),
        rows=[
            (table.rows[place].run if place in in_study else "", _label(row[:keys], short), row)
            for place, row in zip(shown, rows, strict=True)
        ],
        runs=[row.run for row in table.rows],
        left_out=len(table.rows) - len(shown),
    )


def _why_empty(
    table: Table,
    states: Mapping[str, Collection[str]],
    in_study: Sequence[int],
    with_value: Sequence[int],
    of_paper: Collection[str],
) -> str:
    """Why a table is not shown; empty where it is. Rows are given by their places.

    A sweep needs two settings with values. A table of this project needs a value of a run that is in no table
    of the paper, if it has such runs.
    """
    if not in_study:
        return "none of its runs is in this study"
    if not with_value:
        counts = Counter(state for place in in_study for state in states[table.rows[place].run])
        counted = ", ".join(f"{count} {state}" for state, count in counts.most_common())
        return f"no value yet ({counted})"
    if table.name in SWEPT and len(with_value) == 1:
        setting = ", ".join(f"{key} = {value}" for key, value in table.rows[with_value[0]].key.items())
        return f"no sweep yet, as only {setting} has a value"
    own = {place for place, row in enumerate(table.rows) if row.run not in of_paper}
    if own and not table.printed and own.isdisjoint(with_value):
        return "no value yet of the runs that are in this table alone"
    return ""


def claims_section(path: Path, claims: Sequence[Claim], runs: Collection[str]) -> Section:
    """The claims that rest on runs of the study.

    Args:
        path: their Markdown, with a row for each claim.
        claims: of the file.
        runs: of the study.
    """
    content = _read(path)
    shown = [place for place, claim in enumerate(claims) if set(claim.runs) <= set(runs)]
    if not shown:
        return Section(path.stem, content.title, empty="no claim of the paper rests on these runs alone")
    titles = list(map(str, content.header))
    if all(content.rows[place][titles.index("ours")] == DASH for place in shown):
        return Section(path.stem, content.title, empty="no value yet")
    first = [titles.index(name) for name in _FIRST if name in titles]
    below = titles.index(_BELOW)
    columns = dict.fromkeys([*first, *range(1, len(titles))])  # each once
    del columns[below]
    return _section(
        path,
        content,
        label=[content.header[0]],
        columns={place: _CLAIM_WORDS.get(titles[place]) or _kind(titles[place]) for place in columns},
        rows=[("", [content.rows[place][0]], content.rows[place]) for place in shown],
        runs=[run for claim in claims for run in claim.runs],
        left_out=len(claims) - len(shown),
        below=below,
    )


def methods_section(path: Path) -> Section:
    """The methods of a study of the user's own data, by `tood.report.methods`."""
    content = _read(path)
    return _section(
        path,
        content,
        label=[content.header[0]],
        columns=dict.fromkeys(range(2, len(content.header)), "number"),
        rows=[(str(row[1]), [row[0]], row) for row in content.rows],
        runs=[str(row[1]) for row in content.rows],
    )


class _File(NamedTuple):
    """A table in Markdown, taken apart."""

    title: str
    caption: Markup
    header: list[Markup]
    rows: list[list[Markup]]
    below: list[str]  # paragraphs


def _read(path: Path) -> _File:
    caption, grid, *below = path.read_text(encoding="utf-8").strip().split("\n\n")
    header, *rows = ([Markup(cell) for cell in row] for row in cells_of_table(grid))
    # The title is the heading on the page.
    title, _, caption = caption.removeprefix("**").partition(".** ")
    return _File(Markup(html(title)).striptags(), Markup(html(caption)), header, rows, below)


def _section(
    path: Path,
    file: _File,
    label: Sequence[Markup],
    columns: Mapping[int, str],
    rows: Sequence[tuple[str, Sequence[Markup], Sequence[Markup]]],
    runs: Sequence[str],
    left_out: int = 0,
    below: int | None = None,
) -> Section:
    """A section with the remarks of its file, and those of its footnotes that its rows refer to.

    Args:
        columns: kind of each column that is shown, by its place in the file.
        rows: of each the run, the label, and the cells of the file.
        below: place in the file of the column that is no column here but a line below each row.
    """
    shown = "".join(part for _, parts, row in rows for part in (*parts, *(row[place] for place in columns)))
    # The rows that are left out leave gaps among the marks.
    marks = {mark: number for number, mark in enumerate(dict.fromkeys(_MARK.findall(shown)), 1)}

    def numbered(text: str) -> str:
        return _MARK.sub(lambda mark: f"<sup>{marks[mark[1]]}</sup>", text)

    notes = {mark[1]: text for text in file.below if (mark := _MARK.match(text))}
    return Section(
        id=path.stem,
        title=file.title,
        caption=file.caption,
        label=label,
        header=[Cell(file.header[place], kind) for place, kind in columns.items()],
        rows=[
            PageRow(
                run,
                [Markup(numbered(part)) for part in parts],
                [Cell(Markup(numbered(_apart(row[place]))), kind) for place, kind in columns.items()],
                _titled(file.header[below], row[below]) if below is not None else Markup(),
            )
            for run, parts, row in rows
        ],
        runs=runs,
        left_out=left_out,
        remarks=[text for text in file.below if not _MARK.match(text)],
        footnotes=[Markup(html(numbered(notes[mark]))) for mark in marks if mark in notes],
    )


def _titled(title: Markup, cell: Markup) -> Markup:
    return Markup() if cell == DASH else Markup("{}: {}").format(title, cell)


def _kind(title: str) -> str:
    return "other" if title.startswith(_OTHERS) else "number"


def _label(parts: Sequence[Markup], short: bool) -> list[Markup]:
    """The keys of a row in two lines, the first and the others; in one where the keys have short names."""
    first, *others = parts
    if short:
        return [Markup(" · ").join(parts)]
    return [first, Markup(" · ").join(others)] if others else [first]


def _apart(cell: Markup) -> Markup:
    """A cell whose interval may stand on a line of its own, in one piece."""
    value, bracket, rest = cell.partition(" (")
    if not (bracket and " to " in rest):
        return cell
    interval, semicolon, share = rest.partition("; ")
    return Markup('{} <span class="apart">({}</span>{}{}').format(value, interval, semicolon, share)


def without(sections: Iterable[Section], known: Collection[str]) -> list[Section]:
    """The tables without the remarks that are known."""
    return [
        replace(section, remarks=[text for text in section.remarks if text not in known])
        for section in sections
    ]


def said_more_than_once(sections: Iterable[Section]) -> list[str]:
    """The remarks that several tables have, each once."""
    counts = Counter(text for section in sections for text in dict.fromkeys(section.remarks))
    return [text for text, count in counts.items() if count > 1]


def of_images(sections: Iterable[Section]) -> tuple[list[str], list[str]]:
    """What the tables say of their images: the longest remark, and all remarks that say no more than it."""
    said = [text for section in sections for text in section.remarks if text.startswith(_IMAGES)]
    if len(said) < 2:
        return [], []
    longest = max(said, key=len)
    return [longest], [text for text in said if set(_parts(text)) <= set(_parts(longest))]


def _parts(text: str) -> list[str]:
    return text.removeprefix(_IMAGES).rstrip(".").split("; ")
