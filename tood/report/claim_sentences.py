"""For each claim what was found, how sure it is, and what would change it, in sentences from the numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from tood.report.claims_table import margin, shown_p, verdict_with_welch
from tood.report.contrasts import CONFIDENCE, CONFIDENCE_WITHIN, outside
from tood.report.effects import effect_with_interval, percent, shown
from tood.report.evidence import counted_readings, in_another_study, summary
from tood.report.markup import markdown
from tood.report.readings import DEFAULT
from tood.report.verdicts import Verdict
from tood.study.claims import Claim
from tood.study.declarations import Table

POWER = 0.8
MOST_SEEDS = 1000  # that are worth a number
_LEVEL = 1 - CONFIDENCE
_DECIDED = (Verdict.SAME_DIRECTION, Verdict.OPPOSITE)


def findings(claims: Sequence[Claim], judged: pd.DataFrame, tables: Mapping[str, Table]) -> str:
    """A list in Markdown with an entry for each claim that the study has values for.

    Args:
        claims: all of them.
        judged: what `tood.report.evidence.judge` says of them.
        tables: by name.
    """
    entries = []
    for claim, row in zip(claims, summary(judged).to_dict("records"), strict=True):
        if row["verdict"] == Verdict.PENDING:
            continue
        looks = judged[(judged["id"] == claim.id) & judged["decides"].astype(bool)].to_dict("records")
        spec = tables[claim.table].metrics[claim.metric]
        sentences = [
            _found(claim, row, spec),
            *_sure(claim, row, spec),
            *_would_change(row, looks),
            *filter(None, [markdown(row["note"])]),
        ]
        title = f"{row['number']}: {row['claim']}{margin(row, spec)}"
        entries.append(f"- **{markdown(title)}:** {' '.join(sentences)}")
    return "\n".join(entries) + "\n"


def seeds_needed(effect: float, sd: float) -> int | None:
    """The least number of paired seeds with which Student's test sees an effect with a power of `POWER`.

    The power is that of the two-sided test at 5 %, by the noncentral t distribution.

    Args:
        effect: that is to be seen.
        sd: of the contrast over seeds, in the same unit.

    Returns:
        None beyond `MOST_SEEDS`
    """
    for seeds in range(2, MOST_SEEDS + 1):
        bound = stats.t.ppf(1 - _LEVEL / 2, seeds - 1)
        centre = abs(effect) / sd * math.sqrt(seeds)
        if stats.nct.sf(bound, seeds - 1, centre) + stats.nct.cdf(-bound, seeds - 1, centre) >= POWER:
            return seeds
    return None


def _found(claim: Claim, row: Mapping, spec: str) -> str:
    """The verdict with its numbers, and the paper's."""
    printed = ", ".join(filter(None, [shown(row["paper"], spec), percent(row["paper"], row["paper_base"])]))
    paper = "" if math.isnan(row["paper"]) else f"; the paper has {printed}"
    if not row["seeds"]:
        return f"*{row['verdict']}*, {shown(row['mean'], spec)}{paper}. It does not depend on a seed."
    several = f" The pair that decides is `{row['contrast']}`." if len(claim.contrasts) > 1 else ""
    seeds = f"{row['seeds']} seed" + "s" * (row["seeds"] > 1)
    metric = markdown(claim.metric)
    effect = effect_with_interval(row, spec, CONFIDENCE_WITHIN if claim.within else None)
    shares = f", {share}" if (share := percent(row["mean"], row["base"])) else ""
    return f"*{verdict_with_welch(row)}*, {effect} {metric}{shares}, {seeds}{paper}.{several}"


def _sure(claim: Claim, row: Mapping, spec: str) -> list[str]:
    """How far chance may have made it."""
    if row["seeds"] < 2:
        return ["One seed has no interval."] if row["seeds"] else []
    sample = [value for name, value in row.items() if name.startswith("seed") and name != "seeds"]
    low, high = np.nanmin(sample), np.nanmax(sample)
    sentences = [f"Over single seeds it ranges from {shown(low, spec)} to {shown(high, spec)}."]
    if claim.within and row["direction"] == Verdict.OPPOSITE:
        p = shown_p(outside(np.array(sample)[~np.isnan(sample)], claim.within))
        sentences.append(f"That it lies outside of the margin has p {p} (one-sided, not adjusted).")
    tested = row["direction"] == Verdict.SAME_DIRECTION or not claim.within
    if row["direction"] in _DECIDED and tested and not claim.best:
        negation = "" if row["holm_p"] < _LEVEL else " not"
        sentences.append(f"It is{negation} significant after Holm's correction (p {shown_p(row['holm_p'])}).")
    elif row["direction"] == Verdict.INCONCLUSIVE and not claim.within and row["sd"] > 0:
        sentences.append(_power(row, spec))
    return sentences


def _power(row: Mapping, spec: str) -> str:
    """How many seeds an effect would take: the paper's, or where there is none, the one that was found.

    Where the interval ends below the paper's effect, it says that instead. The paper's counts are of other
    images, so they are no effect to look for.
    """
    own = math.isnan(row["paper"]) or not math.isnan(row["base"])
    if not own and row["high"] < row["paper"]:
        return "The interval excludes an effect of the paper's size."
    needed = seeds_needed(row["mean"] if own else row["paper"], row["sd"])
    effect = "this effect" if own else "an effect of the paper's size"
    number = f"{needed} seeds" if needed else f"more than {MOST_SEEDS:,} seeds"
    return f"To see {effect} with a power of {POWER:.0%} would take {number} (SD {row['sd']:{spec}})."


def _would_change(row: Mapping, looks: Sequence[Mapping]) -> list[str]:
    """What else was looked at, and what it says."""
    by_study: dict[str, list[Mapping]] = {}
    for look in looks:
        by_study.setdefault(look["check"], []).append(look)
    sentences, elsewhere, waiting = [], [], []
    for check, of_study in by_study.items():
        default = next(look for look in of_study if look["reading"] == DEFAULT)
        others = [look["direction"] for look in of_study if look is not default and look["seeds"] > 1]
        if not check:
            sentences += [_by_reading(row["direction"], others)] if others and row["seeds"] > 1 else []
        elif default["direction"] == Verdict.PENDING:
            waiting.append(check)
        elif default["seeds"] > 1:
            words = in_another_study(default["direction"], default["welch_direction"], others)
            elsewhere.append(f"{check}, {words}")
    if elsewhere:
        sentences.append(f"In other studies: {'; '.join(elsewhere)}.")
    return [*sentences, *([f"Pending: {', '.join(waiting)}."] if waiting else [])]


def _by_reading(default: str, others: Sequence[str]) -> str:
    """What the readings of Table 6 say, the default one first."""
    if set(others) == {default}:
        return f"All {len(others) + 1} readings say the same."
    return f"The default reading says {default}; {counted_readings(others)}."
