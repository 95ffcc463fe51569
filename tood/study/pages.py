"""What README.md, docs/ and `report.html` show, as `experiments/pages.yaml` declares it."""

import functools
from pathlib import Path
from typing import Annotated

from pydantic import Field

from tood.runtime.text import there_are
from tood.study.declarations import Declaration, ExperimentError, load_declared, load_runs, load_tables
from tood.study.paths import EXPERIMENTS
from tood.study.scales import scale_names

PAGES = EXPERIMENTS / "pages.yaml"


class Readme(Declaration):
    """Part of README.md."""

    measured: tuple[str, ...]
    study: str
    headlines: str


class ResultsPart(Declaration):
    """Part of docs/results.md on one scale."""

    scale: str
    tables: tuple[str, ...] | None = None  # no others than these; None: all


class Sweep(Declaration):
    """Studies that try other recipes."""

    studies: str
    caption: str


class Orders(Declaration):
    """Rank correlations with the paper."""

    rows: Annotated[int, Field(ge=3)]
    caption: str


class BestAnchors(Declaration):
    """How well both best anchors of an object agree."""

    table: str
    caption: str


class Mini(Declaration):
    """Part of docs/mini.md."""

    study: str
    beside: str  # caption
    sweep: Sweep
    orders: Orders
    best_anchors: BestAnchors
    elsewhere: str  # caption
    of_others: tuple[str, ...]  # tables of the other studies that are shown


class Pages(Declaration):
    """Content of `experiments/pages.yaml`."""

    readme: Readme
    results: list[ResultsPart]
    mini: Mini
    cells: str  # the study of docs/cells.md
    beside_the_paper: tuple[str, ...]  # tables of this project that pages show with the paper's
    detectors: dict[str, str]  # runs of Figures 1 and 4
    words: dict[str, str]  # their meaning
    figures: dict[str, str]  # captions, in the order of the page


@functools.cache
def load_pages(path: Path = PAGES) -> Pages:
    """The declaration, checked against scales and tables."""
    pages = load_declared(Pages, path)
    tables = [name for part in pages.results for name in part.tables or ()]
    tables += [*pages.mini.of_others, pages.mini.best_anchors.table, *pages.beside_the_paper]
    scales = [*pages.readme.measured, *(part.scale for part in pages.results)]
    runs = load_runs()
    for kind, names, known in (
        ("run", pages.detectors.values(), runs),
        ("table", tables, load_tables(runs=runs)),
        ("scale", scales, scale_names()),
    ):
        if unknown := next((name for name in names if name not in known), None):
            raise ExperimentError(f"{path}: {unknown!r} is no {kind}; {there_are(unknown, known)}")
    return pages
