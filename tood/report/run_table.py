"""The table of all trainings in `report.html`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from tood.ledger.status import Status

WIDTH, HEIGHT, MARGIN = 96, 28, 2  # of a curve


class RunCell(NamedTuple):
    """A cell of the table."""

    text: str
    order: str | float  # by which the table sorts; empty is last
    curve: Mapping[str, str] | None = None


class RunRow(NamedTuple):
    """A training."""

    id: str  # in HTML; links to a run lead to its first seed
    run: str
    title: str
    cells: Sequence[RunCell]


def run_table(statuses: Iterable[Status]) -> tuple[list[str], list[RunRow]]:
    """Titles of the columns after the first, and the rows; a column in which nothing is known is left out.

    The hardware is a column where trainings differ in it.
    """
    statuses = list(statuses)
    every = {title: list(map(cell, statuses)) for title, cell in _COLUMNS.items()}
    columns = {title: cells for title, cells in every.items() if any(cell.text for cell in cells)}
    hardware = {cell.text for cell in every["Hardware"]}
    if len(hardware) == 1:  # the head of the page has it
        columns.pop("Hardware", None)
    if not any(cell.order != 1 for cell in every["Attempts"] if cell.text):
        columns.pop("Attempts", None)
    rows, seen = [], set()
    for place, status in enumerate(statuses):
        name = status.run.id if status.run.id not in seen else f"{status.run.id}-{status.seed}"
        seen.add(status.run.id)
        cells = [cells[place] for cells in columns.values()]
        rows.append(RunRow(f"run-{name}", status.run.id, status.run.title, cells))
    return list(columns), rows


def machine(status: Status) -> str:
    """The GPUs of a training, or its CPU; empty where it is unknown."""
    hardware: dict[str, Any] = status.provenance.get("hardware", {})
    return ", ".join(map(str, hardware.get("gpu_names") or [hardware.get("cpu") or ""]))


def sources(statuses: Iterable[Status]) -> dict[str, str]:
    """Where methods and their published values come from, by the titles of the runs."""
    return {status.run.title: status.run.source for status in statuses if status.run.source}


def loss_curve(epochs: Sequence[Mapping[str, float | None]]) -> dict[str, str] | None:
    """The mean total loss of each epoch, of `tood.ledger.curves.by_epoch`, for an SVG.

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
    label = f"loss from {losses[0]:.3f} to {losses[-1]:.3f} over {last:g} epochs"
    return dict(points=points, label=label, last=f"{losses[-1]:.3f}")


def _text(value: object) -> RunCell:
    return RunCell(str(value or ""), str(value or ""))


def _number(value: float | None, spec: str) -> RunCell:
    return RunCell("", "") if value is None else RunCell(format(value, spec), value)


def _state(status: Status) -> RunCell:
    text = f"{status.state}: {status.reason}" if status.reason and status.state.stopped else status.state
    return RunCell(text, str(status.state))


def _loss(status: Status) -> RunCell:
    curve = loss_curve(status.epochs)
    return RunCell(curve["last"], float(curve["last"]), curve) if curve else RunCell("", "")


def _time(status: Status) -> RunCell:
    seconds = status.report.get("seconds")
    return RunCell(str(timedelta(seconds=round(seconds))), seconds) if seconds else RunCell("", "")


def _backbone(status: Status) -> RunCell:
    """As the paper names it; a scale may train a smaller one in its place."""
    model = (status.provenance.get("settings") or {}).get("model") or {}
    return _text(
        f"small, in place of {status.run.backbone}" if model.get("backbone") else status.run.backbone
    )


def _epochs(status: Status) -> RunCell:
    return _number((status.provenance.get("settings") or {}).get("run", {}).get("epochs"), "g")


_COLUMNS: dict[str, Callable[[Status], RunCell]] = {
    "Seed": lambda status: _number(status.seed, "d"),
    "State": _state,
    "AP": lambda status: _number(status.ap, ".1f"),
    "Loss": _loss,
    "Epochs": _epochs,
    "Time": _time,
    "Images/s": lambda status: _number(status.report.get("images_per_second") or None, ".1f"),
    "Backbone": _backbone,
    "Hardware": lambda status: _text(machine(status)),
    "Attempts": lambda status: _number(status.provenance.get("attempts") or None, "d"),
    "Changed since": lambda status: _text(", ".join(status.stale)),
    "Code": lambda status: _text(status.provenance.get("digests", {}).get("code")),
}
