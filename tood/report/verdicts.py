"""Whether measured values bear out a claim: directions of contrasts, and the words for them.

At the scale whose numbers are comparable with the paper's, a claim holds or is contradicted. Elsewhere the
same interval says only in which direction the effect is.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum

from tood.report.contrasts import Interval


class Verdict(StrEnum):
    """Of our values on a claim; without values it is pending."""

    HOLDS = "holds"
    NOT_SHOWN = "not shown"
    CONTRADICTED = "contradicted"
    SAME_DIRECTION = "same direction"
    OPPOSITE = "opposite"
    INCONCLUSIVE = "inconclusive"
    DEPENDS = "depends on the reading"
    PENDING = "pending"


_WHERE_COMPARABLE = {
    Verdict.SAME_DIRECTION: Verdict.HOLDS,
    Verdict.INCONCLUSIVE: Verdict.NOT_SHOWN,
    Verdict.OPPOSITE: Verdict.CONTRADICTED,
}


def direction(interval: Interval, seeds: int, margin: float | None = None) -> Verdict:
    """What one contrast says of its claim.

    Args:
        interval: of the contrast, signed so that the paper's effect is positive.
        seeds: how many the interval rests on; a direction needs two.
        margin: None where the contrast is to be above 0; else it is to be within +- `margin`.
    """
    if seeds == 0:
        return Verdict.PENDING
    if any(map(math.isnan, interval)):
        return Verdict.INCONCLUSIVE
    if margin is None:
        same, opposite = interval.low > 0, interval.high < 0
    else:
        same = -margin < interval.low and interval.high < margin
        opposite = interval.low > margin or interval.high < -margin
    return Verdict.SAME_DIRECTION if same else Verdict.OPPOSITE if opposite else Verdict.INCONCLUSIVE


def exact_direction(value: float) -> Verdict:
    """What a value says that belongs to a model, and so to no seed; nan is pending."""
    if math.isnan(value):
        return Verdict.PENDING
    return Verdict.SAME_DIRECTION if value > 0 else Verdict.OPPOSITE


def together(directions: Sequence[Verdict]) -> Verdict:
    """Of a claim that needs all of these contrasts: what one of them refutes, no other saves.

    For "best of several" it is the intersection-union test, which needs no adjustment (Berger, 1982).
    """
    order = (Verdict.PENDING, Verdict.OPPOSITE, Verdict.INCONCLUSIVE, Verdict.SAME_DIRECTION)
    return min(directions, key=order.index)


def overall(own: Verdict, others: Iterable[Verdict]) -> Verdict:
    """The verdict of a study on a claim, with what else was looked at.

    Args:
        own: direction by the paper's reading and the study's paired intervals.
        others: directions by other readings, by Welch's interval and of other studies.
    """
    decided = {own, *others}
    if own != Verdict.PENDING and {Verdict.SAME_DIRECTION, Verdict.OPPOSITE} <= decided:
        return Verdict.DEPENDS
    return own


def worded(verdict: Verdict, comparable: bool) -> Verdict:
    """A verdict in the words of a scale; `comparable`: whether its numbers are, with the paper's."""
    return _WHERE_COMPARABLE.get(verdict, verdict) if comparable else verdict


def vocabulary(comparable: bool) -> Collection[Verdict]:
    """The verdicts that a scale can have, without pending."""
    return [*(worded(verdict, comparable) for verdict in _WHERE_COMPARABLE), Verdict.DEPENDS]
