"""The forest plot: what is drawn is what `claims.csv` says."""

import colorsys
import math

import numpy as np
import pandas as pd
import pytest
from helpers.figures import text_of_pdf, watch_figures
from matplotlib.axes import Axes
from matplotlib.collections import Collection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from tood.report.claims_table import verdict_with_welch, write_claims
from tood.report.evidence import Checked, Evidence, judge, summary
from tood.report.forest import OURS, PAPER, SEEDS, caption, draw_forest, forest
from tood.study.claims import load_claims
from tood.study.declarations import load_runs, load_tables
from tood.study.paths import REPOSITORY, StudyPaths

RUNS = load_runs()
TABLES = load_tables(runs=RUNS)
CLAIMS = load_claims(RUNS, TABLES)
PAIR = ("tood_af", "atss_af")


def metrics(**differences) -> pd.DataFrame:
    """Values by seed, of ATSS 40 and of TOOD above it."""
    rows = [
        (run, seed, metric, 40 + (run != "atss_af") * value, False)
        for metric, by_run in differences.items()
        for run, found in {"atss_af": [0] * 3, **by_run}.items()
        for seed, value in enumerate(found)
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "metric", "value", "stale"])


OWN = metrics(
    **{
        "AP": {"tood_af": [5, 6, 7], "tal": [1.0], "tood_ab": [4, 5, 9]},
        "AP75": {"tood_af": [9, 9.5, 10.3]},
        "#Error boxes": {"tood_af": [-500, -600, -800]},
        "IoU (top-10)": {"tood_af": [0.1, 0.12, 0.11]},
    }
)
CHECKS = [
    Checked("images", "one", PAIR, metrics(AP={"tood_af": [2, 3, 5]})),
    Checked("epochs", "two", PAIR, metrics()),  # not there yet
    Checked("cells", "three", PAIR, metrics(AP={"tood_af": [-3, -3.5, -4]})),
]
EVIDENCE = Evidence(study="own", metrics=OWN, checks=CHECKS)
JUDGED = judge(CLAIMS, EVIDENCE, TABLES)


def values(axes: Axes, label: str) -> dict[str, float]:
    """The position of each marker of a study, by the claim in whose row it is."""
    claims = claims_of(axes)
    found = next((bars[0].get_xydata() for bars in axes.containers if bars.get_label() == label), None)
    if found is None:
        found = next((dots.get_offsets() for dots in axes.collections if dots.get_label() == label), [])
    return {claims[round(float(y))]: float(x) for x, y in found}


def claims_of(axes: Axes) -> list[str]:
    """The claims of a panel's rows, from the bottom to the top."""
    by_number = dict(zip(JUDGED["number"], JUDGED["claim"], strict=True))
    return [by_number[text.get_text().split()[0]] for text in axes.texts]


def places(dots: Collection) -> list[tuple[float, float]]:
    """Where the dots of a scatter plot are, without unknown ones."""
    return [(x, y) for x, y in dots.get_offsets().tolist() if x is not None]


def intervals(axes: Axes, label: str) -> list[list[float]]:
    (bars,) = [bars for bars in axes.containers if bars.get_label() == label]
    return [segment[:, 0].tolist() for segment in bars[2][0].get_segments() if len(segment)]


def of_panel(figure: Figure, number: int, check: str = "") -> pd.DataFrame:
    """The rows of `JUDGED` that a panel shows."""
    shown = claims_of(figure.axes[number])
    looks = JUDGED[JUDGED["decides"].astype(bool) & (JUDGED["check"] == check) & (JUDGED["seeds"] > 0)]
    return looks[looks["claim"].isin(shown)].set_index("claim")


@pytest.fixture(scope="module")
def figure() -> Figure:
    return forest(JUDGED)


def test_markers_and_bars_are_where_the_values_are(figure):
    assert len(figure.axes) == 3  # AP, boxes, IoU
    for number, axes in enumerate(figure.axes):
        own = of_panel(figure, number)
        if number == 1:  # in percent of the boxes of ATSS, 40 here and 92,677 in the paper
            own = own.assign(paper=100 * own["paper"] / 92677)
            own[["mean", "low", "high"]] *= 100 / 40
        assert values(axes, OURS) == pytest.approx(own["mean"].to_dict())
        bounds = own.dropna(subset="low")[["low", "high"]].to_numpy().tolist()
        assert sorted(intervals(axes, OURS)) == [pytest.approx(bound) for bound in sorted(bounds)]
        assert values(axes, PAPER) == pytest.approx(own["paper"].to_dict())
    assert of_panel(figure, 0)["low"].isna().any()  # TAL has one seed, and no bar


def test_studies_stand_side_by_side_in_the_row_of_their_claim(figure):
    axes = figure.axes[0]
    for name in ("images", "cells"):
        expected = of_panel(figure, 0, name)
        assert len(expected) == 1
        assert values(axes, name) == pytest.approx(expected["mean"].to_dict())
        assert intervals(axes, name) == [pytest.approx(expected[["low", "high"]].to_numpy()[0].tolist())]
    assert values(axes, "epochs") == {}
    heights = [
        bars[0].get_ydata() for bars in axes.containers if bars.get_label() in (OURS, "images", "cells")
    ]
    row = [float(y) for ys in heights for y in ys if round(float(y)) == round(float(heights[1][0]))]
    assert row == sorted(row, reverse=True)
    assert len(set(row)) == 3
    assert max(row) - min(row) < 0.5


def test_claims_have_the_order_and_the_numbers_of_the_table(figure):
    for axes in figure.axes:
        downwards = [int(text.get_text().split()[0].removeprefix("C")) for text in axes.texts][::-1]
        assert downwards == sorted(downwards)
        assert claims_of(axes)[::-1] == [CLAIMS[number - 1].claim for number in downwards]
        assert [round(text.get_position()[1]) for text in axes.texts] == list(range(len(downwards)))


def test_each_seed_is_a_dot_below_its_mean(figure):
    axes = figure.axes[0]
    dots = next(dots for dots in axes.collections if dots.get_label() == SEEDS)
    own = claims_of(axes).index("TOOD is better than ATSS, anchor-free")
    assert [x for x, y in places(dots) if round(y) == own] == pytest.approx([5, 6, 7])


def test_an_axis_shows_the_points_and_arrowheads_the_longest_intervals():
    wide = metrics(AP={"tood_af": [1, 9, 3], "tal": [2.0, 2.1, 1.9]})
    axes = forest(judge(CLAIMS, Evidence(metrics=wide), TABLES)).axes[0]
    left, right = axes.get_xlim()
    found = dict(zip(claims_of(axes), range(2), strict=True))
    (bounds,) = [bounds for bounds in intervals(axes, OURS) if bounds[1] - bounds[0] > 10]
    assert (bounds[0] < left, bounds[1] > right) == (True, True)
    assert (left < 0, right > 9, right < 15) == (True, True, True)
    ends = [place for dots in axes.collections for place in places(dots)]
    heads = [(x, round(y)) for x, y in ends if x in (left, right)]
    assert heads == [(x, found["TOOD is better than ATSS, anchor-free"]) for x in (left, right)]


def test_a_margin_is_a_band(figure):
    band = next(bars for bars in figure.axes[0].containers if bars.get_label() == "margin of the claim")
    (bar,) = band.patches
    assert (bar.get_x(), bar.get_x() + bar.get_width()) == (-0.5, 0.5)


def test_labels_have_the_metric_and_the_verdict(figure):
    shown = summary(JUDGED).set_index("claim")
    for axes in figure.axes:
        for claim, text in zip(claims_of(axes), axes.texts, strict=True):
            said = text.get_text().split("\n")[-1]
            assert said == f"{shown.loc[claim, 'metric']}: {verdict_with_welch(shown.loc[claim])}"
    (legend,) = figure.legends
    names = [OURS, PAPER, "images", "cells", SEEDS, "margin of the claim"]
    assert [text.get_text() for text in legend.get_texts()] == names


def test_studies_can_be_told_apart_without_colours():
    values_there = metrics(AP={"tood_af": [2, 3, 5]})
    many = [Checked(f"check {number}", "x", PAIR, values_there) for number in range(4)]
    axes = forest(judge(CLAIMS, Evidence(metrics=OWN, checks=many), TABLES)).axes[0]
    points = [bars for bars in axes.containers if bars.get_label() != "margin of the claim"]
    assert len(points) == 5
    assert len({bars[0].get_marker() for bars in points}) == 5
    own, *checks = points
    assert own[0].get_markerfacecolor() == own[0].get_color()
    assert {bars[0].get_markerfacecolor() for bars in checks} == {"white"}
    assert len({str(bars[2][0].get_linestyle()) for bars in points}) >= 4
    lightness = sorted(colorsys.rgb_to_hls(*to_rgb(bars[0].get_color()))[1] for bars in points)
    assert lightness[0] == 0
    assert lightness[-1] < 0.75  # seen on white


def test_a_fifth_check_is_not_drawn_as_the_study_itself():
    values_there = metrics(AP={"tood_af": [2, 3, 5]})
    many = [Checked(f"check {number}", "x", PAIR, values_there) for number in range(5)]
    axes = forest(judge(CLAIMS, Evidence(metrics=OWN, checks=many), TABLES)).axes[0]
    own, *checks = [bars[0] for bars in axes.containers if bars.get_label() != "margin of the claim"]
    assert len(checks) == 5
    assert own.get_marker() not in {bars.get_marker() for bars in checks}
    assert {bars.get_markerfacecolor() for bars in checks} == {"white"}


def test_where_the_run_compared_with_has_no_boxes_nothing_is_drawn():
    rows = [(run, seed, "#Error boxes", 5.0 * (run == "tood_af"), False) for run in PAIR for seed in (0, 1)]
    frame = pd.DataFrame(rows, columns=["run", "seed", "metric", "value", "stale"])
    (axes,) = forest(judge(CLAIMS, Evidence(metrics=frame), TABLES)).axes
    assert all(math.isnan(x) for x in values(axes, OURS).values())
    assert axes.get_xlim()[1] > 0


def test_a_study_without_values_says_so():
    figure = forest(judge(CLAIMS, Evidence(), TABLES))
    assert [text.get_text() for text in figure.texts] == ["No claim has a value yet."]


def test_the_figure_is_drawn_from_the_file(tmp_path, monkeypatch):
    write_claims(CLAIMS, EVIDENCE, TABLES, tmp_path, [])
    saved = watch_figures(monkeypatch)
    draw_forest(tmp_path / "claims.csv", tmp_path / "figures/claims")
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == ["claims.md", "claims.pdf", "claims.png", "claims_dark.png"]
    assert values(saved[0].axes[0], "images") == pytest.approx(
        {"TOOD is better than ATSS, anchor-free": 10 / 3}
    )
    text = text_of_pdf(tmp_path / "figures/claims.pdf")
    assert "TOOD is better than ATSS, anchor-free" in text
    assert "$" not in text
    said = (tmp_path / "figures/claims.md").read_text()
    parts = (
        "a bar its 95% interval",
        "band is the margin",
        "cross is the difference",
        "Open markers are other studies",
    )
    assert [part in said for part in parts] == [True] * 4


def test_without_the_papers_values_nothing_is_said_of_them():
    own = judge(CLAIMS, Evidence(study="own", metrics=OWN), TABLES).assign(paper=float("nan"))
    (legend,) = forest(own).legends
    assert [text.get_text() for text in legend.get_texts()] == [OURS, SEEDS, "margin of the claim"]
    assert "cross" not in caption(own)
    assert "Open markers" not in caption(own)


@pytest.mark.parametrize("study", ["mini", "cells"])
def test_the_committed_figure_shows_the_committed_claims(study, tmp_path):
    """Fonts and versions may move a pixel here and there; other values or labels move many."""
    results = StudyPaths(study).results
    draw_forest(REPOSITORY / results / "tables/claims.csv", tmp_path / "claims")
    with (
        Image.open(tmp_path / "claims.png") as drawn,
        Image.open(REPOSITORY / results / "figures/claims.png") as kept,
    ):
        assert drawn.size == kept.size
        difference = np.asarray(drawn.convert("L"), float) - np.asarray(kept.convert("L"), float)
    assert (np.abs(difference) > 64).mean() < 1e-3
