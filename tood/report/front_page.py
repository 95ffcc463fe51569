"""The results in README.md and docs/results.md: written from the files under `results/`, never by hand.

`experiments/pages.yaml` says what is shown. A table has only the rows and metrics that were measured.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from html import escape
from pathlib import Path

import pandas as pd

from tood.ledger.references import load_references
from tood.ledger.server_scores import load_scores
from tood.report import shared_seeds
from tood.report.claims_table import by_welch, claims_markdown, headlines_markdown
from tood.report.evidence import summary
from tood.report.kept import code_changed, judged_study, kept, kept_evidence, records_of
from tood.report.markup import markdown
from tood.report.readings import DEFAULT
from tood.report.tables import build, to_markdown, with_enough_objects
from tood.report.verdicts import Verdict, vocabulary
from tood.runtime.files import atomic_path
from tood.study.claims import load_claims
from tood.study.declarations import ExperimentError, Run, Table, load_runs, load_tables, select_runs
from tood.study.pages import ResultsPart, load_pages
from tood.study.paths import RESULTS, StudyPaths
from tood.study.scales import load_scale

_WIDTH = 520  # of the forest plot in README.md, pixels: it is tall
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def rewrite(readme: Path, part: str) -> None:
    """Replace the text between the two markers of a file; the bytes outside of them stay.

    Args:
        readme: file with `BEGIN` and, after it, `END`, each once.
        part: the new text.
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


def headlines_part(results: Path) -> str:
    """What README.md shows: how much was measured, the verdicts, and the headlines among the claims."""
    runs, page = load_runs(), load_pages().readme
    claims, tables, evidence, judged = judged_study(results, page.study)
    of_paper = select_runs(None, runs)
    measured = (
        f"{_with_ap(kept(results, scale), of_paper)} of {len(of_paper)} at the scale `{scale}`"
        for scale in page.measured
    )
    facts = [
        f"Runs of the paper with a measured AP: {', '.join(measured)}.",
        *_verdicts(judged, page.study, vocabulary(evidence.comparable)),
        cost(results, page.study).strip(),
    ]
    listed = "\n".join(f"- {fact}" for fact in facts if fact)
    shown = [
        listed,
        *forest_picture(results, page.study, "results", _WIDTH),
        headlines_markdown(claims, judged, tables, page.headlines),
    ]
    return "\n\n".join(shown)


def _verdicts(judged: pd.DataFrame, study: str, words: Iterable[Verdict]) -> list[str]:
    """How many claims have which verdict, and which ones speak against the paper, here or elsewhere."""
    frame = summary(judged)
    count = Counter(frame["verdict"])
    measured = len(frame) - count[Verdict.PENDING]
    verdicts = ", ".join(f"{count[verdict]} {verdict}" for verdict in words)
    facts = [f"Claims with a verdict at `{study}`: {measured} of {len(frame)}; {verdicts}."]
    opposite = frame["verdict"].isin([Verdict.OPPOSITE, Verdict.CONTRADICTED])
    # Of another study only what the default reading says counts.
    looks = judged[(judged["check"] == "") | (judged["reading"] == DEFAULT)]
    disagreeing = set(looks.loc[looks["direction"] == Verdict.OPPOSITE, "id"])
    for chosen, own, begin in (
        (opposite, True, "Of these claims of the paper the opposite was found"),
        (
            ~opposite & (frame["id"].isin(disagreeing) | (frame["verdict"] == Verdict.DEPENDS)),
            False,
            "For these claims another study, or another definition of Table 6, points the opposite way, with "
            "an interval that excludes 0",
        ),
    ):
        rows = frame[chosen].to_dict("records")
        if claims := [_named(row) + (by_welch(row) if own else "") for row in rows]:
            facts.append(f"{begin}: {'; '.join(claims)}.")
    known = frame[frame["verdict"] != Verdict.PENDING]
    kinds = [
        (known[known["seeds"] == 0], "Claims on sizes of models, which need no training"),
        (known[known["paper"].isna()], "Claims against a control that the paper does not have"),
    ]
    return facts + [f"{kind}: {', '.join(rows['number'])}." for rows, kind in kinds if len(rows)]


def _named(row: Mapping) -> str:
    """Words and number of a claim, in Markdown."""
    return markdown(f"{row['claim']} ({row['number']})")


def forest_picture(results: Path, study: str, link: str, width: int | None = None) -> list[str]:
    """The forest plot of a study's claims as an image in Markdown; nothing where it is not drawn.

    Args:
        results: folder of the results.
        study: its name.
        link: the folder of the results as the page names it.
        width: in pixels, for which the image is HTML, as Markdown has none; None: that of the file.
    """
    picture = StudyPaths(study).figures.relative_to(RESULTS) / "claims.png"
    if not (results / picture).is_file():
        return []
    place, alt = f"{link}/{picture.as_posix()}", load_pages().figures["claims"]
    if width is None:
        return [f"![{alt}]({place})"]
    return [f'<img src="{place}" alt="{escape(alt)}" width="{width}">']


def results_part(results: Path, shown: Iterable[ResultsPart] | None = None) -> str:
    """What docs/results.md shows: per scale a description, what was trained, claims, tables.

    Args:
        shown: the parts; None takes the declared ones.
    """
    runs = load_runs()
    tables = load_tables(runs=runs)
    of_paper = select_runs(None, runs)
    parts = []
    for scale, only in ((part.scale, part.tables) for part in shown or load_pages().results):
        metrics = kept(results, scale)
        description = load_scale(scale).description.strip().rstrip(".;")
        measured = _with_ap(metrics, of_paper)
        progress = f" AP was measured for {measured} of the paper's {len(of_paper)} runs."
        parts.append(f"**Scale `{scale}`:** {description}.{progress}{cost(results, scale)}\n")
        if measured:
            parts += [f"{picture}\n" for picture in forest_picture(results, scale, "../results")]
            evidence = kept_evidence(results, scale)
            parts.append(claims_markdown(load_claims(runs, tables), evidence, tables))
        parts += measured_tables(results, scale, only)
    return "\n".join(parts)


def _with_ap(metrics: pd.DataFrame, runs: Iterable[Run]) -> int:
    """The number of these runs with a measured AP."""
    measured = set(metrics.loc[(metrics["metric"] == "AP") & metrics["value"].notna(), "run"])
    return sum(run.id in measured for run in runs)


def measured_tables(
    results: Path, study: str, only: Collection[str] | None = None, least: int = 1
) -> list[str]:
    """The tables of which a study measured anything, in Markdown.

    One that the paper does not have is shown if it has a measured run that no table of the paper has.

    Args:
        only: no others than these are shown.
        least: number of measured rows that a table needs.
    """
    beside = load_pages().beside_the_paper
    runs = load_runs()
    references, scores = load_references(runs), load_scores(study, runs)
    metrics = with_enough_objects(kept(results, study))
    tables = [table for name, table in load_tables(runs=runs).items() if only is None or name in only]
    of_paper = {row.run for table in tables if table.printed for row in table.rows}
    texts = []
    for table in tables:
        own = metrics[metrics["run"].isin([row.run for row in table.rows])]
        part = _measured(table, own)
        more = table.name in beside and any(row.run not in of_paper for row in part.rows)
        if len(part.rows) >= least and (table.printed or more):
            frame = build(part, own, {}, runs, None, references, scores)
            texts.append(to_markdown(part, frame, shared_seeds.remark(own, part)))
    return texts


def cost(results: Path, study: str) -> str:
    """The records of a study, the time of its trainings, and the stale ones; empty without a record."""
    records = [record for record in records_of(results, study) if record.provenance.get("hardware")]
    if not records:
        return ""
    hours = sum(record.provenance.get("seconds") or 0.0 for record in records) / 3600
    hardware = [record.provenance["hardware"] for record in records]
    names = {name for own in hardware for name in own.get("gpu_names") or [f"{own['cpu']} (one thread)"]}
    machines = markdown(" or ".join(sorted(names)))
    text = f" {len(records)} trainings have a record; they took {hours:.1f} hours of {machines}."
    if stale := sum(map(code_changed, records)):
        text += f" Of these records {stale} are stale: their values come from an earlier version of the code."
    return text


def _measured(table: Table, metrics: pd.DataFrame) -> Table:
    """The rows and the metrics of a table that were measured, without footnotes on other metrics.

    Args:
        metrics: of its runs; a metric may be undefined.
    """
    known = metrics[metrics["metric"].isin(list(table.metrics)) & metrics["value"].notna()]
    shown = {name: spec for name, spec in table.metrics.items() if name in set(known["metric"])}
    hidden = [name for name in table.metrics if name not in shown]
    rows = [
        row.model_copy(update={"footnote": None}) if _mentions(row.footnote, hidden) else row
        for row in table.rows
        if row.run in set(known["run"])
    ]
    return table.model_copy(update={"metrics": shown, "rows": rows})


def _mentions(text: str | None, metrics: Iterable[str]) -> bool:
    """Whether a footnote names one of these metrics."""
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text or "") for name in metrics)
