"""The paper's tables with measured values beside its own, as data frame, CSV, Markdown and LaTeX."""

import math
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tood.runtime.files import write_text
from tood.study.declarations import Row, Run, Table

COLUMNS = ["run", "seed", "metric", "value", "stale"]  # of metrics.csv
# Columns of the complexity file as the tables name them
_COMPLEXITY = {
    "head_params_m": "Head params (M)",
    "params_m": "Full params (M)",
    "head_gflops": "Head FLOPs (G)",
    "gflops": "Full FLOPs (G)",
}
_DASH = "–"
_MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\`*_|<>[]"})
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "%_&#${}"}
    | {character: f"${character}$" for character in "<>|"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "α": r"$\alpha$",
        "β": r"$\beta$",
        "Σ": r"$\Sigma$",
        "²": r"$^2$",
        "±": r"$\pm$",
        "×": r"$\times$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "†": r"$^\dagger$",
        "–": "--",
    }
)


def read_complexity(path: Path) -> pd.DataFrame:
    """Parameters and FLOPs as metrics without a seed, as they belong to the model and not to a training.

    Args:
        path: file that `tood complexity` wrote; without this file the frame is empty.

    Returns:
        A frame with the columns `COLUMNS`.
    """
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    long = pd.read_csv(path).rename(columns=_COMPLEXITY).melt("run", var_name="metric")
    return long.assign(seed=float("nan"), stale="")[COLUMNS].sort_values(["run", "metric"])


def build(
    table: Table,
    metrics: pd.DataFrame,
    states: Mapping[str, str],
    runs: Mapping[str, Run],
    seeds: Iterable[int] = (),
) -> pd.DataFrame:
    """The measured values of a table beside the paper's.

    Args:
        table: declaration of the table.
        metrics: measured values, with the columns run, seed, metric and value, and optionally `stale` (names
            of the digests that have changed since, empty if none). A value without a seed, such as parameters
            and FLOPs, belongs to the model and not to a training.
        states: state of each run.
        runs: all declared runs.
        seeds: seeds of the study.

    Returns:
        One row per row of the table: keys, each metric measured and as in the paper, run and status. A metric
        `M` is the mean over its seeds. `M_sd` is their sample standard deviation, a column that exists if a
        row has several seeds. `M_stale` says whether any of the values is stale, a column that exists if one
        is. `status` is `done` if every metric of the row is measured for each of `seeds` (or without a seed)
        and none is stale, whatever the state of the run; but `released` if it was not trained here.
    """
    if metrics.duplicated(["run", "seed", "metric"]).any():
        raise ValueError("metrics: a run has two values of one metric and seed; remove one of them")
    groups = metrics.astype({"value": float}).groupby(["run", "metric"])["value"]
    measured = {group: (values.mean(), values.std()) for group, values in groups}
    seeds_of = metrics.groupby(["run", "metric"])["seed"].agg(set).to_dict()
    stale = set()
    if "stale" in metrics:
        stale = set(map(tuple, metrics.loc[metrics["stale"] != "", ["run", "metric"]].to_numpy()))
    nothing = (math.nan, math.nan)

    def covered(run: str, metric: str) -> bool:
        found = seeds_of.get((run, metric), set())
        return bool(found) and (found >= set(seeds) or any(map(pd.isna, found)))

    def values_of(row: Row) -> dict:
        values = {}
        for metric in table.metrics:
            values[metric], values[f"{metric}_sd"] = measured.get((row.run, metric), nothing)
            if table.printed:
                paper = row.paper[metric]
                values[f"{metric}_paper"] = math.nan if paper is None else paper
            values[f"{metric}_stale"] = (row.run, metric) in stale
        outdated = any(values[f"{metric}_stale"] for metric in table.metrics)
        complete = all(covered(row.run, metric) for metric in table.metrics)
        state = states.get(row.run, "pending")
        if runs[row.run].quoted:
            status = "quoted"
        elif outdated and state in ("pending", "done", "released"):
            status = "stale"
        elif complete and not outdated:
            status = "released" if state == "released" else "done"
        else:  # a training may be done while, for instance, its analysis is missing
            status = "pending" if state in ("done", "released") else state
        return {**row.key, **values, "run": row.run, "status": status}

    frame = pd.DataFrame([values_of(row) for row in table.rows])
    deviations = [f"{metric}_sd" for metric in table.metrics]
    empty = [name for name in deviations if frame[name].isna().all()]
    empty += [name for name in (f"{metric}_stale" for metric in table.metrics) if not frame[name].any()]
    return frame.drop(columns=empty)


def to_markdown(table: Table, frame: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The table in Markdown; `notes` are facts about the study, such as its scale."""
    header, body, footnotes = _layout(table, frame, _markdown, "<sup>{}</sup>")
    alignment = [":---"] * len(table.keys) + ["---:"] * (len(header) - len(table.keys))
    lines = [f"| {' | '.join(cells)} |" for cells in (header, alignment, *body)]
    caption = f"**{table.title}.** {_markdown(table.caption)}"
    return "\n\n".join([caption, "\n".join(lines), *footnotes, *map(_markdown, notes)]) + "\n"


def to_latex(table: Table, frame: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The table as a LaTeX float that needs only the package booktabs; `notes` as in `to_markdown`."""
    header, body, footnotes = _layout(table, frame, _latex, r"\textsuperscript{{{}}}")
    columns = "l" * len(table.keys) + "r" * (len(header) - len(table.keys))
    lines = [f"{' & '.join(cells)} \\\\" for cells in (header, *body)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(table.caption)}}}",
            rf"\label{{tab:{table.name}}}",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par {remark}" for remark in (*footnotes, *map(_latex, notes))),
            r"\end{table}",
            "",
        ]
    )


def write(table: Table, frame: pd.DataFrame, directory: Path, notes: Sequence[str] = ()) -> None:
    """Write the table as `<name>.csv`, `.md` and `.tex`, each atomically."""
    write_text(directory / f"{table.name}.csv", frame.to_csv(index=False, float_format="%.8g"))
    write_text(directory / f"{table.name}.md", to_markdown(table, frame, notes))
    write_text(directory / f"{table.name}.tex", to_latex(table, frame, notes))


def _layout(
    table: Table, frame: pd.DataFrame, escape: Callable[[str], str], superscript: str
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, body and footnotes, escaped. Rows with the same footnote share its mark."""
    texts = dict.fromkeys(row.footnote for row in table.rows if row.footnote)
    marks = {
        text: superscript.format(letter) for text, letter in zip(texts, string.ascii_letters, strict=False)
    }
    header = [escape(name) for name in table.keys]
    for metric in table.metrics:
        header += [escape(metric), "paper"] if table.printed else [escape(metric)]
    body = []
    for row, found in zip(table.rows, frame.to_dict("records"), strict=True):
        cells = [escape(row.key[name]) for name in table.keys]
        if row.footnote:
            cells[0] += marks[row.footnote]
        for metric, spec in table.metrics.items():
            cells.append(escape(_measured(found, metric, spec)))
            if table.printed:
                paper = found[f"{metric}_paper"]
                cells.append(escape(_DASH if math.isnan(paper) else format(paper, spec)))
        body.append(cells)
    return header, body, [f"{mark} {escape(text)}" for text, mark in marks.items()]


def _measured(cells: Mapping, metric: str, spec: str) -> str:
    """The cell of one measured value, or the reason why there is none."""
    if math.isnan(cells[metric]):
        # Done without a value: the metric is not defined, such as APS without small objects.
        return {"quoted": _DASH, "done": "n/a", "released": "n/a"}.get(cells["status"], cells["status"])
    value = format(cells[metric], spec)
    deviation = cells.get(f"{metric}_sd", math.nan)
    if not math.isnan(deviation):
        value = f"{value} ± {format(deviation, spec)}"
    return f"{value} (stale)" if cells.get(f"{metric}_stale") else value


def _markdown(text: str) -> str:
    return text.translate(_MARKDOWN)


def _latex(text: str) -> str:
    return re.sub(r"\bAP(50|75|S|M|L)\b", r"AP$_{\1}$", text.translate(_LATEX))
