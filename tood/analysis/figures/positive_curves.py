"""Positives per object and their IoU over training, of the schemes of Table 2: a panel for each scheme."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from tood.analysis.figures.files import save_captioned
from tood.analysis.figures.style import BESIDE, Series, of_methods

Epochs = Sequence[Mapping[str, float | None]]  # of a training, as `tood.ledger.curves.by_epoch` gives them
PANELS = {
    "positives": "positives\nper object",
    "positive_iou": "IoU of their\npredicted boxes",
}
MOST = 4  # schemes side by side, which a telephone shows
_WIDE = 8  # times the lowest value: a range beyond this is drawn on a logarithmic axis
CAPTION = (
    "**Positives during training.** For each scheme of Table 2 that is trained, above: how many anchors it "
    "makes positive for an object{axis}. Below: the mean IoU of their predicted boxes with the object. A "
    "line is the mean over the seeds; with several seeds, a band reaches from the lowest to the highest. "
    "The other schemes are grey in each panel, for comparison. The axes of all panels are the same. TAL "
    "begins with a warm-up, some epochs in which it assigns as ATSS does."
)


def draw_positive_curves(trainings: Mapping[str, Sequence[Epochs]], stem: Path) -> None:
    """Draw the positives of trainings, and write the caption.

    Args:
        trainings: of each seed its epochs, by the name of the scheme in the figure.
        stem: of the files, without a suffix.
    """
    curves = pd.concat(
        positives(epochs).assign(scheme=scheme, seed=seed)
        for scheme, seeds in trainings.items()
        for seed, epochs in enumerate(seeds)
    )
    axis = ", on a logarithmic axis" if _logarithmic(curves["positives"]) else ""
    save_captioned(draw(curves), stem, CAPTION.format(axis=axis))


def _logarithmic(values: pd.Series) -> bool:
    return values.min() > 0 and values.max() > _WIDE * values.min()


def positives(epochs: Epochs) -> pd.DataFrame:
    """Positives of an object and their mean IoU in each epoch of a training.

    Returns:
        columns epoch, positives, positive_iou (nan where no object had any); epochs without objects are left
        out
    """
    frame = pd.DataFrame(list(epochs), columns=["epoch", *PANELS]).astype(float)
    return frame.dropna(how="all", subset=list(PANELS)).astype({"epoch": int}).reset_index(drop=True)


def draw(curves: pd.DataFrame) -> Figure:
    """Both quantities over the epochs, a column of two panels per scheme; several seeds as mean and range.

    Args:
        curves: columns scheme, seed, epoch, positives and positive_iou.
    """
    schemes = list(dict.fromkeys(curves["scheme"]))
    columns = min(MOST, len(schemes))
    blocks = -(-len(schemes) // columns)
    figure = Figure(figsize=(1.55 * columns + 1, 3.5 * blocks), layout="constrained")
    panels = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True, sharey=False)
    pairs = panels.reshape(blocks, 2, columns).swapaxes(1, 2).reshape(-1, 2)  # of each scheme
    spread = curves.groupby(["scheme", "epoch"])[list(PANELS)].agg(["mean", "min", "max"])
    for place, (scheme, look) in enumerate(of_methods(schemes).items()):
        first = place % columns == 0
        for axes, (quantity, label) in zip(pairs[place], PANELS.items(), strict=True):
            _draw(axes, pd.DataFrame(spread[quantity]), scheme, quantity, look)
            axes.tick_params(labelleft=first)
            axes.set_ylabel(label if first else "")
        pairs[place, 0].set_title(scheme, fontsize=10)
        # Of the last panel in each column
        pairs[place, 1].tick_params(labelbottom=place + columns >= len(schemes))
    for axes in pairs[len(schemes) :].flat:
        axes.remove()
    figure.supxlabel("epoch", fontsize=10)
    return figure


def _draw(axes: Axes, spread: pd.DataFrame, shown: str, quantity: str, own_look: Series) -> None:
    """One scheme, with the others in grey behind it.

    Args:
        spread: mean, min and max by scheme and epoch.
        shown: the scheme.
        quantity: one of `PANELS`.
        own_look: of the scheme.
    """
    colour = own_look.colour
    for scheme in sorted(spread.index.unique("scheme"), key=lambda scheme: scheme == shown):
        line, own = spread.loc[scheme].dropna(), scheme == shown
        if own:
            axes.fill_between(line.index, line["min"], line["max"], color=colour, alpha=0.25, linewidth=0)
        look = {"marker": own_look.marker, "markersize": 3, "linewidth": 1.5} if own else {"linewidth": 0.9}
        axes.plot(
            line.index,
            line["mean"],
            color=colour if own else BESIDE,
            label=scheme if own else None,
            **look,
        )
    low, high = spread["min"].min(), spread["max"].max()
    if quantity == "positives" and _logarithmic(pd.Series([low, high])):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())  # its labels would be mathtext
        axes.set_ylim(low / 1.2, high * 1.2)
    elif high > low:
        axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
