"""The results that README.md shows: written from the files under `results/`, never by hand.

Only the scales `paper` and `mini` say something about the methods, so only these are shown. A table appears
with the rows and metrics that were measured. Other rows and metrics are left out.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tood.ledger.records import Record, read_record
from tood.ledger.references import Reference, load_references
from tood.ledger.server_scores import ServerScores, load_scores
from tood.report.claims_table import claims_markdown
from tood.report.markup import markdown
from tood.report.tables import COLUMNS, build, read_complexity, to_markdown
from tood.runtime.files import DamagedFile, atomic_path
from tood.study.claims import load_claims
from tood.study.declarations import ExperimentError, Run, Table, load_runs, load_tables
from tood.study.paths import COMPLEXITY, METRICS
from tood.study.scales import load_scale

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SCALES = ("paper", "mini")
# The tables that README.md shows; of other scales all. docs/mini.md has the rest.
FRONT = {"mini": ("table6",)}


def rewrite(readme: Path, part: str) -> None:
    """Replace the text between the two markers of a file; the bytes outside of them stay.

    Args:
        readme: file with `BEGIN` and, after it, `END`, each once.
        part: the new text.

    Raises:
        ExperimentError: a marker is missing or occurs twice; the message names the file and the marker.
    """
    text = readme.read_bytes().decode()
    for marker in (BEGIN, END):
        if (count := text.count(marker)) != 1:
            raise ExperimentError(
                f"{readme}: has {marker!r} {count} times and needs it once; the results go between "
                f"{BEGIN!r} and {END!r}"
            )
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ExperimentError(f"{readme}: has {END!r} before {BEGIN!r}; exchange the two")
    with atomic_path(readme) as temporary:
        temporary.write_bytes(f"{before}{BEGIN}\n\n{part}\n{END}{after}".encode())


def results_part(results: Path, only: Mapping[str, Collection[str]] = FRONT) -> str:
    """The results of `SCALES` in Markdown: per scale a description, what was trained, claims, tables.

    Args:
        results: folder with one folder per study, such as `results/mini`.
        only: of a scale the tables that are shown; without an entry, all of which anything was measured.
    """
    runs = load_runs()
    parts = []
    for scale in SCALES:
        metrics = kept(results, scale)
        with_ap = metrics.loc[(metrics["metric"] == "AP") & metrics["value"].notna(), "run"].nunique()
        description = load_scale(scale).description.strip().rstrip(".;")
        progress = f" AP measured so far: {with_ap} of the paper's {len(runs)} runs."
        parts.append(f"**Scale `{scale}`:** {description}.{progress}{cost(results, scale)}\n")
        if with_ap:
            parts.append(_claims(results, metrics, runs))
        parts += measured_tables(results, scale, only.get(scale))
    return "\n".join(parts)


def measured_tables(results: Path, study: str, only: Collection[str] | None = None) -> list[str]:
    """The tables of which a study measured anything, in Markdown.

    Args:
        results: folder with one folder per study.
        study: its name.
        only: no others than these are shown.
    """
    runs = load_runs()
    references, scores, metrics = load_references(runs), load_scores(study, runs), kept(results, study)
    tables = [table for name, table in load_tables(runs=runs).items() if only is None or name in only]
    found = [_table(table, metrics, runs, references, scores) for table in tables if table.printed]
    return [text for text in found if text]


def cost(results: Path, study: str) -> str:
    """How many trainings have a record, their hours, and on what, in a sentence; empty without one."""
    made = [record.provenance for record in records_of(results, study) if record.provenance.get("hardware")]
    if not made:
        return ""
    hours = sum(record.get("seconds") or 0.0 for record in made) / 3600
    hardware = [record["hardware"] for record in made]
    cpus = [f"{machine['cpu']} (one thread)" for machine in hardware]
    gpus = [machine.get("gpu_names", []) for machine in hardware]
    names = sorted({name for cpu, own in zip(cpus, gpus, strict=True) for name in own or [cpu]})
    machines = markdown(" or ".join(names))
    return f" {len(made)} trainings have a record; they took {hours:.1f} hours of {machines}."


def records_of(results: Path, study: str) -> list[Record]:
    """Every record of a study."""
    found = (read_record(path) for path in sorted((results / study / "runs").glob("*/seed*.json")))
    return [record for record in found if record]


def _claims(results: Path, metrics: pd.DataFrame, runs: Mapping[str, Run]) -> str:
    """The claims of which anything is known, judged by these values and the sizes of the models."""
    tables = load_tables(runs=runs)
    sizes = read_complexity(results / COMPLEXITY.relative_to("results"))
    frames = [frame for frame in (metrics[metrics["seed"].notna()], sizes) if len(frame)]
    known = pd.concat(frames, ignore_index=True)
    return claims_markdown(load_claims(runs, tables), known, tables)


def kept(results: Path, scale: str) -> pd.DataFrame:
    """The measured values of a scale, with the columns of `metrics.csv`.

    Parameters and FLOPs are those of the paper-sized models at every scale. They are shown with the scale
    `paper` only, from `complexity.csv`, which needs no training.
    """
    folder = results / scale
    frames = []
    if (path := folder / METRICS).is_file():
        try:
            trained = pd.read_csv(path, dtype={"stale": str}).fillna({"stale": ""})[COLUMNS]
        except (ValueError, KeyError) as error:
            raise DamagedFile(f"{path}: no table of metrics ({error}); call the workflow again") from error
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
