"""Rows of a table on the seeds that they share, as the runs of one seed belong together."""

from collections.abc import Collection

import pandas as pd

from tood.report.contrasts import common_seeds
from tood.report.evidence import values_by_metric
from tood.report.markup import number
from tood.study.declarations import Table

METRIC = "AP"


def on_shared_seeds(metrics: pd.DataFrame, runs: Collection[str], metric: str = METRIC) -> pd.DataFrame:
    """The values of a metric in measured runs, with the seeds that all of these have.

    Args:
        metrics: with the columns of `metrics.csv`; stale values are left out.
        runs: that are compared.
        metric: its name.

    Returns:
        The chosen rows of `metrics`; none where no seed is common.
    """
    stale = metrics["stale"].astype(bool) if "stale" in metrics else False
    rows = metrics["run"].isin(runs) & (metrics["metric"] == metric)
    values = metrics[rows & ~stale & metrics["seed"].notna() & metrics["value"].notna()]
    by_run = values_by_metric(values).get(metric, {})
    return values[values["seed"].isin(common_seeds(by_run, by_run))]


def remark(metrics: pd.DataFrame, table: Table) -> list[str]:
    """A sentence with the means over shared seeds; none where rows have the same seeds, or none in common.

    Args:
        metrics: as for `on_shared_seeds`.
        table: whose rows the means follow; nothing is said of one that does not show AP.
    """
    if METRIC not in table.metrics:
        return []
    values = on_shared_seeds(metrics, [row.run for row in table.rows])
    measured = metrics[(metrics["metric"] == METRIC) & metrics["value"].notna()]
    own = measured[measured["run"].isin(values["run"])]
    if values.empty or len(values) == len(own):
        return []
    means = values.groupby("run")["value"].mean()
    shown = [number(means[row.run], table.metrics[METRIC]) if row.run in means else "–" for row in table.rows]
    seeds = ", ".join(str(int(seed)) for seed in sorted(values["seed"].unique()))
    return [f"{METRIC} on the seeds that all measured rows have ({seeds}), row by row: {', '.join(shown)}."]


def with_shared_seeds(rows: pd.DataFrame, metrics: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Rows of a written table with AP, and its SD, over the seeds that all measured rows have.

    Args:
        rows: with the columns `run` and `AP`; the SD is `AP_sd`, as in the written table.
        metrics: as for `on_shared_seeds`.

    Returns:
        The rows, and the seeds. Where no seed is common, the rows as they are, and no seed.
    """
    values = on_shared_seeds(metrics, rows["run"].tolist())
    if values.empty:
        return rows, []
    by_run = values.groupby("run")["value"]
    over_seeds = {METRIC: rows["run"].map(by_run.mean()), f"{METRIC}_sd": rows["run"].map(by_run.std())}
    return rows.assign(**over_seeds), sorted(int(seed) for seed in values["seed"].unique())
