"""The paper's tables with measured values beside its own, as data frame, CSV, Markdown and LaTeX."""

import math
import string
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tood.ledger.records import SIZES
from tood.ledger.references import Reference, reference_on
from tood.ledger.server_scores import ServerScores
from tood.report.markup import DASH, latex, latex_table, markdown, markdown_table, number
from tood.report.shown import COMPLEXITY_METRICS
from tood.runtime.failures import State
from tood.runtime.files import DamagedFile, write_text
from tood.study.declarations import Row, Run, Table

FEWEST = 100  # objects of a size class, with fewer of which its AP is not shown
# Of metrics.csv: types by column. `objects` is how many the AP of a size class rests on; `stale` is whether
# anything that decides the value has changed since.
_TYPES = {
    "study": "object",
    "run": "object",
    "seed": "Int64",
    "data_seed": "Int64",
    "lr": "float64",
    "epochs": "Int64",
    "metric": "object",
    "value": "float64",
    "objects": "Int64",
    "stale": "bool",
}
COLUMNS = list(_TYPES)
NO_METRICS = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _TYPES.items()})
# Columns of the complexity file as the tables name them
_COMPLEXITY = dict(
    zip(("head_params_m", "params_m", "head_gflops", "gflops"), COMPLEXITY_METRICS, strict=True)
)
_SEEDS = "Seeds"  # column of a printed table
# Status of a row that is done, of a method without published code; any other status is a `State`.
RECONSTRUCTION = "reconstruction"


class _Values(NamedTuple):
    """The values of one run and metric."""

    mean: float
    sd: float
    seeds: frozenset[float]
    defined: int  # of these, that have a value; 0 where it belongs to the model
    stale: bool

    def covers(self, wanted: set[int]) -> bool:
        """Whether there is a value for each of these seeds, or one that belongs to the model."""
        return bool(self.seeds) and (self.seeds >= wanted or any(map(pd.isna, self.seeds)))


_NOTHING = _Values(math.nan, math.nan, frozenset(), 0, False)


def read_complexity(path: Path) -> pd.DataFrame:
    """Parameters and FLOPs as metrics without a seed, as they belong to the model and not to a training.

    Args:
        path: file that `tood complexity` wrote; without this file the frame is empty.

    Returns:
        A frame with the columns `COLUMNS`.
    """
    if not path.is_file():
        return NO_METRICS
    try:
        counts = pd.read_csv(path, encoding="utf-8")
        counts = counts[["run", *_COMPLEXITY]].astype(dict.fromkeys(_COMPLEXITY, float))
    except (ValueError, KeyError) as error:  # pandas has no class of its own for all that can be wrong
        raise DamagedFile(
            f"{path}: no table of parameters and FLOPs ({error}); delete it, and `tood complexity` writes it "
            "anew"
        ) from error
    long = counts.rename(columns=_COMPLEXITY).melt("run", var_name="metric")
    return as_metrics(long).sort_values(["run", "metric"])


def as_metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """Values with all `COLUMNS`, in their types; a column that is not there is empty."""
    stale = frame["stale"].notna() & frame["stale"].ne(False) if "stale" in frame else False
    return frame.reindex(columns=COLUMNS).assign(stale=stale).astype(_TYPES)


def joined(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """All of these metrics in one frame, with the columns `COLUMNS`."""
    filled = [frame for frame in frames if len(frame)]  # the types of the others do not count
    return pd.concat(filled, ignore_index=True) if filled else NO_METRICS


def with_enough_objects(metrics: pd.DataFrame) -> pd.DataFrame:
    """The metrics, with nan for the AP of a size class that has few objects, or an unknown number."""
    few = metrics["metric"].isin(list(SIZES)) & ~metrics["objects"].ge(FEWEST).fillna(False)
    return metrics.assign(value=metrics["value"].mask(few))


def build(
    table: Table,
    metrics: pd.DataFrame,
    states: Mapping[str, str],
    runs: Mapping[str, Run],
    seeds: Mapping[str, Iterable[int]] | None = None,
    references: Mapping[str, Sequence[Reference]] | None = None,
    scores: Mapping[str, ServerScores] | None = None,
) -> pd.DataFrame:
    """The measured values of a table beside the paper's and others.

    Args:
        metrics: measured values, with the columns run, seed, metric and value, and optionally `stale`
            (whether anything that decides it has changed since). A value without a seed, such as parameters
            and FLOPs, belongs to the model and not to a training.
        states: state of each run.
        seeds: of each run, that the study wants.
        references: published values of each run.
        scores: of COCO's server for the study's runs, shown where the paper's values are of test-dev2017.

    Returns:
        One row per row of the table: keys and details, each metric measured and as in the paper, run and
        status, a `State` or `RECONSTRUCTION`. A metric `M` is the mean over its seeds. `M_sd` is their sample
        standard deviation, a column that exists if a row has several seeds, and `M_seeds` their number, where
        trainings have the metric. `M_stale` says whether any of the values is stale, a column that exists if
        one is.

        These columns exist if a row has them: `M_test_dev`, the server's score; `M_reference`, the published
        value on val2017, and `reference_source`; `reconstruction`. `paper_set` says which images the paper's
        values are of, a column that exists if the table says it.
    """
    measured = _measured_by_run(metrics)
    rows = []
    for row in table.rows:
        values = {metric: measured.get((row.run, metric), _NOTHING) for metric in table.metrics}
        reference = reference_on("val2017", (references or {}).get(row.run, ())) if table.printed else None
        score = (scores or {}).get(row.run) if table.paper_set == "test-dev2017" else None
        state, wanted = State(states.get(row.run, State.PENDING)), set((seeds or {}).get(row.run, ()))
        rows.append(
            {
                **row.key,
                **row.details,
                **_cells_of(table, row, values, reference, score),
                "reconstruction": runs[row.run].reconstruction,
                "run": row.run,
                "status": _status(values.values(), wanted, state, runs[row.run].reconstruction),
            }
        )
    frame = pd.DataFrame(rows)
    optional = [f"{metric}_{part}" for metric in table.metrics for part in ("sd", "test_dev", "reference")]
    empty = [name for name in (*optional, "reference_source") if name in frame and frame[name].isna().all()]
    flags = [*(f"{metric}_stale" for metric in table.metrics), "reconstruction"]
    empty += [name for name in flags if not frame[name].any()]
    empty += [name for metric in table.metrics if not frame[name := f"{metric}_seeds"].any()]
    return frame.drop(columns=empty)


def _measured_by_run(metrics: pd.DataFrame) -> dict[tuple[str, str], _Values]:
    """The values of each run and metric."""
    if metrics.duplicated(["run", "seed", "metric"]).any():
        raise ValueError("metrics: a run has two values of one metric and seed; remove one of them")
    outdated = metrics.get("stale", False)
    groups = metrics.astype({"value": float}).assign(stale=outdated).groupby(["run", "metric"])
    return {
        (str(run), str(metric)): _Values(
            group["value"].mean(),
            group["value"].std(),
            frozenset(group["seed"]),
            int((group["seed"].notna() & group["value"].notna()).sum()),
            bool(group["stale"].any()),
        )
        for (run, metric), group in groups
    }


def _cells_of(
    table: Table,
    row: Row,
    values: Mapping[str, _Values],
    reference: Reference | None,
    score: ServerScores | None,
) -> dict[str, Any]:
    """The columns of a row that say something of its metrics."""
    cells: dict[str, Any] = {}
    published: Mapping = reference.metrics if reference else {}
    for metric, value in values.items():
        cells |= {metric: value.mean, f"{metric}_sd": value.sd, f"{metric}_seeds": value.defined}
        if table.printed:
            paper = row.paper[metric]
            cells[f"{metric}_test_dev"] = score.metrics.get(metric, math.nan) if score else math.nan
            cells[f"{metric}_paper"] = math.nan if paper is None else paper
            cells[f"{metric}_reference"] = published.get(metric, math.nan)
        cells[f"{metric}_stale"] = value.stale
    if table.paper_set:
        cells["paper_set"] = row.paper_set or table.paper_set
    shown = reference and not set(published).isdisjoint(table.metrics)
    return cells | {"reference_source": reference.described if reference and shown else None}


def _status(values: Collection[_Values], seeds: set[int], state: State, reconstruction: bool) -> str:
    """What a row shows, whatever the state of its run, if all is measured with the wanted seeds."""
    if any(value.stale for value in values):
        ends = state.finished or state == State.PENDING
        return State.STALE if ends else state
    if all(value.covers(seeds) for value in values):
        if state == State.RELEASED:
            return state
        return RECONSTRUCTION if reconstruction else State.DONE
    # A training may be done while, for instance, its analysis is missing.
    return State.PENDING if state.finished else state


def to_markdown(table: Table, frame: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The table in Markdown; `notes` are facts about the study, such as its scale."""
    header, body, footnotes = _layout(table, frame, markdown, "<sup>{}</sup>")
    caption = f"**{markdown(table.title)}.** {markdown(table.caption)}"
    return markdown_table(caption, header, body, len(table.columns), [*footnotes, *map(markdown, notes)])


def to_latex(table: Table, frame: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The table as a LaTeX float that needs only the package booktabs; `notes` as in `to_markdown`."""
    header, body, footnotes = _layout(table, frame, latex, r"\textsuperscript{{{}}}")
    below = [*footnotes, *map(latex, notes)]
    return latex_table(table.name, latex(table.caption), header, body, len(table.columns), below)


def write(table: Table, frame: pd.DataFrame, directory: Path, notes: Sequence[str] = ()) -> None:
    """Write the table as `<name>.csv`, `.md` and `.tex`, each atomically."""
    write_text(directory / f"{table.name}.csv", frame.to_csv(index=False, float_format="%.8g"))
    write_text(directory / f"{table.name}.md", to_markdown(table, frame, notes))
    write_text(directory / f"{table.name}.tex", to_latex(table, frame, notes))


def _layout(
    table: Table, frame: pd.DataFrame, escape: Callable[[str], str], superscript: str
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, body, and what is said below, escaped.

    Rows with the same footnote share its letter, and references of the same source share its number.
    """
    letters = footnote_marks((row.footnote for row in table.rows), string.ascii_letters, superscript)
    sources = frame["reference_source"].dropna() if "reference_source" in frame else ()
    numbers = footnote_marks(sources, range(1, len(table.rows) + 1), superscript)
    columns = [column for metric in table.metrics for column in _columns(table, frame, metric)]
    counts = [name for metric in table.metrics if (name := f"{metric}_seeds") in frame]
    seeds = [_SEEDS] if counts else []
    header = [escape(name) for name in [*table.columns, *seeds, *(title for *_, title in columns)]]
    body = []
    for row, values in zip(table.rows, frame.to_dict("records"), strict=True):
        words = row.key | row.details
        cells = [escape(words[name]) for name in table.columns]
        if values.get("reconstruction"):
            cells[0] += " (reconstruction)"
        if row.footnote:
            cells[0] += letters[row.footnote]
        if counts:
            cells.append(escape(_range([values[name] for name in counts])))
        for metric, part, _ in columns:
            cell = escape(_cell(table, row, values, metric, part))
            if part == "reference" and cell != escape(DASH):
                cell += numbers[values["reference_source"]]
            cells.append(cell)
        body.append(cells)
    remarks = [f"{mark} {escape(text)}" for text, mark in letters.items()]
    remarks += [f"{mark} {escape(f'Reference: {text}.')}" for text, mark in numbers.items()]
    if any(f"{metric}_sd" in frame for metric in table.metrics):
        remarks.append(escape(f"{_SEEDS}: trainings that a value is the mean of; ± is their sample SD."))
    return header, body, [*remarks, *map(escape, _sets(table, columns))]


def _range(counts: Sequence[int]) -> str:
    """The number of seeds of a row; its metrics may have different numbers while a study runs."""
    known = sorted({count for count in counts if count})
    return DASH.join(map(str, dict.fromkeys((known[0], known[-1])))) if known else DASH


def footnote_marks(texts: Iterable[str | None], marks: Iterable[object], superscript: str) -> dict[str, str]:
    """A mark for each of the texts that are different."""
    different = dict.fromkeys(text for text in texts if text)
    return {text: superscript.format(mark) for text, mark in zip(different, marks, strict=False)}


def _columns(table: Table, frame: pd.DataFrame, metric: str) -> list[tuple[str, str, str]]:
    """The columns of one metric: metric, part (empty for the measured value) and title.

    Titles name the set of images where the columns of a table are not of the same one.
    """
    mixed = table.paper_set == "test-dev2017" and metric not in COMPLEXITY_METRICS
    return [
        (metric, part, f"{title} ({images})" if mixed else title)
        for part, title, images in (
            ("", metric, "val"),
            ("test_dev", metric, "test-dev"),
            ("paper", "paper", "test-dev"),
            ("difference", "difference", "same"),
            ("reference", "reference", "val"),
        )
        if (f"{metric}_{part}" if part else metric) in frame
    ]


def _sets(table: Table, columns: Iterable[tuple[str, str, str]]) -> list[str]:
    """Which images the columns are of, in one line; none if no column is of images."""
    parts = {part for metric, part, _ in columns if metric not in COMPLEXITY_METRICS}
    if not parts or table.paper_set is None:
        return []
    others = {row.paper_set for row in table.rows} - {None, table.paper_set}
    exceptions = "".join(f", {name} where a cell says so" for name in sorted(map(str, others)))
    facts = [
        "measured values, this study's validation split (val2017 for COCO)",
        f"paper, COCO {table.paper_set}{exceptions}",
        *(["test-dev, what COCO's server said of these models"] if "test_dev" in parts else []),
        *(["reference, COCO val2017"] if "reference" in parts else []),
    ]
    return [f"Images: {'; '.join(facts)}."]


def _cell(table: Table, row: Row, values: Mapping, metric: str, part: str) -> str:
    """One cell of the body, without marks."""
    spec = table.metrics[metric]
    if not part:
        return _measured(values, metric, spec)
    value = values[f"{metric}_{part}"]
    if math.isnan(value):
        return "pending" if part == "test_dev" else DASH
    if part == "difference":
        return f"{number(value, '+' + spec)} ({values[f'{metric}_verdict']})"
    images = row.paper_set if part == "paper" and row.paper_set != table.paper_set else None
    return number(value, spec) + (f" ({images.removesuffix('2017')})" if images else "")


def _measured(cells: Mapping, metric: str, spec: str) -> str:
    """The cell of one measured value, or the reason why there is none."""
    if math.isnan(cells[metric]):
        # Complete without a value: the metric is not defined, such as APS without small objects.
        complete = cells["status"] == RECONSTRUCTION or State(cells["status"]).finished
        return "n/a" if complete else cells["status"]
    value = number(cells[metric], spec)
    deviation = cells.get(f"{metric}_sd", math.nan)
    if not math.isnan(deviation):
        value = f"{value} ± {format(deviation, spec)}"
    return f"{value} (stale)" if cells.get(f"{metric}_stale") else value
