"""Means over the seeds that the rows of a table share, by hand."""

import math

import pandas as pd
import pytest

from tood.report.shared_seeds import on_shared_seeds, remark, with_shared_seeds
from tood.study.declarations import load_tables

TABLE = load_tables()["table_m"]
RUNS = ["tood_m5", "tood_m9", "tood_af", "tood_m17", "tood_m21"]


def metrics(*rows: tuple, metric: str = "AP") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["run", "seed", "value"]).assign(metric=metric, stale=False)


def test_means_are_over_the_seeds_that_all_measured_rows_have():
    frame = metrics(
        *[("tood_m5", 0, 30.0), ("tood_m5", 1, 32.0), ("tood_m9", 1, 20.0), ("tood_m9", 2, 99.0)],
        *[("tood_af", 1, 40.0), ("tood_af", 2, 10.0), ("atss_af", 7, 1.0)],
    )
    assert on_shared_seeds(frame, RUNS)["value"].to_list() == [32.0, 20.0, 40.0]
    said = "AP on the seeds that all measured rows have (1), row by row: 32.0, 20.0, 40.0, –, –."
    assert remark(frame, TABLE) == [said]


def test_a_stale_or_an_undefined_value_is_not_shared():
    frame = metrics(("tood_m5", 0, 30.0), ("tood_m5", 1, 31.0), ("tood_m9", 0, 1.0), ("tood_m9", 1, math.nan))
    assert on_shared_seeds(frame, RUNS)["seed"].unique().tolist() == [0]
    assert on_shared_seeds(frame.assign(stale=frame["seed"] == 0), RUNS)["run"].tolist() == ["tood_m5"]


def test_nothing_is_said_where_rows_have_the_same_seeds_or_none_in_common():
    assert remark(metrics(("tood_m5", 0, 30.0), ("tood_m9", 0, 20.0)), TABLE) == []
    assert remark(metrics(("tood_m5", 0, 30.0), ("tood_m9", 1, 20.0)), TABLE) == []
    assert remark(metrics(("tood_m5", 0, 30.0), metric="AP75"), TABLE) == []


def test_a_written_table_gets_the_means_over_the_seeds_that_its_measured_rows_have():
    rows = pd.DataFrame({"m": [5, 9, 13], "run": RUNS[:3], "AP": [9.0, 9.0, math.nan], "AP_sd": 9.0})
    frame = metrics(("tood_m5", 0, 30.0), ("tood_m5", 1, 32.0), ("tood_m9", 1, 20.0), ("tood_m9", 2, 99.0))
    shared, seeds = with_shared_seeds(rows, frame)
    assert seeds == [1]
    assert shared["AP"].to_list() == pytest.approx([32.0, 20.0, math.nan], nan_ok=True)
    assert shared["AP_sd"].isna().all()
    more = pd.concat([frame, metrics(("tood_m9", 0, 26.0))])
    assert with_shared_seeds(rows, more)[0]["AP_sd"].to_list()[:2] == pytest.approx([2**0.5, 18**0.5])
    unlike, seeds = with_shared_seeds(rows, frame[frame["seed"] != 1])
    assert seeds == []
    pd.testing.assert_frame_equal(unlike, rows)


def test_every_table_can_have_rows_with_different_seeds():
    for table in load_tables().values():
        rows = {row.run: [0] for row in table.rows} | {table.rows[0].run: [0, 1]}
        frame = metrics(*((run, seed, 1.0) for run, seeds in rows.items() for seed in seeds))
        assert len(remark(frame, table)) == (len(rows) > 1 and "AP" in table.metrics)
