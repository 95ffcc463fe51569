"""Differences to the paper, on hand-made values: who is compared, and within what."""

import math

import pandas as pd
import pytest

from tood.report.comparison import compare
from tood.report.tables import build, to_latex, to_markdown
from tood.study.declarations import load_runs, load_tables
from tood.study.plan import Plan
from tood.study.scales import Tolerance, load_scale, scale_names

RUNS, TABLES = load_runs(), load_tables()
TOLERANCE = Tolerance(metrics={"AP": 0.5}, source="For a test.")
SEEDS = dict.fromkeys(RUNS, (0,))


def compared(name, **values):
    found = [
        (run, 0, metric, value + offset, False)
        for run, value in values.items()
        for metric, offset in (("AP", 0), ("AP50", 1), ("AP75", 2))
    ]
    metrics = pd.DataFrame(found, columns=["run", "seed", "metric", "value", "stale"])
    frame = build(TABLES[name], metrics, {}, RUNS, SEEDS)
    return compare(TABLES[name], frame, TOLERANCE)


def test_differences_and_verdicts():
    # The paper has 39.2, 42.5, 39.3 and 42.4.
    frame = compared("table3", atss_af=39.7, tood_af=41.9, tood_ab=42.3)
    assert frame["AP_difference"].to_list() == pytest.approx([0.5, -0.6, math.nan, -0.1], nan_ok=True)
    assert frame["AP_verdict"].to_list() == ["within", "outside", "", "within"]
    assert "AP50_difference" not in frame  # it has no tolerance
    text = to_markdown(TABLES["table3"], frame)
    assert "| 39.7 | 39.2 | +0.5 (within) |" in text
    assert "| 41.9 | 42.5 | −0.6 (outside) |" in text
    assert "+0.5 (within)" in to_latex(TABLES["table3"], frame)


def test_stale_and_incomplete_rows_are_not_compared():
    metrics = pd.DataFrame([("atss_af", 0, name, 39.0, True) for name in ("AP", "AP50", "AP75")])
    metrics.columns = ["run", "seed", "metric", "value", "stale"]
    frame = compare(TABLES["table3"], build(TABLES["table3"], metrics, {}, RUNS, SEEDS), TOLERANCE)
    assert "AP_difference" not in frame


def test_values_of_other_images_are_not_compared():
    assert "AP_difference" not in compared("table2", freeanchor=39.1)  # whose value is of test-dev
    assert "AP_difference" not in compared("table5", tood_r101=46.7)


def test_only_the_papers_scale_has_a_tolerance():
    assert [name for name in scale_names() if load_scale(name).tolerance] == ["paper"]
    assert load_scale("paper").tolerance.source


@pytest.mark.parametrize(
    ("options", "is_compared"),
    [
        ({}, True),
        ({"weights": "released"}, True),
        ({"weights": "random"}, False),
        ({"val_images": 100}, False),
        ({"iterations": 5}, False),
        ({"data_root": "elsewhere"}, False),
    ],
)
def test_a_study_that_differs_from_the_papers_is_not_compared(options, is_compared):
    assert (Plan({"scale": "paper", "name": "other", **options}).tolerance is not None) is is_compared
