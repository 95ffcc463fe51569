"""Figures of TAL's hyper-parameters: what is drawn is what the tables hold."""

import numpy as np
import pandas as pd
import pytest
from helpers.figures import pixels, rendered, text_of_pdf, watch_figures
from matplotlib.axes import Axes

from tood.analysis.figures import sweeps
from tood.analysis.figures.sweeps import APART

# Not in the order of m or of beta, with seeds; the paper prints AP for one m, and for each pair of Table 4.
SWEEP_M = pd.DataFrame({"m": [21, 5, 13, 9, 17], "AP": [30.5, 28.0, 31.0, 30.0, 29.5], "AP_sd": [0.1] * 5})
SWEEP_M["AP_paper"] = [None, None, 42.5, None, None]
SWEEP_AB = pd.DataFrame(
    {
        "α": [1.0, 1.0, 0.5, 0.5],
        "β": [6, 4, 2, 6],
        "AP": [31.0, 30.0, 25.0, 28.5],
        "AP_sd": [0.2, 0.3, 0.4, 0.5],
        "AP_paper": [42.5, 42.3, 42.4, 42.1],
    }
)


def lines(axes: Axes) -> dict[str, dict[float, float]]:
    """The points (x, y) of each labelled line, x to the next whole number."""
    return {
        bars.get_label(): dict(
            zip(*(np.asarray(v).tolist() for v in _rounded(*bars[0].get_data())), strict=True)
        )
        for bars in axes.containers
    }


def _rounded(x, y) -> tuple:
    return np.asarray(x, dtype=float).round(), y


def deviations(axes: Axes) -> list[list[float]]:
    """Half the length of each error bar, for each line that has them."""
    return [
        [float(np.ptp(segment[:, 1]) / 2) for segment in bars[2][0].get_segments()]
        for bars in axes.containers
        if bars.has_yerr
    ]


def test_sweep_of_m_is_relative_to_the_papers_choice():
    (axes,) = sweeps.sweep_of_m(SWEEP_M).axes
    assert lines(axes) == {"this study": {5: -3.0, 9: -1.0, 13: 0.0, 17: -1.5, 21: -0.5}}
    assert deviations(axes) == [pytest.approx([0.1] * 5)]
    (band,) = axes.patches  # the paper: 42.0 to 42.5 AP, the upper end at m = 13
    assert (band.get_y(), band.get_y() + band.get_height()) == (-0.5, 0.0)
    assert axes.get_title() == "at m = 13: this study 31.0 AP, paper 42.5 AP"
    assert axes.get_xticks().tolist() == [5, 9, 13, 17, 21]


def test_alpha_and_beta_have_a_line_for_each_alpha():
    ours, paper = sweeps.alpha_beta(SWEEP_AB).axes
    assert (ours.get_title(), paper.get_title()) == ("this study", "paper")
    assert lines(ours) == {"α = 0.5": {2: 25.0, 6: 28.5}, "α = 1.0": {4: 30.0, 6: 31.0}}
    assert lines(paper) == {"α = 0.5": {2: 42.4, 6: 42.1}, "α = 1.0": {4: 42.3, 6: 42.5}}
    assert deviations(ours) == [pytest.approx([0.4, 0.5]), pytest.approx([0.3, 0.2])]
    assert deviations(paper) == []
    # Bars of one beta stand side by side.
    (first, second) = (bars[0].get_xdata()[-1] for bars in ours.containers)
    assert second - first == pytest.approx(APART)


def test_a_study_of_other_data_has_nothing_of_the_paper():
    sweep, pairs = SWEEP_M.drop(columns="AP_paper"), SWEEP_AB.drop(columns="AP_paper")
    (axes,) = sweeps.sweep_of_m(sweep).axes
    assert (len(axes.patches), axes.get_title()) == (0, "at m = 13: this study 31.0 AP")
    (axes,) = sweeps.alpha_beta(pairs).axes
    assert axes.get_title() == "this study"
    assert "paper" not in sweeps.caption_of_m(sweep, [0]) + sweeps.caption_of_pairs(pairs, [0])


def test_one_seed_has_no_error_bars():
    for figure in (
        sweeps.sweep_of_m(SWEEP_M.drop(columns="AP_sd")),
        sweeps.alpha_beta(SWEEP_AB.drop(columns="AP_sd")),
    ):
        assert [deviations(axes) for axes in figure.axes] == [[] for _ in figure.axes]


def test_the_figures_show_the_tables_they_are_given(tmp_path, monkeypatch):
    saved = watch_figures(monkeypatch)
    sweeps.draw_sweeps((SWEEP_M, [0, 3]), (SWEEP_AB, []), tmp_path / "figures")
    names = [
        f"{name}{end}" for name in ("alpha_beta", "sweep_m") for end in (".md", ".pdf", ".png", "_dark.png")
    ]
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == names
    sweep, pairs = saved[0], saved[-1]
    assert lines(sweep.axes[0])["this study"][5] == -3.0
    assert lines(pairs.axes[1])["α = 0.5"] == {2: 42.4, 6: 42.1}
    for name, figure in (("sweep_m", sweep), ("alpha_beta", pairs)):
        assert np.array_equal(pixels(tmp_path / f"figures/{name}.png"), rendered(figure, 200))
    seeds = {
        "sweep_m": "the seeds that all settings have (0, 3)",
        "alpha_beta": "none of which all settings have",
    }
    for name, said in seeds.items():
        caption = (tmp_path / f"figures/{name}.md").read_text()
        assert said in caption
        assert "a bar the sample standard deviation" in caption
    assert "this study 31.0 AP, paper 42.5 AP" in text_of_pdf(tmp_path / "figures/sweep_m.pdf")
    assert "paper" in text_of_pdf(tmp_path / "figures/alpha_beta.pdf").splitlines()
