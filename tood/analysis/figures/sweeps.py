"""The hyper-parameters of TAL: AP against m, and AP over alpha and beta, ours and the paper's."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tood.analysis.figures.files import save

# The paper's text: "results in a range of 42.0 ~ 42.5 AP" over m, the upper end at m = 13.
PAPER_RANGE = (42.0, 42.5)


def draw_sweeps(table_m: Path, table4: Path, folder: Path) -> None:
    """Write `sweep_m` and `alpha_beta` as PNG and PDF.

    Args:
        table_m: CSV of the table of m.
        table4: CSV of Table 4.
        folder: of the figures.
    """
    figures = {"sweep_m": sweep_of_m(pd.read_csv(table_m)), "alpha_beta": alpha_beta(pd.read_csv(table4))}
    for name, figure in figures.items():
        save(figure, folder / f"{name}.png", folder / f"{name}.pdf")


def sweep_of_m(table: pd.DataFrame) -> Figure:
    """AP against m, relative to m = 13 so that ours and the paper's share an axis at every scale."""
    table = table.sort_values("m")
    reference = table.set_index("m")["AP"][13]
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    low, high = (ap - PAPER_RANGE[1] for ap in PAPER_RANGE)
    axes.axhspan(low, high, color="tab:orange", alpha=0.3, label="paper, range over m")
    errors = table.get("AP_sd")
    axes.errorbar(table["m"], table["AP"] - reference, errors, marker="o", capsize=3, label="ours")
    axes.set(xlabel="m", ylabel="AP relative to m = 13", xticks=table["m"])
    axes.set_title(f"at m = 13: ours {reference:.1f} AP, paper {PAPER_RANGE[1]} AP", fontsize="medium")
    axes.legend()
    return figure


def alpha_beta(table: pd.DataFrame) -> Figure:
    """AP over beta, a line for each alpha; ours and the paper's side by side, each on its own axis."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    for axes, column, title in zip(figure.subplots(1, 2), ("AP", "AP_paper"), ("ours", "paper"), strict=True):
        for alpha, line in table.sort_values("β").groupby("α"):
            errors = line.get("AP_sd") if column == "AP" else None
            axes.errorbar(line["β"], line[column], errors, marker="o", capsize=3, label=f"α = {alpha}")
        axes.set(title=title, xlabel="β", ylabel="AP", xticks=sorted(table["β"].unique()))
        axes.legend()
    return figure
