"""What pages say of each claim, by hand from a few values."""

import re

import pandas as pd
import pytest
from scipy import stats

from tood.report.claim_sentences import POWER, findings, seeds_needed
from tood.report.evidence import Checked, Evidence, judge
from tood.study.claims import load_claims
from tood.study.declarations import load_runs, load_tables

RUNS = load_runs()
TABLES = load_tables(runs=RUNS)
CLAIMS = load_claims(RUNS, TABLES)


def ap(**by_run: tuple[float, ...]) -> pd.DataFrame:
    rows = [(run, seed, value) for run, values in by_run.items() for seed, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["run", "seed", "value"]).assign(metric="AP", stale=False)


def said(metrics: pd.DataFrame, *checks) -> dict[str, str]:
    """The entry of each claim."""
    judged = judge(CLAIMS, Evidence("mini", metrics, checks=checks), TABLES)
    entries = findings(CLAIMS, judged, TABLES).strip().removeprefix("- **").split("\n- **")
    return dict(entry.split(":** ", 1) for entry in entries)


def test_an_effect_its_seeds_and_where_else_it_was_looked_at():
    """Differences of 8, 9 and 10: 9 -+ 4.303 / sqrt(3), t = 9 sqrt(3)."""
    values = ap(tood_af=(48.0, 49.0, 50.0), atss_af=(40.0, 40.0, 40.0))
    elsewhere = ap(tood_af=(30.0, 31.0), atss_af=(31.0, 30.5))
    found = said(
        values,
        Checked("photographs", "cells", ["tood_af", "atss_af"], elsewhere),
        Checked("36 epochs", "longer", ["tood_af", "atss_af"], values.iloc[:0]),
    )
    assert list(found) == ["C9: TOOD is better than ATSS, anchor-free"]
    p = 2 * stats.t.sf(9 * 3**0.5, 2)
    assert found["C9: TOOD is better than ATSS, anchor-free"] == (
        "*same direction*, +9.0 (+6.5 to +11.5) AP, 3 seeds; the paper has +3.3. Over single seeds it "
        f"ranges from +8.0 to +10.0. It is significant after Holm's correction (p {f'{p:.3f}'[1:]}). "
        "In other studies: photographs, inconclusive. Pending: 36 epochs."
    )


def test_an_effect_that_is_not_seen_says_how_many_seeds_it_would_take():
    found = said(ap(fovea_thead=(41.0, 40.0, 42.0), fovea=(40.0, 41.0, 40.5)))
    text = found["C1: T-head is better than the parallel head in FoveaBox"]
    assert text.startswith("*inconclusive*, +0.5 (−2.8 to +3.8) AP, 3 seeds; the paper has +0.7. ")
    needed = seeds_needed(0.7, 1.3229)
    assert (
        f"To see an effect of the paper's size with a power of 80% would take {needed} seeds (SD 1.3)."
        in text
    )


def test_an_effect_as_large_as_the_papers_is_excluded_where_the_interval_ends_below():
    found = said(ap(fovea_thead=(40.1, 40.2, 39.9), fovea=(40.0, 40.1, 40.0)))
    text = found["C1: T-head is better than the parallel head in FoveaBox"]
    assert text.startswith("*inconclusive*, +0.0 (−0.3 to +0.3) AP, 3 seeds; the paper has +0.7. ")
    assert "The interval excludes an effect of the paper's size." in text
    assert "would take" not in text


def test_one_seed_and_the_best_of_several():
    best = {"tood_af": (50.0,), "tood_alpha05_beta2": (49.0,), "tood_alpha05_beta4": (48.0,)}
    others = {"tood_alpha05_beta6": (47.0,), "tood_alpha10_beta8": (49.5,), "tood_alpha15_beta8": (47.0,)}
    found = said(ap(**best, **others))["C15: α = 1 and β = 6 are the best of Table 4"]
    assert "+0.5 AP, 1 seed; " in found
    assert "The pair that decides is `tood_af - tood_alpha10_beta8`. One seed has no interval." in found


def test_a_difference_beyond_a_margin_has_no_p_of_lying_within_it():
    found = said(ap(tood_af=(48.0, 49.0, 50.0), tood_ab=(40.0, 41.1, 42.0)))
    text = found["C14: Anchor-free and anchor-based TOOD are alike (within 0.5; tood\\_af − tood\\_ab)"]
    assert re.match(
        r"\*opposite: outside of the margin\*, \+8\.0 \(\S+ to \S+, 90% interval\) AP, 3 seeds", text
    )
    assert "Holm" not in text
    p = stats.t.sf((8.0 - 0.5) / stats.sem([8.0, 7.9, 8.0]), 2)
    assert f"That it lies outside of the margin has p {f'{p:.3f}'[1:] if p >= 0.001 else '<.001'} " in text


def test_the_papers_counts_are_of_other_images_and_no_effect_to_look_for():
    values = ap(tood_af=(939.0, 937.0, 936.0), atss_af=(940.0, 936.0, 938.0)).assign(metric="#Correct boxes")
    text = said(values)["C19: TOOD keeps more correct boxes than ATSS"]
    assert text.startswith(
        "*inconclusive*, −1 (−4 to +3) #Correct boxes, −0.1%, 3 seeds; the paper has +473, +1.6%."
    )
    assert "an effect of the paper's size" not in text
    assert "To see this effect" in text


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (["same direction"] * 3, "All 4 readings say the same."),
        (
            ["opposite", "inconclusive", "same direction", "opposite"],
            "The default reading says same direction; "
            "4 other readings: 1 same direction, 2 opposite, 1 inconclusive.",
        ),
    ],
)
def test_readings_are_counted_by_their_verdicts(others, sentence):
    judged = judge(CLAIMS, Evidence("mini", ap(tood_af=(48.0, 49.0, 50.0), atss_af=(40.0,) * 3)), TABLES)
    row = judged[judged["id"] == "tood_af"].to_dict("records")[0]
    looks = [row | {"reading": str(number), "direction": each} for number, each in enumerate(others)]
    assert findings(CLAIMS, pd.concat([judged, pd.DataFrame(looks)]), TABLES).strip().endswith(sentence)


@pytest.mark.parametrize("effect", [3.3, 1.7, 1.0])
def test_power_is_that_of_the_t_test(effect):
    """As statistics' tables have it: with SD 1, 3 seeds for 3.3, 5 for 1.7 and 10 for 1.0."""
    seeds = {3.3: 3, 1.7: 5, 1.0: 10}[effect]
    assert seeds_needed(effect, 1.0) == seeds
    assert seeds_needed(-2 * effect, 2.0) == seeds
    freedom, bound = seeds - 1, stats.t.ppf(0.975, seeds - 1)
    draws = stats.norm.rvs(effect, 1.0, size=(200_000, seeds), random_state=0)
    power = (abs(stats.ttest_1samp(draws, 0, axis=1).statistic) > bound).mean()
    assert freedom >= 1
    assert POWER - 0.01 < power < 0.95


def test_an_effect_that_no_number_of_seeds_would_show():
    assert seeds_needed(0.001, 1.0) is None
