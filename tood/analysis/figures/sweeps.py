"""The hyper-parameters of TAL: AP against m, and AP over alpha and beta, ours and the paper's."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tood.analysis.figures.files import save_captioned
from tood.analysis.figures.style import BLACK, VERMILION, series
from tood.study.declarations import load_tables

APART = 0.25  # in units of beta: values of several alpha with one beta stand side by side

_PAPER = "AP_paper"  # column of the paper's values

Swept = tuple[pd.DataFrame, Sequence[int]]  # a table, and the seeds that its values are over


def draw_sweeps(of_m: Swept, of_pairs: Swept, folder: Path) -> None:
    """Write `sweep_m` and `alpha_beta`, each with its caption.

    Args:
        of_m: the table of m.
        of_pairs: Table 4. Without the paper's values, as of a study of other data, ours are drawn alone.
        folder: of the figures.
    """
    save_captioned(sweep_of_m(of_m[0]), folder / "sweep_m", caption_of_m(*of_m))
    save_captioned(alpha_beta(of_pairs[0]), folder / "alpha_beta", caption_of_pairs(*of_pairs))


def _points(seeds: Sequence[int]) -> str:
    """What points and bars are; without seeds, no seed is common to all settings."""
    common = f"the seeds that all settings have ({', '.join(map(str, seeds))})"
    over = common if seeds else "the seeds of its setting, none of which all settings have"
    return (
        f"A point is the mean over {over}, a bar the sample standard deviation over them to both sides; "
        "one seed has no bar."
    )


def caption_of_m(table: pd.DataFrame, seeds: Sequence[int]) -> str:
    """The caption of `sweep_of_m`."""
    band = " The band is the range in which all five values of the paper lie (Section 4.1)."
    return (
        "**AP against m**, the number of anchors that TAL selects for an object, relative to m = 13. "
        f"{_points(seeds)}{band if _PAPER in table else ''}"
    )


def caption_of_pairs(table: pd.DataFrame, seeds: Sequence[int]) -> str:
    """The caption of `alpha_beta`."""
    paper = " Right: the values that the paper prints, on an axis of their own." if _PAPER in table else ""
    return (
        "**AP for each pair of α and β**, the exponents of the score and of the IoU in the alignment metric "
        f"(Table 4). {'Left: this study. ' if paper else ''}{_points(seeds)}{paper} "
        "Points of one β stand side by side."
    )


def sweep_of_m(table: pd.DataFrame) -> Figure:
    """AP against m, relative to m = 13 so that ours and the paper's share an axis at every scale."""
    table = table.sort_values("m")
    reference = table.set_index("m")["AP"][13]
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    at = f"at m = 13: this study {reference:.1f} AP"
    if _PAPER in table:
        low, high = load_tables()["table_m"].paper_range["AP"]
        axes.axhspan(low - high, 0, facecolor=VERMILION, alpha=0.3, label="paper, range over m")
        at += f", paper {high} AP"
    errors = table.get("AP_sd")
    axes.errorbar(
        table["m"], table["AP"] - reference, errors, marker="o", capsize=3, color=BLACK, label="this study"
    )
    axes.set(xlabel="m", ylabel="AP relative to m = 13", xticks=table["m"])
    axes.set_title(at, fontsize="medium")
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def alpha_beta(table: pd.DataFrame) -> Figure:
    """AP over beta, a line for each alpha; ours and the paper's side by side, each on its own axis.

    Without values of the paper, as in a study of other data, ours alone.
    """
    shown = {"this study": "AP"} | ({"paper": _PAPER} if _PAPER in table else {})
    figure = Figure(figsize=(3.8 * len(shown) + 0.4, 3.8), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    alphas = sorted(table["α"].unique())
    for axes, (title, column) in zip(panels, shown.items(), strict=True):
        for place, (alpha, look) in enumerate(zip(alphas, series(), strict=False)):
            line = table[table["α"] == alpha].sort_values("β")
            errors = line.get("AP_sd") if column == "AP" else None
            axes.errorbar(
                line["β"] + APART * (place - (len(alphas) - 1) / 2),
                line[column],
                errors,
                marker=look.marker,
                capsize=3,
                label=f"α = {alpha}",
                **look.line,
            )
        axes.set(title=title, xlabel="β", ylabel="AP", xticks=sorted(table["β"].unique()))
        axes.grid(alpha=0.3)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=len(alphas), frameon=False, handlelength=3.5)
    return figure
