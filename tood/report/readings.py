"""Table 6 under other readings of the paper's definitions, by the names of the table's metrics."""

from collections.abc import Mapping

import pandas as pd

from tood.analysis.table6.names import METRIC_OF

READINGS = ["run", "seed", "reading", "metric", "value"]  # of table6_readings.csv
NO_READINGS = pd.DataFrame(columns=READINGS)
DEFAULT = "default"  # the reading that the tables show

Values = dict[str, dict[int, float]]  # by run, then by seed


def values_by_reading(readings: pd.DataFrame) -> Mapping[tuple[str, str], Values]:
    """The values of each metric of Table 6 under each reading but the default, whose values the tables have.

    Args:
        readings: with the columns `READINGS`.

    Returns:
        by (metric, reading)
    """
    values: dict[tuple[str, str], Values] = {}
    for run, seed, reading, name, value in readings[READINGS].itertuples(index=False):
        if name in METRIC_OF and reading != DEFAULT:
            of_runs = values.setdefault((METRIC_OF[name], reading), {})
            of_runs.setdefault(run, {})[int(seed)] = float(value)
    return values
