"""Figures of detections by class: AP, precision against recall, and the confusion matrix.

Runs differ in colour, marker and line. A cell of a matrix shows its number, and darker is more.
"""

import math
from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tood.analysis.figures.files import shown_name
from tood.analysis.figures.style import BLACK, BLUE, GREEN, PURPLE, SKY, VERMILION, Series

MOST_PANELS = 12  # classes whose curves are drawn
MOST_NUMBERED = 20  # classes of a matrix with a number in each cell
NO_OBJECT, MISSED = "no object", "not detected"


# Of runs, in turn
_LOOKS = (
    Series(BLACK, "-", "o"),
    Series(VERMILION, "--", "s"),
    Series(BLUE, "-.", "^"),
    Series(GREEN, ":", "D"),
    Series(PURPLE, "-", "v"),
    Series(SKY, "--", "P"),
)


def draw_ap(values: pd.DataFrame) -> Figure:
    """AP of each class, the highest mean on top: a marker for each run, with its range over seeds.

    Args:
        values: columns run, seed, class and AP in percent.
    """
    order = by_ap(values)[::-1]  # from the bottom
    runs = list(dict.fromkeys(values["run"]))
    figure = Figure(figsize=(7, 1.4 + 0.2 * len(order) * max(1, 0.6 * len(runs))), layout="constrained")
    axes = figure.subplots()
    for place, (run, look) in enumerate(zip(runs, cycle(_LOOKS), strict=False)):
        seeds = values[values["run"] == run].groupby("class")["AP"].agg(["mean", "min", "max"]).reindex(order)
        errors = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
        axes.errorbar(
            seeds["mean"],
            np.arange(len(order)) + 0.6 * (0.5 - (place + 0.5) / len(runs)),
            xerr=np.clip(errors, 0, None),  # a mean of equal values may differ from them in its last digit
            fmt=look.marker,
            color=look.colour,
            elinestyle=look.dashes,
            markersize=5,
            capsize=2,
            label=run,
        )
    axes.set_yticks(range(len(order)), [shown_name(name) for name in order], fontsize=8)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set(xlabel="AP, percent", xlim=(0, 100))
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    if len(runs) > 1:
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_curves(curves: pd.DataFrame, shown: Sequence[str], metric: str) -> Figure:
    """Precision against recall, a panel for each class and a line for each run, the mean over its seeds.

    Args:
        curves: columns run, seed, class, metric, recall and precision.
        shown: the classes.
        metric: one of `tood.analysis.per_class.CURVES`.
    """
    of_metric = curves[curves["metric"] == metric]
    runs = list(dict.fromkeys(curves["run"]))
    columns = max(1, min(4, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(2.4 * columns + 0.6, 2.4 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, shown, strict=False):
        for place, (run, look) in enumerate(zip(runs, cycle(_LOOKS), strict=False)):
            seeds = of_metric[(of_metric["class"] == name) & (of_metric["run"] == run)]
            line = seeds.groupby("recall")["precision"].mean()
            axes.plot(
                line.index,
                line,
                **look.line,
                linewidth=1.2,
                marker=look.marker,
                markersize=4,
                markevery=(2 * place, 20),
                label=run,
            )
        axes.set_title(shown_name(name), fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(color="0.92")
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    if len(runs) > 1 and shown:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """The matrix of `tood.analysis.per_class.confusion`: shares of a row by colour, counts as numbers.

    Args:
        counts: [C + 1, C + 1], of one or summed over several seeds.
        names: of the C classes.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = 2.2 + 0.42 * min(len(names) + 1, MOST_NUMBERED) + 0.12 * max(0, len(names) - MOST_NUMBERED)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= MOST_NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=colour)
    size = 8 if len(names) <= MOST_NUMBERED else 5
    labels = [shown_name(name) for name in names]
    axes.set_xticks(range(len(names) + 1), [*labels, MISSED], rotation=90, fontsize=size)
    axes.set_yticks(range(len(names) + 1), [*labels, NO_OBJECT], fontsize=size)
    axes.set_xlabel("detected as", fontsize=9)
    axes.set_ylabel("class of the object", fontsize=9)
    axes.axhline(len(names) - 0.5, color="black", linewidth=0.8)
    axes.axvline(len(names) - 0.5, color="black", linewidth=0.8)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the row")
    return figure


def by_ap(values: pd.DataFrame) -> list[str]:
    """Classes by falling AP, the mean over runs and seeds; those without an object are last."""
    return list(
        values.groupby("class", sort=False)["AP"].mean().sort_values(ascending=False, kind="stable").index
    )


def with_curves(values: pd.DataFrame) -> list[str]:
    """The classes whose curves are drawn: all, or as many of the highest as of the lowest AP."""
    known = by_ap(values.dropna(subset="AP"))
    half = MOST_PANELS // 2
    return known if len(known) <= MOST_PANELS else [*known[:half], *known[-half:]]
