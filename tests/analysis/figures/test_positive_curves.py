"""The figure of positives over training: what is drawn is what the trainings wrote."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers.figures import pixels, rendered, text_of_pdf, watch_figures
from helpers.losses import LOSSES, write_losses
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from tood.analysis.figures.positive_curves import draw, draw_positive_curves, positives
from tood.analysis.figures.style import BESIDE
from tood.engine.loss_log import LossLog
from tood.ledger.curves import by_epoch
from tood.report.run_table import loss_curve
from tood.study.declarations import load_tables


def shown_lines(axes: Axes) -> list[Line2D]:
    """The line of the panel's own scheme, which is not grey."""
    return [line for line in axes.lines if line.get_color() != BESIDE]


def test_the_figure_has_two_panels_per_scheme():
    names = [row.key["Anchor assignment"] for row in load_tables()["positives"].rows]
    curves = pd.DataFrame(
        [
            (name, seed, epoch, 2.0 + number + epoch + seed, 0.05 * number)
            for number, name in enumerate(names)
            for seed in (0, 1)
            for epoch in (1, 2, 3)
        ],
        columns=["scheme", "seed", "epoch", "positives", "positive_iou"],
    )
    figure = draw(curves)
    titled = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(titled) == names
    assert len(figure.axes) == 2 * len(names) == 28
    for name, axes in titled.items():
        of_scheme = curves[curves["scheme"] == name]
        place = figure.axes.index(axes)
        below = figure.axes[
            place + (4 if place < 24 else 2)
        ]  # panels are numbered along rows, the last of two
        for panel, column in ((axes, "positives"), (below, "positive_iou")):
            (line,) = shown_lines(panel)
            assert list(line.get_xdata()) == [1, 2, 3]
            means = of_scheme.groupby("epoch")[column].mean()
            assert list(line.get_ydata()) == pytest.approx(means.tolist())
            assert len(panel.lines) == len(names)  # the others in grey
    # One axis for all, filled by the values
    low, high = figure.axes[4].get_ylim()
    assert {axes.get_ylim() for axes in figure.axes[4:8]} == {(low, high)}
    assert (low, high) == pytest.approx((-0.039, 0.689))


def test_epochs_without_any_object_are_no_points(tmp_path):
    log = write_losses(tmp_path / "losses.jsonl", (1.0, 0, None, None), (2.0, 1, 4.0, None))
    (row,) = positives(by_epoch(log)).to_dict("records")
    assert (row["epoch"], row["positives"]) == (2, 4.0)
    assert np.isnan(row["positive_iou"])


def test_the_figure_shows_the_losses_of_each_scheme(tmp_path, monkeypatch):
    first = by_epoch(write_losses(tmp_path / "losses.jsonl", *LOSSES))
    other = by_epoch(write_losses(tmp_path / "others.jsonl", (1.0, 1, 8.0, 0.6), (2.0, 1, 2.0, 0.8)))
    saved = watch_figures(monkeypatch)
    draw_positive_curves({"A*": [first, other], "B": [other]}, tmp_path / "figure")
    figure, *again = saved
    assert all(figure is other for other in again)
    # Of the two seeds of A* the mean, in the third epoch of the one that has it.
    expected = [
        ([(6 + 8) / 2, (8 / 6 * 1 + 2) / 2, 7], [8, 2]),
        ([(0.35 + 0.6) / 2, (0.5 + 0.8) / 2, 0.7], [0.6, 0.8]),
    ]
    for panels, values in zip((figure.axes[:2], figure.axes[2:]), expected, strict=True):
        for axes, of_scheme in zip(panels, values, strict=True):
            (line,) = shown_lines(axes)
            assert list(line.get_ydata()) == pytest.approx(of_scheme)
    assert np.array_equal(pixels(tmp_path / "figure.png"), rendered(figure, 200))
    text = text_of_pdf(tmp_path / "figure.pdf").splitlines()
    assert {"A*", "B", "epoch", "positives", "per object"} <= set(text)
    said = (tmp_path / "figure.md").read_text()
    assert "a band reaches from the lowest to the highest" in said
    assert "logarithmic" not in said
    assert figure.axes[0].get_yscale() == "linear"


def test_the_axis_is_logarithmic_where_schemes_differ_much(tmp_path):
    few, many = ([{"epoch": 1.0, "positives": number, "positive_iou": 0.5}] for number in (2.0, 60.0))
    draw_positive_curves({"A": [few], "B": [many]}, tmp_path / "figure")
    assert "on a logarithmic axis" in (tmp_path / "figure.md").read_text()
    curves = pd.concat(
        [positives(few).assign(scheme="A", seed=0), positives(many).assign(scheme="B", seed=0)]
    )
    assert draw(curves).axes[0].get_yscale() == "log"


def test_a_loss_that_is_not_finite_is_no_point(tmp_path):
    """The log of a training on a GPU may hold such an entry before the divergence is seen."""
    log = LossLog(tmp_path / "losses.jsonl", 0)
    for number, loss in enumerate((3.0, 2.0, math.nan), 1):
        log.add(
            {"iteration": number, "epoch": float(number), "objects": 0, "positives": None}
            | {"positive_iou": None, "loss": loss}
        )
    epochs = by_epoch(log.path)
    assert [epoch["loss"] for epoch in epochs] == [3.0, 2.0, None]
    assert loss_curve(epochs) == loss_curve(epochs[:2])
    assert loss_curve(epochs[1:]) is None
