"""The figure of positives over training: what is drawn is what the trainings wrote."""

import math

import numpy as np
import pandas as pd
import pytest
from helpers.figures import pixels, rendered, text_of_pdf, watch_figures
from helpers.losses import LOSSES, write_losses

from tood.analysis.figures.positive_curves import draw, draw_positive_curves, positives
from tood.engine.loss_log import LossLog
from tood.ledger.curves import by_epoch
from tood.report.page import loss_curve
from tood.study.declarations import load_tables


def test_the_figure_has_a_line_per_scheme():
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
    for axes, column in zip(figure.axes, ("positives", "positive_iou"), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata())]
        assert len(lines) == len(names) == 14
        for line, name in zip(lines, names, strict=True):
            expected = curves[curves["scheme"] == name].groupby("epoch")[column].mean()
            assert list(line.get_xdata()) == [1, 2, 3]
            assert list(line.get_ydata()) == pytest.approx(expected.tolist())
        looks = {(line.get_color(), line._dash_pattern[1] and tuple(line._dash_pattern[1])) for line in lines}
        assert len(looks) == len(names)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names


def test_epochs_without_any_object_are_no_points(tmp_path):
    log = write_losses(tmp_path / "losses.jsonl", (1.0, 0, None, None), (2.0, 1, 4.0, None))
    (row,) = positives(by_epoch(log)).to_dict("records")
    assert (row["epoch"], row["positives"]) == (2, 4.0)
    assert np.isnan(row["positive_iou"])


def test_the_figure_shows_the_losses_of_each_scheme(tmp_path, monkeypatch):
    first = by_epoch(write_losses(tmp_path / "losses.jsonl", *LOSSES))
    other = by_epoch(write_losses(tmp_path / "others.jsonl", (1.0, 1, 8.0, 0.6), (2.0, 1, 2.0, 0.8)))
    png, pdf = tmp_path / "figure.png", tmp_path / "figure.pdf"
    saved = watch_figures(monkeypatch)
    draw_positive_curves({"A*": [first, other], "B": [other]}, png, pdf)
    figure, again = saved
    assert figure is again
    # Of the two seeds of A* the mean, in the third epoch of the one that has it.
    expected = [
        ([(6 + 8) / 2, (8 / 6 * 1 + 2) / 2, 7], [8, 2]),
        ([(0.35 + 0.6) / 2, (0.5 + 0.8) / 2, 0.7], [0.6, 0.8]),
    ]
    for axes, (of_a, of_b) in zip(figure.axes, expected, strict=True):
        found = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata())]
        assert found == [pytest.approx(of_a), pytest.approx(of_b)]
    assert np.array_equal(pixels(png), rendered(figure, 200))
    assert {"A*", "B", "epoch", "positives per object"} <= set(text_of_pdf(pdf).splitlines())


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
