"""Two studies of the same runs: what differs between them, seed by seed."""

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tood.report.contrasts import CONFIDENCE, common_seeds, estimate, frame_by_seed, holm
from tood.report.evidence import values_by_metric
from tood.report.kept import trained
from tood.report.tables import with_enough_objects
from tood.runtime.failures import InputError
from tood.runtime.text import did_you_mean
from tood.study.declarations import load_runs, load_tables
from tood.study.paths import METRICS

# `mean` to `p` are of the second study minus the first; the difference of each seed follows, as `seed0` ...
COLUMNS = [
    *("run", "metric", "seeds", "first", "second", "mean", "sd", "low", "high", "welch_low", "welch_high"),
    *("p", "holm_p"),
]
NOTE = (
    f"Intervals: {CONFIDENCE:.0%}, by Student's t over the seeds that both studies have; Welch's pairs "
    "nothing. Holm's p is adjusted over the rows of one metric."
)


def compare_studies(results: Path, first: str, second: str, metrics: Sequence[str] = ("AP",)) -> pd.DataFrame:
    """The differences of all runs that both studies have, in the order of their declaration.

    Args:
        results: folder of the results.
        first: name of a study.
        second: name of the study from whose values those of the first are subtracted.
        metrics: names, as in `metrics.csv`; empty for all that both studies have.

    Returns:
        The columns `COLUMNS` and those of the seeds, in units of the metric. A run without a common seed has
        0 `seeds` and no numbers. Values that are stale, or of a size class with few objects, do not count.

    Raises:
        InputError: a study has no values, or neither has a metric of that name, or no run is in both.
    """
    values = {study: values_by_metric(_current(results, study)) for study in (first, second)}
    known = [metric for metric in values[first] if metric in values[second]]
    for metric in metrics:
        if metric not in known:
            raise InputError(
                f"--metric {metric}: {first} and {second} have no such metric in common; "
                f"{did_you_mean(metric, known)}there are {', '.join(known) or 'none'}"
            )
    rows = []
    for metric in metrics or known:
        ours, others = values[first][metric], values[second][metric]
        both = [run for run in load_runs() if run in ours and run in others]
        of_metric = [_row(run, metric, ours[run], others[run]) for run in both]
        adjusted = holm([row["p"] for row in of_metric])
        rows += [row | {"holm_p": p} for row, p in zip(of_metric, adjusted, strict=True)]
    if not rows:
        raise InputError(f"{first} and {second} have no run in common: nothing can be compared")
    return frame_by_seed(rows, COLUMNS)


def number_format(metric: str) -> str:
    """How tables show a metric, as a format of Python."""
    formats = {name: spec for table in load_tables().values() for name, spec in table.metrics.items()}
    return formats.get(metric, ".3g")


def _current(results: Path, study: str) -> pd.DataFrame:
    """Values that belong to trainings and are not stale."""
    path = results / study / METRICS
    if not path.is_file():
        raise InputError(f"{study}: {path} is not there; `tood report --name {study}` writes it")
    metrics = trained(results, study)
    if not len(metrics):
        raise InputError(f"{study}: {path} has no value of a training")
    if metrics["stale"].all():
        raise InputError(
            f"{study}: every value in {path} is stale; call the workflow again, or check out its code"
        )
    return with_enough_objects(metrics)


def _row(run: str, metric: str, first: dict[int, float], second: dict[int, float]) -> dict:
    """The difference of one run."""
    values = {"first": first, "second": second}
    seeds = common_seeds(values, values)
    effect = estimate({"second": 1, "first": -1}, values, seeds)
    means = {
        study: sum(of_study[seed] for seed in seeds) / len(seeds) if seeds else math.nan
        for study, of_study in values.items()
    }
    return {"run": run, "metric": metric, **means, **effect.columns()}
