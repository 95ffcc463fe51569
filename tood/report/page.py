"""One page with everything that a study shows: what came out, figures, tables, and every training."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup
from PIL import Image

from tood.ledger.status import Status, known_status
from tood.report.figures import FIGURES_1_AND_4, FOREST, VIEWS
from tood.report.markup import html, markdown
from tood.report.metrics import RENEW, of_data, reconstructions, remarks
from tood.report.outcome import sentences, setup
from tood.report.run_table import run_table, sources
from tood.report.sections import (
    Section,
    claims_section,
    methods_section,
    of_images,
    said_more_than_once,
    table_section,
    without,
)
from tood.report.shown import CLAIMS, METHODS, claims_of, table_names, tables_of
from tood.runtime.files import write_text
from tood.study.claims import load_claims
from tood.study.declarations import load_tables
from tood.study.pages import load_pages
from tood.study.paths import StudyPaths, dark_picture
from tood.study.plan import Plan

PICTURES_FIRST = (FOREST, *FIGURES_1_AND_4)
# Other figures stand below the table whose runs they show.
_FIGURES_OF = {
    "table6": VIEWS,
    "table_m": ("sweep_m",),
    "table4": ("alpha_beta",),
    "positives": ("positives",),
}
_TABLE = re.compile(r"(<table>.*?</table>)", re.DOTALL)  # in a caption
_DPI = 200  # of a figure's PNG (`tood.analysis.figures.files`)


class Picture(NamedTuple):
    """A figure on the page."""

    name: str
    alt: str
    caption: Sequence[Markup]  # in parts; a table is a part of its own, and the page lets it scroll
    light: str  # PNG in base64
    dark: str  # the same for dark pages; empty where there is none
    width: int  # CSS pixels
    height: int


def write_report(plan: Plan, figures: Iterable[Path], absent: Mapping[str, str]) -> None:
    """Write the page of a study from its tables and the files of its runs; nothing has to be complete.

    Args:
        plan: the study.
        figures: PNGs to show.
        absent: why there is no figure of a name.
    """
    paths, statuses = StudyPaths(plan.name), known_status(plan)
    pictures = {path.stem: picture(path) for path in sorted(figures, key=_place)}
    all_sections = sections(plan, statuses)
    notes, shown = _notes_apart(plan, statuses, [section for section in all_sections if not section.empty])
    for section in shown:
        named = [name for name in _FIGURES_OF.get(section.id, ()) if name in pictures]
        section.pictures.extend(pictures.pop(name) for name in named)
    columns, rows = run_table(statuses)
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=select_autoescape(["j2"]))
    environment.filters["html"] = lambda text: Markup(html(text))
    page = environment.get_template("page.html.j2").render(
        name=plan.name,
        description=plan.description,
        data=plan.data_note,
        sentences=sentences(plan, statuses, paths.tables),
        setup=setup(plan, statuses),
        first=[pictures.pop(name) for name in PICTURES_FIRST if name in pictures],
        notes=[Markup(html(note)) for note in notes],
        sections=shown,
        without_values=[section for section in all_sections if section.empty],
        figures=list(pictures.values()),
        absent=absent,
        columns=columns,
        runs=rows,
        sources=sources(statuses),
        words=load_pages().words,
    )
    write_text(paths.report, page)


def sections(plan: Plan, statuses: Sequence[Status]) -> list[Section]:
    """The tables of the study in the order of the page, those without values too."""
    declared = load_tables(runs=plan.all_runs)
    folder, tables = StudyPaths(plan.name).tables, tables_of(plan, declared)
    states: dict[str, list[str]] = {}
    for status in statuses:
        states.setdefault(status.run.id, []).append(str(status.state))
    of_paper = {row.run for table in declared.values() if table.printed for row in table.rows}
    parts = []
    for name in table_names(plan, declared):
        path = folder / f"{name}.md"
        if not path.is_file():
            continue
        if name == CLAIMS:
            parts.append(claims_section(path, claims_of(plan, load_claims(plan.all_runs, declared)), states))
        elif name == METHODS:
            parts.append(methods_section(path))
        else:
            parts.append(table_section(path, tables[name], states, of_paper))
    return parts


def _notes_apart(
    plan: Plan, statuses: Sequence[Status], shown: Sequence[Section]
) -> tuple[list[str], list[Section]]:
    """What concerns the whole study, in Markdown and each once, and the tables without it."""
    of_plan = plan.notes([status.training for status in statuses])
    about = [*of_plan, *of_data(statuses), *reconstructions(statuses), *_stale(statuses)]
    notes = list(map(markdown, about))
    of_runs = [markdown(note) for section in shown for note in remarks(section.runs, statuses)]
    rest = without(shown, {*notes, *of_runs})
    several = said_more_than_once(rest)
    rest = without(rest, several)
    images, covered = of_images(rest)
    # The head of the page has the scale's description, what the data are, and the seeds.
    at_head = {markdown(note) for note in (of_plan[0], plan.data_note, of_plan[-1])}
    return [*(note for note in notes if note not in at_head), *several, *images], without(rest, covered)


def _stale(statuses: Iterable[Status]) -> list[str]:
    """How many trainings are stale, in a line; the table of runs has them one by one."""
    changed = [status.stale for status in statuses if status.stale]
    if not changed:
        return []
    parts = ", ".join(dict.fromkeys(part for stale in changed for part in stale))
    number = "1 training was" if len(changed) == 1 else f"{len(changed)} trainings were"
    return [f"stale: {number} made with other {parts} than the workflow would use now. {RENEW}"]


def _place(path: Path) -> tuple[int, str]:
    """Of a figure on the page, wherever it was drawn."""
    known = list(load_pages().figures)
    return known.index(path.stem) if path.stem in known else len(known), path.stem


def picture(path: Path) -> Picture:
    """A figure with its caption, which is beside it, and its variant for dark pages."""
    alt = load_pages().figures.get(path.stem, path.stem)
    beside, dark = path.with_suffix(".md"), dark_picture(path)
    caption = beside.read_text(encoding="utf-8") if beside.is_file() else alt
    content = path.read_bytes()
    width, height = Image.open(BytesIO(content)).size
    return Picture(
        name=path.stem,
        alt=alt,
        caption=[Markup(part) for part in _TABLE.split(html(caption))],
        light=base64.b64encode(content).decode(),
        dark=base64.b64encode(dark.read_bytes()).decode() if dark.is_file() else "",
        width=round(width * 100 / _DPI),
        height=round(height * 100 / _DPI),
    )
