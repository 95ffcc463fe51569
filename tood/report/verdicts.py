"""Whether measured values bear out a claim: contrasts over paired seeds, intervals and verdicts.

A contrast is a weighted sum of one metric over runs, such as AP of TOOD minus AP of ATSS. Runs of the same
seed share data, order of images and augmentation, so a contrast is formed seed by seed. Its interval is
Student's: mean +- t x sd / sqrt(n) with n - 1 degrees of freedom. Where a claim needs several contrasts at
once, such as one setting being the best of six, each interval is widened by Bonferroni's rule, so that all of
them hold together with the stated confidence.
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
METHOD = (
    f"{CONFIDENCE:.0%} intervals by Student's t over paired seeds; Bonferroni's rule widens them where a "
    "claim needs several"
)


class Verdict(StrEnum):
    """Of our values on a claim; without values it is pending."""

    HOLDS = "holds"
    NOT_SHOWN = "not shown"
    CONTRADICTED = "contradicted"
    PENDING = "pending"


class Interval(NamedTuple):
    """Of a mean; one value has no bounds, and no value no mean either (nan)."""

    mean: float
    low: float
    high: float
    seeds: int


class Judgement(NamedTuple):
    """What the values say of a claim: the contrast on which it hangs, and the verdict."""

    effect: Interval
    verdict: Verdict


def contrast(weights: Mapping[str, float], values: Mapping[str, Mapping[int, float]]) -> np.ndarray:
    """[S] a contrast for each seed for which all of its runs have a value, which may be undefined (nan).

    Args:
        weights: by run.
        values: by run, then by seed.
    """
    shared = set.intersection(
        *({seed for seed, value in values.get(run, {}).items() if not math.isnan(value)} for run in weights)
    )
    return np.array(
        [sum(weight * values[run][seed] for run, weight in weights.items()) for seed in sorted(shared)]
    )


def interval(sample: np.ndarray, together: int = 1) -> Interval:
    """Student's interval of the mean of a sample.

    Args:
        sample: [S]
        together: number of intervals that are to hold together.
    """
    mean = float(sample.mean()) if len(sample) else math.nan
    if len(sample) < 2:
        return Interval(mean, math.nan, math.nan, len(sample))
    error = sample.std(ddof=1) / math.sqrt(len(sample))
    t = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / together, len(sample) - 1)
    return Interval(mean, mean - t * error, mean + t * error, len(sample))


def all_positive(samples: Sequence[np.ndarray]) -> Judgement:
    """Whether every contrast is above 0; the effect is the lowest one's."""
    intervals = [interval(sample, len(samples)) for sample in samples]
    verdicts = [_one(each, each.low > 0, each.high < 0) for each in intervals]
    lowest = min(intervals, key=lambda each: -math.inf if each.seeds == 0 else each.mean)
    return Judgement(lowest, _together(verdicts))


def all_within(samples: Sequence[np.ndarray], margin: float) -> Judgement:
    """Whether every contrast is within +- `margin`; the effect is the largest one's, in absolute value."""
    intervals = [interval(sample, len(samples)) for sample in samples]
    verdicts = [
        _one(each, -margin < each.low and each.high < margin, each.low > margin or each.high < -margin)
        for each in intervals
    ]
    largest = max(intervals, key=lambda each: math.inf if each.seeds == 0 else abs(each.mean))
    return Judgement(largest, _together(verdicts))


def exactly(values: Sequence[float]) -> Judgement:
    """Whether every one of values that belong to models, and so to no seed, is above 0."""
    if any(map(math.isnan, values)):
        return Judgement(Interval(math.nan, math.nan, math.nan, 0), Verdict.PENDING)
    least = min(values)
    return Judgement(Interval(least, least, least, 0), Verdict.HOLDS if least > 0 else Verdict.CONTRADICTED)


def _one(interval: Interval, holds: bool, contradicted: bool) -> Verdict:
    if interval.seeds == 0:
        return Verdict.PENDING
    if interval.seeds > 1 and (holds or contradicted):
        return Verdict.HOLDS if holds else Verdict.CONTRADICTED
    return Verdict.NOT_SHOWN


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """Of a claim that needs all of these: what one of them refutes, no other saves."""
    order = (Verdict.PENDING, Verdict.CONTRADICTED, Verdict.NOT_SHOWN, Verdict.HOLDS)
    return min(verdicts, key=order.index)
