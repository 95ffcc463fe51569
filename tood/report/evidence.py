"""The paper's claims judged by a study, and looked at again by other readings and in other studies."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tood.report.contrasts import NO_INTERVAL, BySeed, Estimate, common_seeds, estimate, frame_by_seed, holm
from tood.report.effects import note_on_whole
from tood.report.readings import DEFAULT, NO_READINGS, Values, values_by_reading
from tood.report.tables import NO_METRICS
from tood.report.verdicts import Verdict, direction, exact_direction, overall, together, worded
from tood.study.claims import Claim
from tood.study.declarations import Table

NO_SEED = -1  # of a value that belongs to a model
# Of `claims.csv`, a row for each contrast, in each study and under each reading that the claim is judged by.
# `number` is the claim's in table and figure, `note` is said beside its verdict.
# `base` and `paper_base`: of the run in percent of which the effects are shown, if there is one. The values
# of the contrast by seed follow: `seed0`, `seed1` ...
COLUMNS = [
    *("id", "number", "claim", "section", "rests_on", "metric", "within", "paper", "paper_base", "verdict"),
    *("robustness", "note", "study", "check", "reading", "contrast", "decides", "direction"),
    *("welch_direction", "base", "seeds", "mean", "sd", "low", "high", "welch_low", "welch_high", "p"),
    "holm_p",
]


class Checked(NamedTuple):
    """What another study has of the claims of a study."""

    name: str
    study: str
    runs: Sequence[str]  # that it trains
    metrics: pd.DataFrame
    readings: pd.DataFrame = NO_READINGS


@dataclass(frozen=True)
class Evidence:
    """What the claims are judged by.

    Args:
        study: its name.
        metrics: as `tood.report.tables.build` takes it; stale values do not count.
        comparable: whether the study's numbers can be compared with the paper's, see `worded`.
        readings: Table 6 under every reading, with the columns `READINGS`.
        checks: the other studies, with values as `metrics` and `readings`.
    """

    study: str = ""
    metrics: pd.DataFrame = field(default_factory=NO_METRICS.copy)
    comparable: bool = False
    readings: pd.DataFrame = field(default_factory=NO_READINGS.copy)
    checks: Sequence[Checked] = ()


@dataclass(frozen=True)
class _Look:
    """All contrasts of a claim in one study and under one reading."""

    study: str
    check: str  # its name; empty for the study itself
    reading: str
    estimates: list[Estimate]
    directions: list[Verdict]
    by_welch: list[Verdict]
    decides: int  # the contrast on which the claim hangs: the lowest one, or the largest one of a margin
    base: float = math.nan  # mean over the same seeds, of the run in percent of which effects are shown

    @property
    def direction(self) -> Verdict:
        return together(self.directions)

    @property
    def welch_direction(self) -> Verdict:
        return together(self.by_welch)


def judge(claims: Iterable[Claim], evidence: Evidence, tables: Mapping[str, Table]) -> pd.DataFrame:
    """Each contrast of each claim, and the verdicts.

    Args:
        claims: with their tables among `tables`.

    Returns:
        The columns `COLUMNS` and those of the seeds. Effects are in the unit of the metric (AP in percent),
        signed so that the paper's is positive. `direction` is of the contrast, `verdict` and `robustness` are
        of the claim. `decides` marks one contrast for each study and reading. `holm_p` is adjusted over all
        contrasts of all claims in the study itself, under the default reading.
    """
    claims = list(claims)
    values = values_by_metric(evidence.metrics)
    readings = values_by_reading(evidence.readings)
    checks = [
        (check, values_by_metric(check.metrics), values_by_reading(check.readings))
        for check in evidence.checks
    ]
    rows: list[dict] = []
    for claim in claims:
        looks = _looks(claim, values.get(claim.metric, {}), readings, evidence.study)
        own = looks[0]
        for check, of_check, read_there in checks:
            if set(check.runs).issuperset(claim.runs) and not _of_models(values.get(claim.metric, {})):
                looks += _looks(claim, of_check.get(claim.metric, {}), read_there, check.study, check.name)
        # Of another study only what the default reading says counts.
        others = [look.direction for look in looks[1:] if not look.check or look.reading == DEFAULT]
        verdict = overall(own.direction, [own.welch_direction, *others])
        about = _about(claim, tables[claim.table]) | {
            "number": f"C{claim.number}",
            "verdict": worded(verdict, evidence.comparable),
            "robustness": _robustness(looks),
            "note": "",
        }
        rows += [about | row for look in looks for row in _rows(claim, look)]
    frame = frame_by_seed(rows, COLUMNS)
    own_rows = (frame["check"] == "") & (frame["reading"] == DEFAULT)
    frame.loc[own_rows, "holm_p"] = holm(frame.loc[own_rows, "p"].astype(float).tolist())
    for claim in claims:
        if claim.whole:
            spec = tables[claim.table].metrics[claim.metric]
            frame.loc[frame["id"] == claim.id, "note"] = note_on_whole(frame, claim.id, claim.whole, spec)
    return frame


def read_judged(path: Path) -> pd.DataFrame:
    """`claims.csv`, as `tood.report.claims_table` writes it; one of an earlier version has no notes."""
    judged = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"check": str, "note": str})
    judged = judged.reindex(columns=list(dict.fromkeys([*COLUMNS, *judged])))
    return judged.astype({"check": object, "note": object}).fillna({"check": "", "note": ""})


def summary(judged: pd.DataFrame) -> pd.DataFrame:
    """One row for each claim: the study's own contrast on which it hangs, under the default reading."""
    chosen = judged["decides"].astype(bool) & (judged["check"] == "") & (judged["reading"] == DEFAULT)
    return judged[chosen].reset_index(drop=True)


def values_by_metric(metrics: pd.DataFrame) -> dict[str, Values]:
    """Values that are not stale by metric, run and seed; `NO_SEED` for a value that belongs to a model."""
    current = metrics[~metrics["stale"].astype(bool)] if "stale" in metrics else metrics
    values: dict[str, Values] = {}
    for run, seed, metric, value in current[["run", "seed", "metric", "value"]].itertuples(index=False):
        of_run = values.setdefault(metric, {}).setdefault(run, {})
        of_run[NO_SEED if pd.isna(seed) else int(seed)] = float(value)
    return values


def _of_models(values: Values) -> bool:
    return any(set(by_seed) == {NO_SEED} for by_seed in values.values())


def _looks(
    claim: Claim, values: Values, readings: Mapping[tuple[str, str], Values], study: str, check: str = ""
) -> list[_Look]:
    """A claim in one study: by the default reading, then by each other one that gives other values.

    Args:
        values: of the claim's metric.
        readings: of all metrics.
    """
    own = _look(claim, values, study, check)
    others = [
        _look(claim, of_runs, study, check, reading)
        for (metric, reading), of_runs in readings.items()
        if metric == claim.metric
    ]
    return [own, *(look for look in others if _differs(look, own))]


def _look(claim: Claim, values: Values, study: str, check: str = "", reading: str = DEFAULT) -> _Look:
    if _of_models({run: values.get(run, {}) for run in claim.runs}):
        return _exact(claim, values, study)
    seeds = common_seeds(claim.runs, values)
    estimates = [estimate(weights, values, seeds, claim.within) for weights in claim.contrasts]
    key = (lambda each: -abs(each.mean)) if claim.within else (lambda each: each.mean)
    return _Look(
        study=study,
        check=check,
        reading=reading,
        estimates=estimates,
        directions=[direction(each.paired, each.seeds, claim.within) for each in estimates],
        by_welch=[direction(each.welch, each.seeds, claim.within) for each in estimates],
        decides=estimates.index(min(estimates, key=key)) if seeds else 0,
        base=_base(values.get(claim.percent_of or "", {}), seeds),
    )


def _base(by_seed: BySeed, seeds: Sequence[int]) -> float:
    return sum(by_seed[seed] for seed in seeds) / len(seeds) if by_seed and seeds else math.nan


def _exact(claim: Claim, values: Values, study: str) -> _Look:
    """Of values without a seed, which need no interval."""
    effects = [
        sum(weight * values.get(run, {}).get(NO_SEED, math.nan) for run, weight in weights.items())
        for weights in claim.contrasts
    ]
    nothing = (math.nan, NO_INTERVAL, NO_INTERVAL, math.nan)
    directions = [exact_direction(effect) for effect in effects]
    estimates = [Estimate({}, effect, *nothing) for effect in effects]
    return _Look(study, "", DEFAULT, estimates, directions, directions, effects.index(min(effects)))


def _differs(look: _Look, own: _Look) -> bool:
    """Whether a reading gives other values than the default; some change one metric of Table 6 alone."""
    return [each.sample for each in look.estimates] != [each.sample for each in own.estimates]


def _rows(claim: Claim, look: _Look) -> list[dict]:
    return [
        {
            "study": look.study,
            "check": look.check,
            "reading": look.reading,
            "contrast": _written(weights),
            "decides": place == look.decides,
            "direction": look.directions[place],
            "welch_direction": look.by_welch[place],
            "holm_p": math.nan,
            "base": look.base,
            **effect.columns(),
        }
        for place, (weights, effect) in enumerate(zip(claim.contrasts, look.estimates, strict=True))
    ]


def _written(weights: Mapping[str, float]) -> str:
    """A contrast in words, such as `tood_af - atss_af`."""
    terms = [
        f"{'-' if weight < 0 else '+'} {'' if abs(weight) == 1 else f'{abs(weight):g} '}{run}"
        for run, weight in weights.items()
    ]
    return " ".join(terms).removeprefix("+ ")


def _about(claim: Claim, table: Table) -> dict:
    rows = {row.run: row for row in table.rows}
    base = rows[claim.percent_of].paper.get(claim.metric) if claim.percent_of else None
    return {
        "id": claim.id,
        "claim": claim.claim,
        "section": claim.section,
        "rests_on": f"{table.title}: " + "; ".join(table.label(rows[run]) for run in claim.runs),
        "metric": claim.metric,
        "within": math.nan if claim.within is None else claim.within,
        "paper": _printed(claim, table),
        "paper_base": math.nan if base is None else base,
    }


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


def _robustness(looks: Sequence[_Look]) -> str:
    """What else than the study's own paired intervals says of a claim; empty where nothing else is known."""
    own = looks[0]
    parts = [f"Welch: {own.welch_direction}"] if own.estimates[0].seeds > 1 else []
    by_study: dict[str, list[_Look]] = {}
    for look in looks:
        if look.direction != Verdict.PENDING:
            by_study.setdefault(look.check, []).append(look)
    for check, (default, *others) in by_study.items():
        readings = [look.direction for look in others]
        if check:
            parts.append(f"{check}: {in_another_study(default.direction, default.welch_direction, readings)}")
        elif readings:
            parts.append(counted_readings(readings))
    return "; ".join(parts)


def in_another_study(own: str, by_welch: str, readings: Sequence[str]) -> str:
    """A direction, and what Welch's interval and other readings say there if they say anything else."""
    details = [f"Welch: {by_welch}"] if by_welch != own else []
    details += [counted_readings(readings)] if set(readings) - {own} else []
    return f"{own} ({', '.join(details)})" if details else own


def counted_readings(directions: Sequence[str]) -> str:
    """How many readings have which direction, such as `7 other readings: 4 opposite, 3 inconclusive`."""
    count = Counter(directions)
    words = [f"{count[verdict]} {verdict}" for verdict in Verdict if count[verdict]]
    shown = ", ".join(words) if len(words) > 1 else "".join(count)
    return f"{count.total()} other reading{'s' * (count.total() > 1)}: {shown}"
