"""Figure of the schemes of Table 2: positives of an object, and their IoU, over training."""

import argparse
from pathlib import Path

import pandas as pd
import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from tood.runtime.files import atomic_path
from tood.study.curves import positives_by_epoch

PANELS = {
    "positives": "positives of an object",
    "positive_iou": "mean IoU of their predicted boxes",
}


def draw(curves: pd.DataFrame) -> Figure:
    """Both quantities over the epochs, a line a scheme; several seeds as their mean and range."""
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
    figure.axes[1].set_ylim(0, 1)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scheme", action="append", required=True, help="name in the legend")
    parser.add_argument(
        "--records",
        type=Path,
        action="append",
        nargs="+",
        required=True,
        help="of that scheme, a file a seed",
    )
    parser.add_argument("--png", type=Path, required=True)
    parser.add_argument("--pdf", type=Path, required=True)
    args = parser.parse_args()
    curves = pd.concat(
        positives_by_epoch(path).assign(scheme=scheme, seed=seed)
        for scheme, paths in zip(args.scheme, args.records, strict=True)
        for seed, path in enumerate(paths)
    )
    figure = draw(curves)
    for path in (args.png, args.pdf):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=200)


if __name__ == "__main__":
    main()
