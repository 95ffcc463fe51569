"""The runs of a study with their AP, over seeds: what a comparison on the user's own data comes to."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tood.report.contrasts import CONFIDENCE, BySeed, common_seeds, estimate, paired_interval
from tood.report.effects import with_interval
from tood.report.evidence import values_by_metric
from tood.report.markup import DASH, latex, latex_table, markdown, markdown_table
from tood.report.shown import METHOD_METRICS, METHODS
from tood.runtime.files import write_text
from tood.study.declarations import Run

_TITLE = "Methods"
_CAPTION = (
    "The methods of this study: mean over the seeds, and in brackets the {confidence} interval of the mean "
    "by Student's t. One seed has no interval. Difference: of AP to {first}, within each seed, which is how "
    "methods are compared. Two methods whose intervals overlap may still differ, as they share seeds."
)
_DIFFERENCE = "Difference"
_WORDS = 2  # columns that are not numbers
_SPEC = ".1f"  # format of the numbers


def methods(runs: Sequence[Run], metrics: pd.DataFrame, states: Mapping[str, str]) -> pd.DataFrame:
    """Each run with its AP.

    Args:
        runs: those of the study, in the order of the table.
        metrics: measured values, with the columns run, seed, metric and value, and `stale`.
        states: of each run.

    Returns:
        columns run, method, status, seeds (that AP was measured with); for each metric `M` that any run has:
        `M`, its mean, `M_low` and `M_high`, nan where there is one seed, and `M_stale`. `difference`, with
        `_low` and `_high`, is the mean of AP minus that of the first run over the seeds that both have; nan
        for the first run and for stale values.
    """
    rows = []
    by_run = values_by_metric(metrics).get("AP", {})
    for run in runs:
        own = metrics[(metrics["run"] == run.id) & metrics["value"].notna()]
        row: dict[str, Any] = {"run": run.id, "method": run.title, "status": str(states.get(run.id, ""))}
        row["seeds"] = int(own.loc[own["metric"] == "AP", "seed"].nunique())
        for name in METHOD_METRICS:
            of_seeds = own[own["metric"] == name]
            low, high = paired_interval(of_seeds["value"].to_numpy(float))
            row |= {name: of_seeds["value"].mean(), f"{name}_low": low, f"{name}_high": high}
            row |= {f"{name}_stale": bool(of_seeds["stale"].any())}
        rows.append(row | _difference(run.id, runs[0].id, by_run))
    frame = pd.DataFrame(rows)
    unknown = [name for name in METHOD_METRICS if name != "AP" and frame[name].isna().all()]
    parts = ("", "_low", "_high", "_stale")
    return frame.drop(columns=[f"{name}{part}" for name in unknown for part in parts])


def write_methods(
    runs: Sequence[Run],
    metrics: pd.DataFrame,
    states: Mapping[str, str],
    directory: Path,
    notes: Sequence[str],
) -> None:
    """Write the table as `methods.csv`, `.md` and `.tex`.

    Args:
        runs: as for `methods`, as are metrics and states.
        directory: of the files.
        notes: facts about the study.
    """
    frame = methods(runs, metrics, states)
    write_text(directory / f"{METHODS}.csv", frame.to_csv(index=False, float_format="%.8g"))
    shown = [name for name in METHOD_METRICS if name in frame]
    header = ["Method", "Run", "Seeds", shown[0], _DIFFERENCE, *shown[1:]]
    body = [_cells(row, shown) for row in frame.to_dict("records")]
    first = frame["method"].iloc[0]
    caption = _CAPTION.format(confidence=f"{CONFIDENCE:.0%}", first=first)
    cells = [list(map(markdown, row)) for row in body]
    text = markdown_table(f"**{_TITLE}.** {caption}", header, cells, _WORDS, list(map(markdown, notes)))
    write_text(directory / f"{METHODS}.md", text)
    cells = [list(map(latex, row)) for row in body]
    text = latex_table(METHODS, latex(caption), header, cells, _WORDS, list(map(latex, notes)))
    write_text(directory / f"{METHODS}.tex", text)


def best(frame: pd.DataFrame) -> str:
    """Which method has the highest AP, in a sentence; empty where nothing is measured.

    Args:
        frame: as `methods` returns it.
    """
    known = frame.dropna(subset="AP").to_dict("records")
    if not known:
        return ""
    row = max(known, key=lambda row: row["AP"])
    seeds = f"{row['seeds']} seeds" if row["seeds"] > 1 else "one seed"
    return f"{row['method']} has the highest mean AP: {_value(row, 'AP')}, with {seeds}."


def _difference(run: str, first: str, values: Mapping[str, BySeed]) -> dict[str, float]:
    """The columns of the difference to the first run."""
    seeds = common_seeds([run, first], values) if run != first else []
    effect = estimate({run: 1, first: -1}, values, seeds)
    low, high = effect.paired
    return {"difference": effect.mean, "difference_low": low, "difference_high": high}


def _cells(row: Mapping, metrics: Sequence[str]) -> list[str]:
    ap, *others = (_value(row, name) for name in metrics)
    if math.isnan(row["AP"]):
        ap = row["status"] or DASH
    difference = _shown(row, "difference", f"+{_SPEC}")
    return [row["method"], row["run"], str(row["seeds"]), ap, difference, *others]


def _value(row: Mapping, metric: str) -> str:
    return _shown(row, metric, _SPEC) + " (stale)" * row[f"{metric}_stale"]


def _shown(row: Mapping, name: str, spec: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], spec)
