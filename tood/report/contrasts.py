"""Contrasts of runs and what seeds say of them: means, intervals and p-values.

A contrast is a weighted sum of one metric over runs, such as AP of TOOD minus AP of ATSS, in the unit of the
metric. Runs of the same seed share images, their order, augmentation and the initial weights of shared parts,
so a contrast is formed within each seed. Quantiles and tails of Student's t distribution are SciPy's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
# Two one-sided tests at 5 % are passed where the 90 % interval lies within the margin.
CONFIDENCE_WITHIN = 0.9
BySeed = Mapping[int, float]  # values of one run


class Interval(NamedTuple):
    """Bounds of a mean; nan where there are fewer than two values."""

    low: float
    high: float


NO_INTERVAL = Interval(math.nan, math.nan)


class Estimate(NamedTuple):
    """What the seeds say of one contrast, in the unit of its metric; nan where they do not suffice."""

    sample: dict[int, float]  # by seed
    mean: float
    sd: float  # of the sample, with n - 1
    paired: Interval
    welch: Interval
    p: float

    @property
    def seeds(self) -> int:
        """Number of seeds; 0 for a value that belongs to a model and not to a training."""
        return len(self.sample)

    def columns(self) -> dict[str, Any]:
        """Its numbers as columns of a row of `frame_by_seed`."""
        return {
            "seeds": self.seeds,
            "mean": self.mean,
            "sd": self.sd,
            "low": self.paired.low,
            "high": self.paired.high,
            "welch_low": self.welch.low,
            "welch_high": self.welch.high,
            "p": self.p,
            "sample": self.sample,
        }


def frame_by_seed(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """These columns of the rows, then the sample of each: `seed0`, `seed1` ..., nan where a row lacks a seed.

    Args:
        rows: each with the columns of an `Estimate`.
        columns: their names, in order.
    """
    samples = [row["sample"] for row in rows]
    seeds = sorted({seed for sample in samples for seed in sample})
    by_seed = {f"seed{seed}": [sample.get(seed, math.nan) for sample in samples] for seed in seeds}
    return pd.DataFrame(rows, columns=list(columns)).assign(**by_seed)


def common_seeds(runs: Iterable[str], values: Mapping[str, BySeed]) -> list[int]:
    """The seeds with which every one of these runs has a value; a value may be undefined (nan).

    Args:
        runs: without a repetition or with.
        values: by run, then by seed.
    """
    known = [{seed for seed, value in values.get(run, {}).items() if not math.isnan(value)} for run in runs]
    return sorted(set.intersection(*known)) if known else []


def estimate(
    weights: Mapping[str, float],
    values: Mapping[str, BySeed],
    seeds: Sequence[int],
    margin: float | None = None,
) -> Estimate:
    """A contrast over seeds.

    Args:
        weights: by run.
        values: by run, then by seed.
        seeds: for which all of these runs have a value.
        margin: in the unit of the metric; None: the contrast is compared with 0.

    Returns:
        Without a margin 95 % intervals, and the two-sided p of a contrast of 0. With a margin 90 % intervals,
        and the p of two one-sided tests: of a contrast that is not within +- `margin`.
    """
    by_run = {run: np.array([values[run][seed] for seed in seeds], dtype=float) for run in weights}
    sample = sum((weight * by_run[run] for run, weight in weights.items()), np.zeros(len(seeds)))
    confidence = CONFIDENCE if margin is None else CONFIDENCE_WITHIN
    return Estimate(
        sample=dict(zip(seeds, sample.tolist(), strict=True)),
        mean=float(sample.mean()) if len(sample) else math.nan,
        sd=float(sample.std(ddof=1)) if len(sample) > 1 else math.nan,
        paired=paired_interval(sample, confidence),
        welch=welch_interval(weights, by_run, confidence),
        p=two_sided(sample) if margin is None else within(sample, margin),
    )


def paired_interval(sample: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Student's interval of the mean of a sample [S]: mean +- t x sd / sqrt(S), S - 1 degrees of freedom."""
    if len(sample) < 2:
        return NO_INTERVAL
    half = stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * stats.sem(sample)
    return Interval(float(sample.mean() - half), float(sample.mean() + half))


def welch_interval(
    weights: Mapping[str, float], samples: Mapping[str, np.ndarray], confidence: float = CONFIDENCE
) -> Interval:
    """Welch's interval of a weighted sum of means, which pairs nothing and lets variances differ.

    Its degrees of freedom are those of Welch and Satterthwaite: (sum v)^2 / sum(v^2 / (S - 1)), where v is
    the weighted variance of a run's mean.

    Args:
        weights: by run.
        samples: [S] of each of these runs.
        confidence: of the interval.
    """
    if min(map(len, samples.values())) < 2:
        return NO_INTERVAL
    mean = float(sum(weight * samples[run].mean() for run, weight in weights.items()))
    variances = {run: (weight * stats.sem(samples[run])) ** 2 for run, weight in weights.items()}
    variance = sum(variances.values())
    if variance == 0:
        return Interval(mean, mean)
    freedom = variance**2 / sum(each**2 / (len(samples[run]) - 1) for run, each in variances.items())
    half = float(stats.t.ppf((1 + confidence) / 2, freedom) * math.sqrt(variance))
    return Interval(mean - half, mean + half)


def two_sided(sample: np.ndarray) -> float:
    """p of a mean of 0, by Student's t over a sample [S]; nan for fewer than two values."""
    return float(2 * stats.t.sf(abs(_statistic(sample, 0)), len(sample) - 1)) if len(sample) > 1 else math.nan


def within(sample: np.ndarray, margin: float) -> float:
    """p of a mean not within +- `margin`: the larger one of two one-sided tests; nan as `two_sided`."""
    if len(sample) < 2:
        return math.nan
    freedom = len(sample) - 1
    above = stats.t.sf(_statistic(sample, -margin), freedom)
    below = stats.t.cdf(_statistic(sample, margin), freedom)
    return float(max(above, below))


def outside(sample: np.ndarray, margin: float) -> float:
    """p of a mean not outside of +- `margin`, one-sided, on the side of the mean; nan as `two_sided`."""
    if len(sample) < 2:
        return math.nan
    side = math.copysign(1, sample.mean())
    return float(stats.t.sf(_statistic(side * sample, margin), len(sample) - 1))


def holm(p: Sequence[float]) -> list[float]:
    """p-values after Holm's adjustment (Holm, 1979) over all of them that are known; nan stays.

    The smallest of k is multiplied by k, the next one by k - 1, and so on. None is smaller than the one
    before it, and none is above 1.
    """
    known = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    adjusted, largest = list(p), 0.0
    for rank, (value, place) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted


def _statistic(sample: np.ndarray, expected: float) -> float:
    """Student's t; infinite, or 0, where all values are the same."""
    distance, error = float(sample.mean()) - expected, float(stats.sem(sample))
    if error:
        return distance / error
    return math.copysign(math.inf, distance) if distance else 0.0
