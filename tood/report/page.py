"""One page with everything that a study shows: claims, tables, figures, and a card for each training."""

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from markupsafe import Markup

from tood.ledger.status import Status, known_status
from tood.report.markup import html
from tood.runtime.files import write_text
from tood.study.declarations import Table, cells_of, load_tables
from tood.study.pages import load_pages
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

WIDTH, HEIGHT, MARGIN = 320, 120, 16  # of a curve


def write_report(plan: Plan, figures: Iterable[Path], absent: Mapping[str, str] | None = None) -> None:
    """Write the page of a study from its tables and the files of its runs; nothing has to be complete.

    Args:
        absent: why there is no figure of a name.
    """
    paths, statuses, tables = StudyPaths(plan.name), known_status(plan), load_tables(runs=plan.all_runs)
    names = ["claims", *sorted(tables, key=lambda name: (not name.startswith("table"), name))]
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=select_autoescape(["j2"]))
    pictures = {path.stem: _figure(path) for path in sorted(figures, key=_place)}
    page = environment.get_template("page.html.j2").render(
        name=plan.name,
        description=plan.scale.description,
        counts=_counted(statuses),
        comparable=plan.scale.comparable,
        sections=[
            section(path, tables.get(name), statuses)
            for name in names
            if (path := paths.tables / f"{name}.md").is_file()
        ],
        pictures={name: picture for name, picture in pictures.items() if name in names},
        figures=[picture for name, picture in pictures.items() if name not in names],
        absent=absent or {},
        cards=_cards(statuses, tables),
    )
    write_text(paths.report, page)


def section(path: Path, table: Table | None, statuses: Iterable[Status]) -> dict[str, Any]:
    """A table in Markdown as HTML: its caption before it, all other text after it, and its runs."""
    caption, grid, *remarks = path.read_text(encoding="utf-8").split("\n\n")
    title = caption.removeprefix("**").partition(".**")[0]
    there = {status.run.id for status in statuses}
    runs = [row.run for row in table.rows if row.run in there] if table else []
    header_cells = html(grid).replace("<th>", '<th scope="col">')
    return dict(
        id=path.stem,
        title=title,
        caption=Markup(html(caption)),
        table=Markup(header_cells.replace("<th style", '<th scope="col" style')),
        remarks=Markup(html("\n\n".join(remarks))),
        runs=list(dict.fromkeys(runs)),
    )


def _place(path: Path) -> tuple[int, str]:
    """Of a figure on the page, wherever it was drawn."""
    known = list(load_pages().figures)
    return known.index(path.stem) if path.stem in known else len(known), path.stem


def _figure(path: Path) -> dict[str, Any]:
    alt, said = load_pages().figures.get(path.stem, path.stem), path.with_suffix(".md")
    caption = Markup(html(said.read_text(encoding="utf-8") if said.is_file() else alt))
    return dict(
        name=path.stem, alt=alt, caption=caption, content=base64.b64encode(path.read_bytes()).decode()
    )


def _counted(statuses: Iterable[Status]) -> str:
    counts = Counter(status.state for status in statuses)
    return f"{sum(counts.values())} trainings: {', '.join(f'{n} {state}' for state, n in counts.items())}."


def _cards(statuses: Iterable[Status], tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    cards, seen = [], set()
    for status in statuses:
        # Links are to the first seed of a run.
        name = status.run.id if status.run.id not in seen else f"{status.run.id}-{status.seed}"
        seen.add(status.run.id)
        ap = f": AP {status.ap:.1f}" if status.ap is not None else ""
        summary = f"{status.run.id}, seed {status.seed} — {status.run.title} — {status.state}{ap}"
        facts, curve = _facts(status, tables), loss_curve(status.epochs)
        cards.append(dict(id=f"run-{name}", summary=summary, facts=facts, curve=curve))
    return cards


def _facts(status: Status, tables: Mapping[str, Table]) -> dict[str, str]:
    """What is known of a training, by the words that the page has for it."""
    run, report, made = status.run, status.report, status.provenance
    hardware: dict[str, Any] = made.get("hardware", {})
    facts = {
        "Backbone, epochs": f"{run.backbone}, {run.epochs}",
        "Shown in": "; ".join(cells_of(run.id, tables)),
        "State": f"{status.state}: {status.reason}" if status.reason else status.state,
        "Stale": ", ".join(status.stale),
        "Time": str(timedelta(seconds=round(report["seconds"]))) if report.get("seconds") else "",
        "Images/s": f"{report['images_per_second']:.1f}" if report.get("images_per_second") else "",
        "Hardware": ", ".join(map(str, hardware.get("gpu_names") or [hardware.get("cpu") or ""])),
        "Attempts": str(made.get("attempts") or ""),
        "Made with": ", ".join(f"{name} {value}" for name, value in made.get("digests", {}).items()),
        "Source": run.source or "",
        "Folder": status.folder.as_posix(),
    }
    return {name: value for name, value in facts.items() if value}


def loss_curve(epochs: Sequence[Mapping[str, float | None]]) -> dict[str, str] | None:
    """The mean total loss of each epoch, of `tood.ledger.curves.by_epoch`, for the SVG of a training's card.

    None without two finite ones.
    """
    known = [
        (epoch["loss"], epoch["epoch"] or 0.0)
        for epoch in epochs
        if epoch["loss"] is not None and math.isfinite(epoch["loss"])
    ]
    if len(known) < 2:
        return None
    losses, passed = zip(*known, strict=True)
    low, high, last = min(losses), max(losses), passed[-1]
    span = high - low or 1.0
    points = " ".join(
        f"{WIDTH * epoch / last:.1f},{MARGIN + (HEIGHT - 2 * MARGIN) * (high - loss) / span:.1f}"
        for loss, epoch in zip(losses, passed, strict=True)
    )
    label = f"loss from {losses[0]:.3g} to {losses[-1]:.3g} over {last:g} epochs"
    return dict(points=points, label=label, lowest=f"{low:.3g}", highest=f"{high:.3g}", epochs=f"{last:g}")
