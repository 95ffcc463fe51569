"""Rows of a table on the seeds that they share, as the runs of one seed belong together."""

import pandas as pd

from tood.report.contrasts import common_seeds
from tood.report.evidence import values_by_metric
from tood.report.markup import number
from tood.study.declarations import Table

METRIC = "AP"


def on_shared_seeds(metrics: pd.DataFrame, table: Table, metric: str = METRIC) -> pd.DataFrame:
    """The values of a metric in the table's measured rows, with the seeds that all of these rows have.

    Args:
        metrics: with the columns of `metrics.csv`; stale values are left out.
        table: whose rows are compared.
        metric: its name.

    Returns:
        The chosen rows of `metrics`; none where no seed is common.
    """
    stale = metrics["stale"].astype(bool) if "stale" in metrics else False
    rows = metrics["run"].isin([row.run for row in table.rows]) & (metrics["metric"] == metric)
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
    values = on_shared_seeds(metrics, table)
    measured = metrics[(metrics["metric"] == METRIC) & metrics["value"].notna()]
    own = measured[measured["run"].isin(values["run"])]
    if values.empty or len(values) == len(own):
        return []
    means = values.groupby("run")["value"].mean()
    shown = [number(means[row.run], table.metrics[METRIC]) if row.run in means else "–" for row in table.rows]
    seeds = ", ".join(str(int(seed)) for seed in sorted(values["seed"].unique()))
    return [f"{METRIC} on the seeds that all measured rows have ({seeds}), row by row: {', '.join(shown)}."]
