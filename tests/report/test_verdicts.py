"""Verdicts from intervals."""

import math

import pytest

from tood.report.contrasts import NO_INTERVAL, Interval
from tood.report.verdicts import (
    Verdict,
    direction,
    exact_direction,
    overall,
    together,
    vocabulary,
    worded,
)

SAME, OPPOSITE, OPEN, PENDING = (
    Verdict.SAME_DIRECTION,
    Verdict.OPPOSITE,
    Verdict.INCONCLUSIVE,
    Verdict.PENDING,
)


@pytest.mark.parametrize(
    ("interval", "seeds", "margin", "expected"),
    [
        ((0.1, 2), 3, None, "same direction"),
        ((-2, -0.1), 3, None, "opposite"),
        ((-0.1, 2), 3, None, "inconclusive"),
        (NO_INTERVAL, 1, None, "inconclusive"),
        (NO_INTERVAL, 0, None, "pending"),
        ((-0.4, 0.3), 4, 0.5, "same direction"),
        ((-0.4, 0.6), 4, 0.5, "inconclusive"),
        ((0.6, 0.7), 4, 0.5, "opposite"),
        ((-0.7, -0.6), 4, 0.5, "opposite"),
        (NO_INTERVAL, 1, 0.5, "inconclusive"),
        (NO_INTERVAL, 0, 0.5, "pending"),
    ],
)
def test_the_direction_of_a_contrast(interval, seeds, margin, expected):
    assert direction(Interval(*interval), seeds, margin) == expected


def test_values_of_models_need_no_seed():
    assert [exact_direction(value) for value in (0.1, -0.1, math.nan)] == [SAME, OPPOSITE, PENDING]


def test_a_claim_needs_all_of_its_contrasts():
    assert together([SAME] * 5) == SAME
    assert together([SAME, OPEN]) == OPEN
    assert together([SAME, OPEN, OPPOSITE]) == OPPOSITE
    assert together([OPPOSITE, PENDING]) == PENDING


def test_a_verdict_depends_on_the_reading_where_two_of_them_exclude_0_on_either_side():
    assert overall(SAME, [OPEN, SAME, PENDING]) == SAME
    assert overall(SAME, [OPEN, OPPOSITE]) == "depends on the reading"
    assert overall(OPPOSITE, [SAME]) == overall(OPEN, [SAME, OPPOSITE]) == Verdict.DEPENDS
    assert overall(OPEN, [OPPOSITE]) == OPEN
    assert overall(PENDING, [SAME, OPPOSITE]) == PENDING


def test_only_where_numbers_are_comparable_a_claim_holds():
    every = [SAME, OPEN, OPPOSITE, Verdict.DEPENDS, PENDING]
    assert [worded(verdict, comparable=False) for verdict in every] == every
    expected = ["holds", "not shown", "contradicted", "depends on the reading", "pending"]
    assert [worded(verdict, comparable=True) for verdict in every] == expected
    assert list(vocabulary(comparable=True)) == expected[:4]
    assert list(vocabulary(comparable=False)) == every[:4]
