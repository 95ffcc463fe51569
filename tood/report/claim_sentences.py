"""For each claim what was found, how sure it is, and what would change it, in sentences from the numbers."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from tood.report.claims_table import margin, shown_p, verdict_with_welch
from tood.report.contrasts import CONFIDENCE, CONFIDENCE_WITHIN
from tood.report.effects import effect_with_interval, shown
from tood.report.evidence import summary
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
        entries.append(f"- **{markdown(row['claim'] + margin(row, spec))}:** {' '.join(sentences)}")
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
    paper = "" if math.isnan(row["paper"]) else f"; the paper has {shown(row['paper'], spec)}"
    if not row["seeds"]:
        return f"*{row['verdict']}*, {shown(row['mean'], spec)}{paper}. It does not depend on a seed."
    several = f" The contrast on which it hangs is `{row['contrast']}`." if len(claim.contrasts) > 1 else ""
    seeds = f"{row['seeds']} seed" + "s" * (row["seeds"] > 1)
    metric = markdown(claim.metric)
    effect = effect_with_interval(row, spec, CONFIDENCE_WITHIN if claim.within else None)
    return f"*{verdict_with_welch(row)}*, {effect} {metric}, {seeds}{paper}.{several}"


def _sure(claim: Claim, row: Mapping, spec: str) -> list[str]:
    """How far chance may have made it."""
    if row["seeds"] < 2:
        return ["One seed has no interval."] if row["seeds"] else []
    sample = [value for name, value in row.items() if name.startswith("seed") and name != "seeds"]
    low, high = np.nanmin(sample), np.nanmax(sample)
    sentences = [f"Single seeds have {shown(low, spec)} to {shown(high, spec)}."]
    tested = row["direction"] == Verdict.SAME_DIRECTION or not claim.within
    if row["direction"] in _DECIDED and tested and not claim.best:
        negation = "" if row["holm_p"] < _LEVEL else " not"
        sentences.append(f"It is{negation} significant after Holm's correction (p {shown_p(row['holm_p'])}).")
    elif row["direction"] == Verdict.INCONCLUSIVE and not claim.within and row["sd"] > 0:
        sentences.append(_power(row, spec))
    return sentences


def _power(row: Mapping, spec: str) -> str:
    """How many seeds an effect would take: the paper's, or where it prints none, the one that was found.

    Where the interval ends below the paper's effect, it says that instead.
    """
    own = math.isnan(row["paper"])
    if row["high"] < row["paper"]:
        return "The interval excludes an effect of the paper's size."
    needed = seeds_needed(row["mean"] if own else row["paper"], row["sd"])
    effect = "this effect" if own else "an effect of the paper's size"
    number = f"{needed} seeds" if needed else f"more than {MOST_SEEDS:,} seeds"
    return f"To see {effect} with a power of {POWER:.0%} would take {number} (SD {row['sd']:{spec}})."


def _would_change(row: Mapping, looks: Sequence[Mapping]) -> list[str]:
    """What else was looked at, and where it says something else."""
    known = [look for look in looks if look["seeds"] > 1 and row["seeds"] > 1]
    sentences = []
    if readings := [look["direction"] for look in known if not look["check"] and look["reading"] != DEFAULT]:
        sentences.append(_by_reading(row["direction"], readings))
    checks = [look for look in known if look["check"]]
    others = [look for look in checks if look["direction"] != row["direction"]]
    if differing := [f"{look['check']} ({look['direction']})" for look in others]:
        sentences.append(f"Another verdict: {', '.join(differing)}.")
    if agreeing := [look["check"] for look in checks if look["direction"] == row["direction"]]:
        sentences.append(f"The same verdict: {', '.join(agreeing)}.")
    if waiting := [look["check"] for look in looks if look["check"] and look["direction"] == Verdict.PENDING]:
        sentences.append(f"Pending: {', '.join(waiting)}.")
    return sentences


def _by_reading(default: str, others: Sequence[str]) -> str:
    """What the readings of Table 6 say, the default one first."""
    if set(others) == {default}:
        return f"All {len(others) + 1} readings say the same."
    count = Counter([default, *others])
    rest = "; ".join(f"{number} {verdict}" for verdict, number in count.items() if verdict != default)
    return f"By reading: {count[default]} {default}, the default among them; {rest}."
