"""The table that judges the paper's claims by a study's values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tood.report.markup import latex, latex_table, markdown, markdown_table
from tood.report.verdicts import METHOD, Judgement, Verdict, all_positive, all_within, contrast, exactly
from tood.runtime.files import write_text
from tood.study.claims import Claim
from tood.study.declarations import Table

NAME = "claims"  # of the table's files
_NO_SEED = -1
_WORDS = 3  # columns that are not numbers
_DASH = "–"
_HEADER = ["Claim", "Verdict", "Metric", "paper", "ours", "Seeds", "Section"]
_INTERVALS = f"Intervals: {METHOD}. A verdict needs at least two seeds."
_CAPTION = (
    "Statements of the paper as differences between runs (Feng et al., TOOD, ICCV 2021), signed so that the "
    "paper's effect is positive, or with a margin around 0. The paper's effects are differences of the "
    "values that it prints."
)


def judge(claims: Iterable[Claim], metrics: pd.DataFrame, tables: Mapping[str, Table]) -> pd.DataFrame:
    """Each claim with its effect in the paper, ours, and the verdict.

    Args:
        claims: with their tables among `tables`.
        metrics: as `tood.report.tables.build` takes it; stale values do not count.

    Returns:
        One row per claim: id, claim, section, rests_on (rows of the table), metric, paper, ours, low, high,
        seeds, verdict.
    """
    current = metrics[metrics["stale"] == ""] if "stale" in metrics else metrics
    values: dict[tuple[str, str], dict[int, float]] = {}
    for run, seed, metric, value in current[["run", "seed", "metric", "value"]].itertuples(index=False):
        values.setdefault((metric, run), {})[_NO_SEED if pd.isna(seed) else int(seed)] = float(value)

    def of(claim: Claim) -> dict:
        table = tables[claim.table]
        rows = {row.run: row for row in table.rows}
        effect, verdict = _judged(claim, {run: values.get((claim.metric, run), {}) for run in claim.runs})
        return {
            "id": claim.id,
            "claim": claim.claim,
            "section": claim.section,
            "rests_on": f"{table.title}: " + "; ".join(table.label(rows[run]) for run in claim.runs),
            "metric": claim.metric,
            "paper": _printed(claim, table),
            "ours": effect.mean,
            "low": effect.low,
            "high": effect.high,
            "within": math.nan if claim.within is None else claim.within,
            "seeds": effect.seeds,
            "verdict": verdict,
        }

    return pd.DataFrame([of(claim) for claim in claims])


def _judged(claim: Claim, values: Mapping[str, Mapping[int, float]]) -> Judgement:
    samples = [contrast(weights, values) for weights in claim.contrasts]
    if any(
        set(by_seed) == {-1} for by_seed in values.values()
    ):  # without a seed: of the model, not of a training
        return exactly([float(sample[0]) if len(sample) else math.nan for sample in samples])
    return all_within(samples, claim.within) if claim.within else all_positive(samples)


def _printed(claim: Claim, table: Table) -> float:
    """The paper's effect: of the contrast on which the claim hangs; nan where it prints no values."""
    if claim.printed is not None:
        return claim.printed
    paper = {row.run: row.paper.get(claim.metric) for row in table.rows}
    if any(paper[run] is None for run in claim.runs):
        return math.nan
    effects = [
        sum(weight * (paper[run] or 0.0) for run, weight in weights.items()) for weights in claim.contrasts
    ]
    return max(map(abs, effects)) if claim.within else min(effects)


def write_claims(
    claims: Sequence[Claim],
    metrics: pd.DataFrame,
    tables: Mapping[str, Table],
    directory: Path,
    notes: Sequence[str],
) -> None:
    """Write the table as `claims.csv`, `.md` and `.tex`; `notes` are facts about the study."""
    frame = judge(claims, metrics, tables)
    write_text(directory / f"{NAME}.csv", frame.to_csv(index=False, float_format="%.8g"))
    body = _body(claims, frame, tables)
    margins = [f"{claim.claim}: {claim.why}" for claim in claims if claim.why]
    below = [_INTERVALS, *margins, *notes]
    write_text(directory / f"{NAME}.md", _markdown(body, below))
    cells = [list(map(latex, cells)) for cells in body]
    write_text(
        directory / f"{NAME}.tex",
        latex_table(NAME, latex(_CAPTION), _HEADER, cells, _WORDS, list(map(latex, below))),
    )


def claims_markdown(claims: Sequence[Claim], metrics: pd.DataFrame, tables: Mapping[str, Table]) -> str:
    """The claims for which a run was measured, in Markdown; arguments as of `judge`."""
    frame = judge(claims, metrics, tables)
    known = [index for index, verdict in enumerate(frame["verdict"]) if verdict != Verdict.PENDING]
    chosen = [claims[index] for index in known]
    others = f"Claims without a verdict, as a run is not trained: {len(claims) - len(chosen)}."
    below = [_INTERVALS, *([others] if len(chosen) < len(claims) else [])]
    return _markdown(_body(chosen, frame.iloc[known], tables), below)


def headlines_markdown(
    claims: Sequence[Claim], metrics: pd.DataFrame, tables: Mapping[str, Table], caption: str
) -> str:
    """The claims that are declared as headlines, in Markdown; other arguments as of `judge`."""
    chosen = [claim for claim in claims if claim.headline]
    body = _body(chosen, judge(chosen, metrics, tables), tables)
    cells = [list(map(markdown, row[:-1])) for row in body]
    return markdown_table(caption, _HEADER[:-1], cells, _WORDS, [])


def _body(claims: Sequence[Claim], frame: pd.DataFrame, tables: Mapping[str, Table]) -> list[list[str]]:
    specs = [tables[claim.table].metrics[claim.metric] for claim in claims]
    return [_cells(row, spec) for row, spec in zip(frame.to_dict("records"), specs, strict=True)]


def _markdown(body: Sequence[Sequence[str]], below: Sequence[str]) -> str:
    cells = [list(map(markdown, row)) for row in body]
    return markdown_table(
        f"**Claims.** {markdown(_CAPTION)}", _HEADER, cells, _WORDS, list(map(markdown, below))
    )


def effect_with_interval(row: Mapping, spec: str) -> str:
    """Our effect in a row of `judge`, with its interval where there are several seeds.

    Args:
        row: with ours, low, high and seeds.
        spec: of the metric, as a format of Python without a sign.
    """
    ours = _shown(row["ours"], spec)
    return f"{ours} ({_shown(row['low'], spec)} to {_shown(row['high'], spec)})" if row["seeds"] > 1 else ours


def _shown(value: float, spec: str) -> str:
    return _DASH if math.isnan(value) else format(value, f"+{spec}")


def _cells(row: Mapping, spec: str) -> list[str]:
    margin = "" if math.isnan(row["within"]) else f" (within {format(row['within'], spec)})"
    seeds = str(row["seeds"]) if row["seeds"] or math.isnan(row["ours"]) else "none needed"
    return [
        row["claim"] + margin,
        row["verdict"],
        row["metric"],
        _shown(row["paper"], spec),
        effect_with_interval(row, spec),
        seeds,
        row["section"],
    ]
