"""The table of methods of a study of own data: means and intervals by hand."""

import math

import pandas as pd
import pytest

from tood.report.methods import best, methods, write_methods
from tood.report.tables import NO_METRICS
from tood.study.declarations import load_runs

RUNS = [load_runs()[run] for run in ("tood_af", "atss_af", "tal")]


def metrics(**values: list[float]) -> pd.DataFrame:
    rows = [
        (run, seed, metric, value, False)
        for run, of_run in values.items()
        for metric in ("AP", "AP50")
        for seed, value in enumerate(of_run)
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "metric", "value", "stale"])


MEASURED = metrics(tood_af=[40, 41, 45], atss_af=[39.0])


def test_the_mean_has_students_interval_over_seeds():
    frame = methods(RUNS, MEASURED, {"tal": "failed"}).set_index("run")
    # Mean 42, sd sqrt(7); t of 2 degrees of freedom at 97.5 % is 4.302653.
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)
    assert frame.loc["tood_af", ["AP", "AP_low", "AP_high", "seeds"]].tolist() == pytest.approx(
        [42, 42 - half, 42 + half, 3], rel=1e-6
    )
    assert (frame.loc["atss_af", "AP"], frame.loc["atss_af", "seeds"]) == (39, 1)
    assert math.isnan(frame.loc["atss_af", "AP_low"])
    assert frame.loc["tal", ["seeds", "status"]].tolist() == [0, "failed"]
    assert "APS" not in frame  # which no run has
    assert best(frame.reset_index()) == (
        "TOOD, anchor-free (α = 1, β = 6, m = 13) has the highest mean AP: 42.0 (35.4 to 48.6), with 3 seeds."
    )


def test_the_difference_to_the_first_method_is_taken_within_seeds():
    measured = metrics(tood_af=[40, 41, 45], atss_af=[38, 40], tal=[50, 50, 50])
    measured["stale"] = measured["run"] == "tal"
    frame = methods(RUNS, measured, {}).set_index("run")
    # -2 and -1 with seeds 0 and 1: mean -1.5, sd sqrt(1 / 2); t of 1 degree of freedom at 97.5 % is 12.7062.
    half = 12.7062 * math.sqrt(1 / 2) / math.sqrt(2)
    columns = ["difference", "difference_low", "difference_high"]
    assert frame.loc["atss_af", columns].tolist() == pytest.approx([-1.5, -1.5 - half, -1.5 + half], rel=1e-5)
    assert frame.loc[["tood_af", "tal"], columns].isna().all(axis=None)  # the first itself; stale values


def test_the_files_have_a_row_per_method_and_nothing_of_the_paper(tmp_path):
    write_methods(
        RUNS, MEASURED.assign(stale=MEASURED["run"] == "atss_af"), {"tal": "failed"}, tmp_path, ["A note."]
    )
    text = (tmp_path / "methods.md").read_text()
    assert "| Method | Run | Seeds | AP | Difference | AP50 |" in text
    assert r"| tood\_af | 3 | 42.0 (35.4 to 48.6) | – |" in text
    assert r"| atss\_af | 1 | 39.0 (stale) | – | 39.0 (stale) |" in text
    assert "| tal | 0 | failed | – | – |" in text
    assert "Difference: of AP to TOOD, anchor-free" in text
    assert text.endswith("A note.\n")
    for suffix in ("md", "tex", "csv"):
        assert "paper" not in (tmp_path / f"methods.{suffix}").read_text().lower()


def test_a_difference_of_one_seed_has_no_interval(tmp_path):
    write_methods(RUNS, MEASURED, {}, tmp_path, [])
    assert r"| atss\_af | 1 | 39.0 | −1.0 | 39.0 |" in (tmp_path / "methods.md").read_text()


def test_without_values_there_is_no_best():
    assert best(methods(RUNS, NO_METRICS, {})) == ""
