"""Effects of claims in words: with their sign and interval, and what a claim on parts says of the whole."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from tood.report.markup import DASH, number
from tood.report.readings import DEFAULT
from tood.report.verdicts import Verdict


def shown(value: float, spec: str) -> str:
    """An effect with its sign; a dash where there is none."""
    return DASH if math.isnan(value) else number(value, f"+{spec}")


def with_interval(value: float, low: float, high: float, spec: str, level: str = "") -> str:
    """A value with its interval, where it has one; a dash where there is no value."""
    if math.isnan(value):
        return DASH
    interval = "" if math.isnan(low) else f" ({number(low, spec)} to {number(high, spec)}{level})"
    return f"{number(value, spec)}{interval}"


def effect_with_interval(row: Mapping, spec: str, confidence: float | None = None) -> str:
    """The effect in a row of `tood.report.evidence.judge`, with its interval where there are several seeds.

    Args:
        row: with mean, low and high.
        spec: of the metric, as a format of Python without a sign.
        confidence: of the interval, where it is to be said.
    """
    level = "" if confidence is None else f", {confidence:.0%} interval"
    return with_interval(row["mean"], row["low"], row["high"], f"+{spec}", level)


def percent(value: float, base: float) -> str:
    """An effect in percent of a value above 0, with its sign; empty where either is not there."""
    return f"{number(100 * value / base, '+.1f')}%" if base > 0 and not math.isnan(value) else ""


def note_on_whole(judged: pd.DataFrame, claim: str, whole: str, spec: str) -> str:
    """In which studies the whole is not above 0, so that more than the sum of its parts may still be a loss.

    Args:
        judged: rows of `judge` with the columns of the seeds.
        claim: id of the claim that compares a whole with the sum of its parts.
        whole: id of the claim that the whole is above 0.
        spec: of their metric.

    Returns:
        A sentence for each study in which that claim has several seeds; empty where every whole is above 0.
    """
    looks = judged[judged["decides"].astype(bool) & (judged["reading"] == DEFAULT) & (judged["seeds"] > 1)]
    seeds = list(looks.filter(regex=r"^seed\d+$"))
    wholes = {look["check"]: look for look in looks[looks["id"] == whole].to_dict("records")}
    sentences = []
    for own in looks[looks["id"] == claim].to_dict("records"):
        together = wholes.get(own["check"])
        if together is None or together["direction"] == Verdict.SAME_DIRECTION:
            continue
        who = f"In another study, {own['check']}, they" if own["check"] else "They"
        do = "lose" if together["direction"] == Verdict.OPPOSITE else "do not clearly gain"
        # The mean is over the seeds that all runs have.
        alone = np.nanmean([together[seed] - own[seed] for seed in seeds])
        sentences.append(
            f'{who} {do} together: "{together["claim"]}" has {effect_with_interval(together, spec)} '
            f"{together['metric']}. The sum of each alone is {shown(float(alone), spec)}."
        )
    return " ".join(sentences)
