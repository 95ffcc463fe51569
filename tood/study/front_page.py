"""The results that README.md shows: written from the files under `results/`, never by hand.

Only the scales `paper` and `mini` say something about the methods, so only these are shown. Every table of
the paper appears with the rows and metrics that were measured. Other rows and metrics are left out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tood.runtime.files import atomic_path
from tood.study.declarations import Run, Table, load_runs, load_tables
from tood.study.paths import COMPLEXITY, METRICS
from tood.study.references import Reference, load_references
from tood.study.scales import load_scale
from tood.study.server_scores import ServerScores, load_scores
from tood.study.tables import COLUMNS, build, read_complexity, to_markdown

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SCALES = ("paper", "mini")


def rewrite(readme: Path, results: Path) -> None:
    """Replace the text between the two markers of `readme`; the bytes outside of them stay.

    Args:
        readme: file with `BEGIN` and, after it, `END`, each once.
        results: folder with one folder per study, such as `results/mini`.

    Raises:
        ValueError: a marker is missing or occurs twice; the message names the file and the marker.
    """
    text = readme.read_bytes().decode()
    for marker in (BEGIN, END):
        if (count := text.count(marker)) != 1:
            raise ValueError(
                f"{readme}: has {marker!r} {count} times and needs it once; the results go between "
                f"{BEGIN!r} and {END!r}"
            )
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{readme}: has {END!r} before {BEGIN!r}; exchange the two")
    with atomic_path(readme) as temporary:
        temporary.write_bytes(f"{before}{BEGIN}\n\n{results_part(results)}\n{END}{after}".encode())


def results_part(results: Path) -> str:
    """The results of `SCALES` in Markdown: per scale a description, the number of runs with AP, tables."""
    runs = load_runs()
    tables = [table for table in load_tables(runs=runs).values() if table.printed]
    references = load_references(runs)
    parts = []
    for scale in SCALES:
        scores = load_scores(scale, runs)
        metrics = kept(results, scale)
        with_ap = metrics.loc[(metrics["metric"] == "AP") & metrics["value"].notna(), "run"].nunique()
        description = load_scale(scale).description.strip().rstrip(".;")
        progress = f"AP measured so far: {with_ap} of the paper's {len(runs)} runs."
        parts.append(f"**Scale `{scale}`:** {description}. {progress}\n")
        parts += [text for table in tables if (text := _table(table, metrics, runs, references, scores))]
    return "\n".join(parts)


def kept(results: Path, scale: str) -> pd.DataFrame:
    """The measured values of a scale, with the columns of `metrics.csv`.

    Parameters and FLOPs are those of the paper-sized models at every scale. They are shown with the scale
    `paper` only, from `complexity.csv`, which needs no training.
    """
    folder = results / scale
    frames = []
    if (path := folder / METRICS).is_file():
        trained = pd.read_csv(path, dtype={"stale": str}).fillna({"stale": ""})[COLUMNS]
        frames.append(trained[trained["seed"].notna()])
    if scale == "paper":
        frames.append(read_complexity(folder / COMPLEXITY.name))
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)


def _table(
    table: Table,
    metrics: pd.DataFrame,
    runs: Mapping[str, Run],
    references: Mapping[str, Sequence[Reference]],
    scores: Mapping[str, ServerScores],
) -> str | None:
    """The measured rows and metrics of a table with their number of seeds; None if nothing was measured."""
    of_table = metrics["metric"].isin(list(table.metrics)) & metrics["run"].isin([r.run for r in table.rows])
    measured = metrics[of_table & metrics["value"].notna()]  # a metric may be undefined
    if measured.empty:
        return None
    shown = {name: spec for name, spec in table.metrics.items() if name in set(measured["metric"])}
    hidden = [name for name in table.metrics if name not in shown]
    rows = []
    for row in table.rows:
        if row.run in set(measured["run"]):
            key = {**row.key, "Seeds": _seeds(measured[measured["run"] == row.run])}
            footnote = None if _mentions(row.footnote, hidden) else row.footnote
            rows.append(row.model_copy(update={"key": key, "footnote": footnote}))
    keys = [*table.keys, "Seeds"] if measured["seed"].notna().any() else table.keys
    part = table.model_copy(update={"keys": keys, "metrics": shown, "rows": rows})
    return to_markdown(part, build(part, metrics[of_table], {}, runs, None, references, scores))


def _seeds(measured: pd.DataFrame) -> str:
    """The number of seeds of a run's means: `5`, or `3–5` if its metrics have different numbers."""
    counts = measured.dropna(subset="seed").groupby("metric")["seed"].nunique()
    return "–".join(map(str, sorted({counts.min(), counts.max()}))) if len(counts) else ""


def _mentions(text: str | None, metrics: Iterable[str]) -> bool:
    """Whether a footnote names one of these metrics."""
    return any(re.search(rf"\b{re.escape(name)}\b", text or "") for name in metrics)
