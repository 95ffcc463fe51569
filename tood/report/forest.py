"""The forest plot of the claims: effects with intervals, the paper's values, and the studies that check them.

Drawn from `claims.csv` alone. Marker and line style tell the studies apart as well as colour does, and the
markers of checks are not filled, so that the figure can be read in grey.
"""

import textwrap
from collections.abc import Collection, Iterable
from itertools import chain, cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from tood.analysis.figures.files import save_captioned
from tood.analysis.figures.style import BLACK, BLUE, GREEN, PURPLE, SKY, VERMILION, Series
from tood.report.claims_table import verdict_with_welch
from tood.report.contrasts import CONFIDENCE, CONFIDENCE_WITHIN
from tood.report.evidence import read_judged
from tood.report.markup import markdown
from tood.report.readings import DEFAULT
from tood.report.verdicts import Verdict

PAPER, OURS = "paper", "this study"
BAND = "margin of the claim"
SEEDS = "single seeds"
# Inches: the figure, which a telephone shows whole; a value in the row of a claim, its label, a panel's edges
WIDTH, ROW, LABEL, EDGES = 5.2, 0.11, 0.3, 0.75
_LINE = 78  # characters of a label on a line
CAPTION = (
    "**Claims of the paper.** Each row is a statement of the paper as a difference between runs, with its "
    "number in the table of claims, the metric and the verdict. Right of 0 is the direction that the paper "
    f"states. A point is the mean over the seeds, a bar its {CONFIDENCE:.0%} interval by Student's t over "
    "paired seeds; one seed has no bar, and at an arrowhead the bar goes on beyond the axis. Small dots are "
    "single seeds of this study. "
)
_CAPTION_BAND = (
    f"A hatched band is the margin of a claim that runs are alike, whose bar is the {CONFIDENCE_WITHIN:.0%} "
    "interval; the claim is that the whole bar lies in the band, on whichever side of 0. "
)
_CAPTION_PAPER = (
    "A cross is the difference between the values that the paper prints; a claim without one compares with a "
    "control that the paper does not have. "
)
_CAPTION_CHECKS = "Open markers are other studies that checked the claim, with intervals of their own. "


_OWN = Series(BLACK, "-", "o")
_CHECKS = (
    Series(BLUE, "--", "s"),
    Series(SKY, "--", "D"),
    Series(GREEN, "-.", "^"),
    Series(PURPLE, ":", "v"),
)


class Panel(NamedTuple):
    """Claims whose effects share an axis."""

    title: str
    metrics: tuple[str, ...]  # how their names begin; the first panel that fits takes a claim


PANELS = (
    Panel("difference in AP, percent", ("AP",)),
    Panel("difference in boxes, percent of those of the run compared with", ("#",)),
    Panel("difference in PCC and in IoU", ("PCC", "IoU")),
    Panel("difference", ("",)),
)


def draw_forest(claims: Path, stem: Path) -> None:
    """Write the forest plot as PNG and PDF, and its caption.

    Args:
        claims: `claims.csv`, as `tood.report.claims_table` writes it.
        stem: of the files, without a suffix.
    """
    judged = read_judged(claims)
    save_captioned(forest(judged), stem, caption(judged))


def caption(judged: pd.DataFrame) -> str:
    """What the marks of the figure mean, of paper, bands and checks only where there are some; and notes.

    Args:
        judged: as for `forest`.
    """
    shown = judged[judged["seeds"] > 0]
    parts = (
        (_CAPTION_BAND, shown["within"].notna().any()),
        (_CAPTION_PAPER, shown["paper"].notna().any()),
        (_CAPTION_CHECKS, (shown["check"] != "").any()),
    )
    noted = shown[shown["note"] != ""].drop_duplicates("id").to_dict("records")
    notes = " ".join(f"{row['number']}: {row['note']}" for row in noted)
    return CAPTION + "".join(text for text, there in parts if there) + markdown(notes)


def forest(judged: pd.DataFrame) -> Figure:
    """The claims with a measured effect over seeds, in panels by metric, in the order of the table.

    Args:
        judged: as `tood.report.evidence.judge` returns it.
    """
    looks = _as_drawn(judged[judged["decides"].astype(bool) & (judged["reading"] == DEFAULT)])
    own = looks[(looks["check"] == "") & (looks["seeds"] > 0)]
    by_panel = [(panel, own[own["id"].isin(ids)]) for panel, ids in _by_panel(own)]
    measured = set(looks.loc[looks["seeds"] > 0, "check"])
    names = [name for name in dict.fromkeys(looks["check"]) if name in measured]  # the study's own first
    row = LABEL + _marks(names)
    figure = Figure(figsize=(WIDTH, EDGES * (1 + len(by_panel)) + row * len(own)), layout="constrained")
    if not by_panel:
        figure.text(0.5, 0.5, "No claim has a value yet.", ha="center", va="center")
        return figure
    heights = [0.1 + len(rows) for _, rows in by_panel]
    subplots = figure.subplots(len(by_panel), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (panel, rows) in zip(subplots, by_panel, strict=True):
        _draw(axes, panel, rows[::-1], looks, names)
    _legend(figure, subplots)
    return figure


def _as_drawn(looks: pd.DataFrame) -> pd.DataFrame:
    """Effects in percent of the base where they have one, else as they are; none where the base is 0."""
    effects = ["mean", "low", "high", *looks.filter(regex=r"^seed\d+$")]
    base = looks["base"].where(looks["base"] > 0)
    scaled = {name: 100 * looks[name] / base for name in effects}
    scaled["paper"] = 100 * looks["paper"] / looks["paper_base"]
    has_base = looks["base"].notna()
    return looks.assign(**{name: values.where(has_base, looks[name]) for name, values in scaled.items()})


def _by_panel(own: pd.DataFrame) -> Iterable[tuple[Panel, list[str]]]:
    left = dict(zip(own["id"], own["metric"], strict=True))
    for panel in PANELS:
        ids = [claim for claim, metric in left.items() if metric.startswith(panel.metrics)]
        left = {claim: metric for claim, metric in left.items() if claim not in ids}
        if ids:
            yield panel, ids


def _draw(axes: Axes, panel: Panel, rows: pd.DataFrame, looks: pd.DataFrame, names: list[str]) -> None:
    """One panel; `rows` from the bottom to the top, `looks` of all studies, `names` of those to draw."""
    places = pd.Series(np.arange(len(rows), dtype=float), rows["id"])
    height = LABEL + _marks(names)  # inches of a row
    floors, share = places - 0.5, _marks(names) / height
    axes.vlines([0] * len(rows), floors, floors + share, color="0.4", linewidth=0.8)
    bands = rows.dropna(subset="within")
    if len(bands):
        axes.barh(
            places[bands["id"]] - LABEL / height / 2,
            2 * bands["within"],
            left=-bands["within"],
            height=share,
            facecolor=to_rgba(SKY, 0.5),
            edgecolor="0.35",
            hatch="////",
            linewidth=0.5,
            label=BAND,
            zorder=0,
        )
    # From the lower end of the label on
    offsets = {
        name: 0.5 - (LABEL + ROW * (place + 0.5)) / height for place, name in enumerate([PAPER, *names])
    }
    shown = looks[looks["id"].isin(rows["id"]) & (looks["seeds"] > 0)]
    seeds = shown.filter(regex=r"^seed\d+$")
    printed = rows.dropna(subset="paper")
    points = [0.0, *shown["mean"], *seeds.to_numpy().ravel(), *printed["paper"]]
    points += [*bands["within"], *-bands["within"]]
    _limit(axes, np.array(points, dtype=float), shown)
    for name, look in zip(names, chain([_OWN], cycle(_CHECKS)), strict=False):
        effects = shown[shown["check"] == name]
        heights = (places[effects["id"]] + offsets[name]).to_numpy()
        _points(axes, effects, heights, name, look)
        if not name:
            of_seeds = seeds.loc[effects.index].to_numpy(float)  # [claim, seed]
            lower = np.broadcast_to(heights[:, None] - ROW / 2 / height, of_seeds.shape)
            axes.scatter(of_seeds, lower, marker=".", s=26, color="0.35", linewidths=0, zorder=3, label=SEEDS)
    if len(printed):
        at = places[printed["id"]] + offsets[PAPER]
        axes.scatter(printed["paper"], at, marker="X", color=VERMILION, s=30, label=PAPER, zorder=3)
    for row in rows.to_dict("records"):
        place = (0.01, places[row["id"]] + 0.47)
        axes.text(*place, _label(row), transform=axes.get_yaxis_transform(), fontsize=8, va="top")
    axes.set_yticks([])
    axes.set_ylim(-0.55, len(rows) - 0.45)
    axes.hlines(
        np.arange(1, len(rows)) - 0.5, 0, 1, transform=axes.get_yaxis_transform(), color="0.85", lw=0.6
    )
    alike = f"\n({', '.join(bands['number'][::-1])}: inside of the hatched band)" if len(bands) else ""
    axes.set_xlabel(f"{panel.title}\nright of 0: as the paper says{alike}", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)


def _marks(names: Collection[str]) -> float:
    """Inches below the label of a claim: the paper's value, those of each study, and single seeds."""
    return ROW * (1.5 + len(names))


def _limit(axes: Axes, points: np.ndarray, shown: pd.DataFrame) -> None:
    """Limit an axis to the points and half their extent beside them, so that long intervals hide nothing."""
    low, high = np.nanmin(points), np.nanmax(points)
    room = (high - low) / 2 or 1.0
    low = max(low - room, np.nanmin([low, *shown["low"]]))
    high = min(high + room, np.nanmax([high, *shown["high"]]))
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _points(axes: Axes, effects: pd.DataFrame, heights: np.ndarray, check: str, look: Series) -> None:
    """The effects of a study with their intervals, and an arrowhead where one goes on beyond the axis.

    Args:
        heights: where they are drawn.
        check: name of the study; empty for the study itself.
    """
    # An effect of one seed has no interval; an error of nan draws no bar.
    axes.errorbar(
        effects["mean"],
        heights,
        xerr=[effects["mean"] - effects["low"], effects["high"] - effects["mean"]],
        fmt=look.marker,
        markersize=4.5,
        color=look.colour,
        markerfacecolor="white" if check else look.colour,
        elinewidth=1.2,
        elinestyle=look.dashes,
        capsize=2,
        label=check or OURS,
    )
    left, right = axes.get_xlim()
    for ends, marker, limit in ((effects["low"] < left, "<", left), (effects["high"] > right, ">", right)):
        beyond = heights[ends]
        at = np.full(len(beyond), limit)
        axes.scatter(at, beyond, marker=marker, s=26, color=look.colour, clip_on=False, zorder=4)


def _label(row: dict) -> str:
    """A claim with its number, its metric and the verdict on it, in two lines."""
    verdict = verdict_with_welch(row) if row["verdict"] != Verdict.PENDING else "no verdict"
    ending, claim = f"{row['metric']}: {verdict}", f"{row['number']} {row['claim']}"
    first, *rest = textwrap.wrap(claim, _LINE)
    room = _LINE - len(ending) - 2
    return "\n".join(
        [first, f"{textwrap.shorten(' '.join(rest), room, placeholder='…')}; {ending}" if rest else ending]
    )


def _legend(figure: Figure, subplots: Iterable[Axes]) -> None:
    handles: dict[str, Artist] = {}
    for axes in subplots:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = sorted(
        handles, key=lambda label: (label == BAND, label == SEEDS, label not in (OURS, PAPER), label != OURS)
    )
    figure.legend(
        [handles[label] for label in order],
        order,
        loc="outside upper center",
        ncols=4,
        fontsize=8,
        frameon=False,
    )
