"""Contrasts, intervals and verdicts, by hand and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from tood.report.verdicts import all_positive, all_within, contrast, exactly, interval

NONE, ONE = np.empty(0), np.array([0.3])


def test_a_contrast_is_formed_by_seed_over_the_seeds_that_all_runs_have():
    values = {"a": {0: 5.0, 1: 7.0, 4: 9.0}, "b": {4: 2.0, 0: 1.0}, "c": {0: 1.0, 1: 1.0, 4: 0.5}}
    assert contrast({"a": 1, "b": -1}, values).tolist() == [4, 7]
    assert contrast({"a": 1, "b": -2, "c": 4}, values).tolist() == [7, 7]
    assert contrast({"a": 1, "absent": -1}, values).size == 0
    values["c"][4] = math.nan  # such as the correlation of no boxes
    assert contrast({"a": 1, "c": -1}, values).tolist() == [4, 6]


def test_the_interval_by_hand():
    # Mean 2, sd 1, so an error of 1 / sqrt(3); the tables have t = 4.303 for two degrees of freedom.
    found = interval(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.seeds) == (2, 3)
    assert found.high - 2 == 2 - found.low == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)


@pytest.mark.parametrize("together", [1, 5])
def test_the_interval_is_that_of_a_paired_t_test(together):
    one, other = np.random.default_rng(0).normal(size=(2, 6))
    expected = stats.ttest_rel(one, other).confidence_interval(1 - 0.05 / together)
    found = interval(one - other, together)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_one_value_has_no_interval_and_none_no_mean():
    assert interval(ONE)[::3] == (0.3, 1)
    assert math.isnan(interval(ONE).low)
    assert math.isnan(interval(NONE).mean)


@pytest.mark.parametrize(
    ("sample", "verdict"),
    [
        ([1.0, 1.1, 0.9], "holds"),
        ([-1.0, -1.1, -0.9], "contradicted"),
        ([1.0, -0.9, 0.4], "not shown"),
        ([5.0], "not shown"),
        ([], "pending"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_verdicts_on_a_contrast(sample, verdict):
    assert all_positive([np.array(sample)]).verdict == verdict


def test_the_best_of_several_is_judged_with_all_intervals_together():
    # Alone the interval of the first ends just above 0, with five others it does not.
    close, clear = np.array([0.0, 1.0, 1.0, 1.0, 1.0]), np.array([1.0, 1.1, 1.0, 1.1, 1.0])
    assert all_positive([close]).verdict == "holds"
    assert all_positive([clear] * 6).verdict == "holds"
    found = all_positive([close, *[clear] * 5])
    assert found.verdict == "not shown"
    assert found.effect == interval(close, 6)  # the lowest
    assert all_positive([-clear, close, ONE]).verdict == "contradicted"
    assert all_positive([-clear, NONE]).verdict == "pending"


def test_alike_is_shown_only_by_an_interval_within_the_margin():
    small, large = np.array([0.1, 0.0, -0.1, 0.0]), np.array([0.8, 0.9, 0.8, 0.9])
    assert all_within([small], 0.5).verdict == "holds"
    assert all_within([large], 0.5).verdict == all_within([-large], 0.5).verdict == "contradicted"
    assert all_within([small * 8], 0.5).verdict == "not shown"
    assert all_within([np.zeros(1)], 0.5).verdict == "not shown"
    found = all_within([small, -large], 0.5)
    assert found.verdict == "contradicted"
    assert found.effect == interval(-large, 2)  # the largest


def test_values_of_models_need_no_seed():
    assert exactly([0.5, 0.1]).verdict == "holds"
    assert exactly([0.5, -0.1]).verdict == "contradicted"
    assert exactly([0.5, math.nan]).verdict == "pending"
    assert exactly([0.5, 0.1]).effect.mean == 0.1
