"""Contrasts, intervals and p-values, by hand and against SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from tood.report.contrasts import (
    common_seeds,
    estimate,
    holm,
    paired_interval,
    two_sided,
    welch_interval,
    within,
)

ONE = np.array([0.3])
RANDOM = np.random.default_rng(0)


def test_seeds_are_those_that_all_runs_have():
    values = {"a": {0: 5.0, 1: 7.0, 4: 9.0}, "b": {4: 2.0, 0: 1.0}, "c": {0: 1.0, 1: 1.0, 4: 0.5}}
    assert common_seeds(["a", "b"], values) == [0, 4]
    assert common_seeds(["a", "c", "a"], values) == [0, 1, 4]
    assert common_seeds(["a", "absent"], values) == []
    values["c"][4] = math.nan  # such as the correlation of no boxes
    assert common_seeds(["a", "c"], values) == [0, 1]


def test_a_contrast_is_formed_within_each_seed():
    values = {"a": {0: 5.0, 1: 7.0, 4: 9.0}, "b": {4: 2.0, 0: 1.0}, "c": {0: 1.0, 1: 1.0, 4: 0.5}}
    found = estimate({"a": 1, "b": -2, "c": 4}, values, [0, 4])
    assert found.sample == {0: 5 - 2 + 4, 4: 9 - 4 + 2}
    assert (found.mean, found.sd, found.seeds) == (7, 0, 2)
    nothing = estimate({"a": 1, "b": -1}, values, [])
    assert nothing.seeds == 0
    assert all(map(math.isnan, (nothing.mean, nothing.sd, *nothing.paired, *nothing.welch, nothing.p)))


def test_the_interval_by_hand():
    # Mean 2, sd 1, so an error of 1 / sqrt(3); the tables have t = 4.303 for two degrees of freedom.
    low, high = paired_interval(np.array([1.0, 2.0, 3.0]))
    assert high - 2 == pytest.approx(2 - low)
    assert high - 2 == pytest.approx(4.303 / math.sqrt(3), abs=1e-3)


@pytest.mark.parametrize("margin", [None, 0.4])
def test_intervals_are_scipys(margin):
    one, other = RANDOM.normal(size=(2, 6)) * [[1], [3]]
    values = {"a": dict(enumerate(one)), "b": dict(enumerate(other))}
    found = estimate({"a": 1, "b": -1}, values, range(6), margin)
    confidence = 0.95 if margin is None else 0.9
    paired = stats.ttest_rel(one, other)
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert found.paired == pytest.approx(tuple(paired.confidence_interval(confidence)))
    assert found.welch == pytest.approx(tuple(welch.confidence_interval(confidence)))
    assert found.sd == pytest.approx(np.std(one - other, ddof=1))
    if margin is None:
        assert found.p == pytest.approx(paired.pvalue)
    else:
        sides = (
            stats.ttest_1samp(one - other, -margin, alternative="greater").pvalue,
            stats.ttest_1samp(one - other, margin, alternative="less").pvalue,
        )
        assert found.p == pytest.approx(max(sides))


def test_welchs_interval_of_four_runs_by_hand():
    """Variances 4, 1, 1, 4 over three seeds: the sum's is 10 / 3, and (10/3)^2 / (34/9 / 2) is 100 / 17."""
    spread = {"a": 2.0, "b": 1.0, "c": 1.0, "d": 2.0}
    samples = {run: np.array([-1.0, 0.0, 1.0]) * sd for run, sd in spread.items()}
    weights = {"a": 1, "b": -1, "c": -1, "d": 1}
    half = stats.t.ppf(0.975, 100 / 17) * math.sqrt(10 / 3)
    assert welch_interval(weights, samples) == pytest.approx((-half, half))


def test_one_value_has_a_mean_and_nothing_else():
    found = estimate({"a": 1}, {"a": {7: 0.3}}, [7])
    assert (found.mean, found.seeds) == (0.3, 1)
    assert all(map(math.isnan, (found.sd, *found.paired, *found.welch, found.p)))
    assert math.isnan(two_sided(ONE))
    assert math.isnan(within(ONE, 1))


def test_values_without_a_spread():
    same = np.array([2.0, 2.0])
    assert paired_interval(same) == (2, 2)
    assert welch_interval({"a": 1}, {"a": same}) == (2, 2)
    assert (two_sided(same), two_sided(same * 0)) == (0, 1)
    assert (within(same, 3), within(same, 1)) == (0, 1)


def test_two_one_sided_tests_are_passed_where_the_narrower_interval_is_within():
    sample = RANDOM.normal(size=8)
    low, high = paired_interval(sample, 0.9)
    reach = max(-low, high)
    assert within(sample, reach) == pytest.approx(0.05)
    assert within(sample, reach * 1.01) < 0.05 < within(sample, reach * 0.99)


def test_holms_adjustment_by_hand():
    """.01 of four is .04; .02 times three is .06; .03 times two is .06; .8 times one is .8."""
    assert holm([0.03, 0.01, 0.8, 0.02]) == pytest.approx([0.06, 0.04, 0.8, 0.06])
    assert holm([0.01, 0.02, 0.011]) == pytest.approx([0.03, 0.03, 0.03])  # none below the one before it
    assert holm([0.4, 0.5]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([math.nan, 0.02, math.nan, 0.04]) == pytest.approx(
        [math.nan, 0.04, math.nan, 0.04], nan_ok=True
    )
    assert holm([]) == []
