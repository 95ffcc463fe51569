"""Positives per object and their IoU over training, of the schemes of Table 2."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from tood.analysis.figures.files import save

Epochs = Sequence[Mapping[str, float | None]]  # of a training, as `tood.ledger.curves.by_epoch` gives them
PANELS = {
    "positives": "positives per object",
    "positive_iou": "mean IoU of their predicted boxes",
}


def draw_positive_curves(trainings: Mapping[str, Sequence[Epochs]], png: Path, pdf: Path) -> None:
    """Draw the positives of trainings.

    Args:
        trainings: of each seed its epochs, by the name of the scheme in the legend.
        png: written.
        pdf: written.
    """
    figure = draw(
        pd.concat(
            positives(epochs).assign(scheme=scheme, seed=seed)
            for scheme, seeds in trainings.items()
            for seed, epochs in enumerate(seeds)
        )
    )
    save(figure, png, pdf)


def positives(epochs: Epochs) -> pd.DataFrame:
    """Positives of an object and their mean IoU in each epoch of a training.

    Returns:
        columns epoch, positives, positive_iou (nan where no object had any); epochs without objects are left
        out
    """
    frame = pd.DataFrame(list(epochs), columns=["epoch", *PANELS]).astype(float)
    return frame.dropna(how="all", subset=list(PANELS)).astype({"epoch": int}).reset_index(drop=True)


def draw(curves: pd.DataFrame) -> Figure:
    """Both quantities over the epochs, one line per scheme; several seeds as their mean and range.

    Args:
        curves: columns scheme, seed, epoch, positives and positive_iou.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        seaborn.lineplot(
            curves,
            x="epoch",
            y=column,
            hue="scheme",
            style="scheme",
            palette="husl",
            dashes=[(), (4, 1.5), (1, 1)] * 5,
            errorbar=("pi", 100),
            ax=axes,
        )
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.get_legend().remove()
    figure.axes[0].set_yscale("log", base=2)
    figure.axes[0].yaxis.set_major_formatter(ScalarFormatter())
    figure.axes[0].yaxis.set_minor_formatter(NullFormatter())  # its labels would be mathtext
    figure.axes[1].set_ylim(0, 1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
