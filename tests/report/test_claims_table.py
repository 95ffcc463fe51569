"""The paper's claims judged by a study's values, by other readings and by other studies."""

import math
import re

import pandas as pd
import pytest

from tood.report.claims_table import headlines_markdown, verdict_with_welch, write_claims
from tood.report.evidence import Checked, Evidence, judge, read_judged, summary
from tood.report.forest import caption
from tood.report.readings import READINGS
from tood.study.claims import load_claims
from tood.study.declarations import load_runs, load_tables

RUNS = load_runs()
TABLES = load_tables(runs=RUNS)
DECLARED = load_claims(RUNS, TABLES)
# What sections 4.1 to 4.3 state in words, or what follows from the values that their tables print.
STATED = {
    "t_head_fovea": 0.7,
    "t_head_fcos": 1.9,
    "t_head_atss_ab": 1.8,
    "t_head_atss_af": 1.9,
    "t_head_parameters": 0.09,
    "t_head_flops": 4.08,
    "tal": 1.1,
    "tal_tap_paa": 1.6,
    "tood_af": 3.3,
    "tood_ab": 3.1,
    "tood_af_ap75": 4.2,
    "tood_ab_ap75": 3.3,
    "more_than_the_sum": 0.3,
    "anchors_alike": 0.1,
    "alpha_beta": 0.1,
    "m": 0.5,
    "pcc": 0.044,
    "iou": 0.024,
    "correct": 473,
    "redundant": 10186,
    "error": 23664,
    "head_alone": math.nan,  # the paper has no such run
    "assignment_alone": math.nan,
    "redundant_by_tal": 5911,
    "dcn": 0.7,
}
BETTER = {"tood_af": [41.0, 31.1, 21.0], "atss_af": [40.0, 30.0, 20.0]}  # by 1, 1.1 and 1
NAME = "TOOD is better than ATSS, anchor-free"


def metrics(metric: str = "AP", **values) -> pd.DataFrame:
    """A metric of each run by seed."""
    rows = [
        (run, seed, metric, value, False) for run, found in values.items() for seed, value in enumerate(found)
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "metric", "value", "stale"])


def readings(**differences) -> pd.DataFrame:
    """PCC of TOOD by reading and seed, where that of ATSS is .5."""
    rows = [
        (run, seed, reading, "pcc", 0.5 + (run == "tood_af") * value)
        for reading, found in differences.items()
        for seed, value in enumerate(found)
        for run in ("tood_af", "atss_af")
    ]
    return pd.DataFrame(rows, columns=READINGS)


def judged(evidence: Evidence | pd.DataFrame, claim: str) -> dict:
    """The row of a claim that the tables show."""
    evidence = evidence if isinstance(evidence, Evidence) else Evidence(metrics=evidence)
    return summary(judge(DECLARED, evidence, TABLES)).set_index("id").loc[claim].to_dict()


def test_the_effects_in_the_paper_are_those_that_it_states():
    found = summary(judge(DECLARED, Evidence(), TABLES))
    assert dict(zip(found["id"], found["paper"], strict=True)) == pytest.approx(STATED, nan_ok=True)
    assert set(found["verdict"]) == {"pending"}
    assert found["mean"].isna().all()


def test_a_study_of_one_seed_is_inconclusive():
    found = judged(metrics(tood_af=[40.0], atss_af=[30.0]), "tood_af")
    assert (found["mean"], found["seeds"], found["verdict"]) == (10, 1, "inconclusive")
    assert all(math.isnan(found[name]) for name in ("sd", "low", "welch_low", "p", "holm_p"))
    assert found["robustness"] == ""


def test_paired_seeds_show_what_welchs_interval_does_not():
    # Seeds differ by far more than the detectors do.
    frame = metrics(**BETTER)
    found = judged(frame, "tood_af")
    assert (found["seeds"], found["verdict"]) == (3, "same direction")
    assert found["mean"] == pytest.approx(3.1 / 3)
    assert [found[f"seed{seed}"] for seed in range(3)] == pytest.approx([1, 1.1, 1])
    assert (found["contrast"], found["welch_direction"]) == ("tood_af - atss_af", "inconclusive")
    assert found["robustness"] == "Welch: inconclusive"
    assert judged(frame.assign(value=-frame["value"]), "tood_af")["verdict"] == "opposite"


def test_claims_hold_only_where_numbers_are_comparable():
    frame = metrics(**BETTER)
    assert judged(Evidence(metrics=frame, comparable=True), "tood_af")["verdict"] == "holds"
    frame["value"] *= -1
    assert judged(Evidence(metrics=frame, comparable=True), "tood_af")["verdict"] == "contradicted"


def test_stale_values_do_not_count():
    frame = metrics(**BETTER)
    frame.loc[0, "stale"] = True
    assert judged(frame, "tood_af")["seeds"] == 2
    frame["stale"] = True
    assert judged(frame, "tood_af")["verdict"] == "pending"


def test_an_interaction_and_the_best_of_several():
    frame = metrics(tood_af=[42.0, 42.1], atss_af_thead=[41.0, 41.0], tal=[40.0, 40.0], atss_af=[39.5, 39.5])
    found = judged(frame, "more_than_the_sum")
    assert found["mean"] == pytest.approx(0.55)
    assert found["contrast"] == "tood_af - atss_af_thead - tal + atss_af"
    assert judged(frame, "alpha_beta")["verdict"] == "pending"
    others = {run.run: [41.0, 41.1] for run in TABLES["table4"].rows if run.run != "tood_af"}
    found = judged(metrics(tood_af=[42.0, 42.1], **others), "alpha_beta")
    assert (found["mean"], found["verdict"]) == (pytest.approx(1), "same direction")


def test_the_best_of_several_needs_no_adjustment():
    """Student's interval of 1, 2, 3, 4, 5 begins at 1.04; widened by Bonferroni's rule it would have 0."""
    others = {run.run: [40.0] * 5 for run in TABLES["table4"].rows if run.run != "tood_af"}
    frame = judge(DECLARED, Evidence(metrics=metrics(tood_af=range(41, 46), **others)), TABLES)
    of_claim = frame[frame["id"] == "alpha_beta"]
    assert len(of_claim) == 5
    assert of_claim["low"].to_list() == pytest.approx([3 - 2.776 * math.sqrt(0.5)] * 5, abs=1e-3)
    assert set(of_claim["verdict"]) == {"same direction"}
    others["tood_alpha10_beta8"] = [40.0, 40.0, 40.0, 40.0, 46.0]
    assert judged(metrics(tood_af=range(41, 46), **others), "alpha_beta")["verdict"] == "inconclusive"


def test_settings_are_compared_on_the_seeds_that_all_of_them_have():
    others = {run.run: [40.0, 40.1] for run in TABLES["table_m"].rows if run.run != "tood_af"}
    frame = judge(DECLARED, Evidence(metrics=metrics(tood_af=[40.0, 40.1, 90.0], **others)), TABLES)
    of_claim = frame[frame["id"] == "m"]
    assert len(of_claim) == 10  # pairs of five settings
    assert set(of_claim["seeds"]) == {2}
    assert of_claim["mean"].abs().max() < 1e-9
    assert set(of_claim["verdict"]) == {"same direction"}


def test_within_a_margin_is_two_one_sided_tests():
    """0, .2, .4 have a 90 % interval of .2 -+ 2.920 * .2 / sqrt(3), to .537, and a 95 % one to .697."""
    frame = metrics(tood_af=[40.0, 40.2, 40.4], tood_ab=[40.0] * 3)
    found = judged(frame, "anchors_alike")
    assert found["high"] == pytest.approx(0.2 + 2.920 * 0.2 / math.sqrt(3), abs=1e-3)
    assert (found["verdict"], found["p"] > 0.05) == ("inconclusive", True)
    frame["value"] = 40 + (frame["value"] - 40) / 1.2  # to .448, where a 95 % interval would reach .581
    found = judged(frame, "anchors_alike")
    assert (found["verdict"], found["p"] < 0.05) == ("same direction", True)


def test_holms_adjustment_is_over_the_studys_own_contrasts():
    frame = pd.concat(
        [
            metrics(**BETTER),
            metrics("AP75", **BETTER),
            metrics("IoU (top-10)", tood_af=[1, 2], atss_af=[0, 0]),
        ]
    )
    check = Checked("again", "other", ["tood_af", "atss_af"], metrics(**BETTER))
    judgement = judge(DECLARED, Evidence(metrics=frame, checks=[check]), TABLES)
    own = summary(judgement).set_index("id")
    p = own["p"].dropna()
    assert list(p.index) == ["tood_af", "tood_af_ap75", "iou"]
    # Two are the same, and the third is larger: three times the smallest, then at least that.
    assert own.loc[p.index, "holm_p"].to_list() == pytest.approx([3 * p.iloc[0]] * 2 + [p.iloc[2]])
    assert judgement.loc[judgement["check"] == "again", "holm_p"].isna().all()


def test_a_verdict_depends_on_the_reading():
    base = metrics("PCC (top-50)", tood_af=[0.51, 0.512, 0.511], atss_af=[0.5] * 3)
    same, opposite = [0.02, 0.021, 0.022], [-0.02, -0.021, -0.022]
    given = {
        "default": [9.0] * 3,
        "a": same,
        "b": [0.1, -0.1, 0.0],
        "same as the default": [0.01, 0.012, 0.011],
    }
    given["same as the default"] = [value - 0.5 for value in (0.51, 0.512, 0.511)]
    found = judged(Evidence(metrics=base, readings=readings(**given)), "pcc")
    assert found["verdict"] == "same direction"
    assert found["robustness"] == "Welch: same direction; 2 other readings: 1 same direction, 1 inconclusive"
    found = judged(Evidence(metrics=base, readings=readings(**given, c=opposite)), "pcc")
    assert found["verdict"] == "depends on the reading"
    counted = "3 other readings: 1 same direction, 1 opposite, 1 inconclusive"
    assert found["robustness"] == f"Welch: same direction; {counted}"
    assert found["mean"] == pytest.approx(0.011)  # of the default, which the tables show


def test_readings_in_another_study_are_named_and_do_not_decide():
    name, above = "PCC (top-50)", {"tood_af": [0.51, 0.512, 0.511], "atss_af": [0.5] * 3}
    # Paired differences of .01, .012 and .011 between seeds that lie far apart
    apart = {"tood_af": [0.31, 0.512, 0.711], "atss_af": [0.3, 0.5, 0.7]}
    there = readings(default=[9.0] * 3, a=[-0.02, -0.021, -0.022], b=[0.02, 0.021, 0.022])
    check = Checked("cells", "three", ["tood_af", "atss_af"], metrics(name, **apart), there)
    evidence = Evidence(study="own", metrics=metrics(name, **above), checks=[check])
    found = judged(evidence, "pcc")
    assert found["verdict"] == "same direction"
    assert found["robustness"] == (
        "Welch: same direction; cells: same direction "
        "(Welch: inconclusive, 2 other readings: 1 same direction, 1 opposite)"
    )
    rows = judge(DECLARED, evidence, TABLES)
    of_claim = rows[(rows["id"] == "pcc") & (rows["check"] == "cells")]
    assert of_claim["reading"].to_list() == ["default", "a", "b"]
    assert of_claim["mean"].to_list() == pytest.approx([0.011, -0.021, 0.021])


def test_counts_are_also_shown_in_percent_of_the_run_compared_with(tmp_path):
    """By hand: 50 and 70 fewer than 200 and 400 are 60 fewer than 300; the paper has 25,428 - 15,242."""
    frame = metrics("#Redundant boxes", atss_af=[200, 400], tood_af=[150, 330])
    found = judged(frame, "redundant")
    assert (found["mean"], found["base"], found["paper_base"]) == (60, 300, 25428)
    write_claims(DECLARED, Evidence(metrics=frame), TABLES, tmp_path, [])
    text = (tmp_path / "claims.md").read_text()
    assert re.search(r"\| \+10,186; \+40\.1% \| \+60 \(−67 to \+187\); \+20\.0% \|", text)
    assert "in percent of the number of boxes" in text


def test_of_no_boxes_there_is_no_percentage(tmp_path):
    frame = metrics("#Redundant boxes", atss_af=[0, 0], tood_af=[1, 3])
    write_claims(DECLARED, Evidence(metrics=frame), TABLES, tmp_path, [])
    text = (tmp_path / "claims.md").read_text()
    assert re.search(r"\| \+10,186; \+40\.1% \| −2 \(−15 to \+11\) \|", text)


def test_other_studies_are_looked_at_where_they_have_the_runs():
    pair = ["tood_af", "atss_af"]
    worse = {"tood_af": BETTER["atss_af"], "atss_af": BETTER["tood_af"]}
    checks = [
        Checked("images", "one", pair, metrics(**worse)),
        Checked("epochs", "two", [*pair, "tal"], metrics()),
        Checked("cells", "three", ["tal"], metrics(**BETTER)),
    ]
    evidence = Evidence(study="own", metrics=metrics(**BETTER), checks=checks)
    found = judged(evidence, "tood_af")
    robustness = "Welch: inconclusive; images: opposite (Welch: inconclusive)"  # epochs are pending
    assert found["robustness"] == robustness
    assert found["verdict"] == "depends on the reading"
    rows = judge(DECLARED, evidence, TABLES)
    of_claim = rows[rows["id"] == "tood_af"]
    assert of_claim[["study", "check", "seeds"]].to_numpy().tolist() == [
        ["own", "", 3],
        ["one", "images", 3],
        ["two", "epochs", 0],
    ]
    assert of_claim["mean"].to_list()[:2] == pytest.approx([3.1 / 3, -3.1 / 3])


def test_parameters_need_no_seed():
    rows = [("atss_af", math.nan, 32.07), ("atss_af_thead", math.nan, 31.98)]
    frame = pd.DataFrame(rows, columns=["run", "seed", "value"]).assign(metric="Full params (M)", stale=False)
    checks = [Checked("images", "one", ["atss_af", "atss_af_thead"], metrics())]
    found = judged(Evidence(metrics=frame, checks=checks), "t_head_parameters")
    assert (found["mean"], found["seeds"]) == (pytest.approx(0.09), 0)
    assert (found["verdict"], found["robustness"]) == ("same direction", "")


def test_a_claim_has_the_number_of_its_place_in_the_file():
    chosen = [claim for claim in DECLARED if claim.id in ("tood_af", "correct")]
    found = judge(chosen, Evidence(metrics=metrics(**BETTER)), TABLES)
    places = {claim.id: f"C{place}" for place, claim in enumerate(DECLARED, 1)}
    assert dict(zip(found["id"], found["number"], strict=True)) == {
        claim.id: places[claim.id] for claim in chosen
    }


# By hand: together 2 below ATSS, alone 4 and 7 below; so 9 more than the sum of each alone.
PARTS = {"tood_af": [38.1, 38.0, 37.9], "atss_af_thead": [36.0] * 3, "tal": [33.0] * 3, "atss_af": [40.0] * 3}
WHOLE = '"TOOD is better than ATSS, anchor-free" has'


def test_more_than_the_sum_of_losses_is_said_to_be_a_loss(tmp_path):
    found = judged(metrics(**PARTS), "more_than_the_sum")
    assert (found["mean"], found["verdict"]) == (pytest.approx(9), "same direction")
    loss = f"They lose together: {WHOLE} −2.0 (−2.2 to −1.8) AP. The sum of each alone is −11.0."
    assert found["note"] == loss
    write_claims(DECLARED, Evidence(metrics=metrics(**PARTS)), TABLES, tmp_path, [])
    text = (tmp_path / "claims.md").read_text()
    assert "T-head and TAL together gain more than the sum of each alone<sup>a</sup> |" in text
    assert f"\n\n<sup>a</sup> {loss}\n\n" in text
    assert r"alone\textsuperscript{a} &" in (tmp_path / "claims.tex").read_text()
    path = tmp_path / "claims.csv"
    assert "C13: They lose together: " in caption(read_judged(path))
    pd.read_csv(path).drop(columns="note").to_csv(path)  # as an earlier version wrote it
    assert "together: " not in caption(read_judged(path))
    judgement = judge(DECLARED, Evidence(metrics=metrics(**PARTS)), TABLES)
    assert f"<sup>a</sup> {loss}" in headlines_markdown(DECLARED, judgement, TABLES, "Headlines.")


def test_a_whole_that_gains_needs_no_note_and_other_studies_have_their_own():
    gain = PARTS | {"tood_af": [42.1, 42.0, 41.9]}
    assert judged(metrics(**gain), "more_than_the_sum")["note"] == ""
    open_ = PARTS | {"tood_af": [42.1, 40.0, 38.9]}
    note = judged(metrics(**open_), "more_than_the_sum")["note"]
    assert note.startswith(f"They do not clearly gain together: {WHOLE} +0.3 (")
    check = Checked("photographs", "cells", list(PARTS), metrics(**PARTS))
    note = judged(Evidence(metrics=metrics(**gain), checks=[check]), "more_than_the_sum")["note"]
    assert note.startswith(f"In another study, photographs, they lose together: {WHOLE} −2.0 ")
    one = {run: values[:1] for run, values in PARTS.items()}
    assert judged(metrics(**one), "more_than_the_sum")["note"] == ""  # one seed has no verdict


def test_what_holms_correction_takes_away_is_marked_at_the_verdict(tmp_path):
    """Differences of 1, 1.5 and 2 have t = 5.196 with 2 degrees of freedom: p = .0351; of two, .0702."""
    better, baseline = [41.0, 41.5, 42.0], {"atss_af": [40.0] * 3}
    for runs, mark in (({"tood_af": better}, ""), ({"tood_af": better, "tal": better}, "<sup>a</sup>")):
        write_claims(DECLARED, Evidence(metrics=metrics(**runs, **baseline)), TABLES, tmp_path, [])
        text = (tmp_path / "claims.md").read_text()
        holm = ".070" if mark else ".035"
        assert f"| same direction{mark} | AP | +3.3 | +1.5 (+0.3 to +2.7) | 3 | 0.5 | .035 | {holm} |" in text
        assert text.count("<sup>a</sup> Not significant after Holm's correction") == bool(mark)


def test_the_files_show_verdicts_intervals_and_notes(tmp_path):
    frame = metrics(**BETTER, fovea=[3.0], fovea_thead=[4.0])
    write_claims(DECLARED, Evidence(metrics=frame), TABLES, tmp_path, ["A note with 50% & more."])
    text = (tmp_path / "claims.md").read_text()
    lines = {
        line.split(" | ")[0][2:].partition(": ")[2]: line
        for line in text.splitlines()
        if line.startswith("| ")
    }
    verdict = "same direction (by Welch: inconclusive)"
    assert f"| {verdict} | AP | +3.3 | +1.0 (+0.9 to +1.2) | 3 | 0.1 | .001 | .001 |" in lines[NAME]
    one_seed = lines["T-head is better than the parallel head in FoveaBox"]
    assert "| inconclusive | AP | +0.7 | +1.0 | 1 | – | – | – | – | 4.1 |" in one_seed
    assert "| pending | AP | +1.1 | – | 0 |" in lines["TAL assigns better than ATSS, with the parallel head"]
    assert "95%, by Student's t over paired seeds; 90% where a claim has a margin" in text
    assert "| C9: TOOD is better than ATSS, anchor-free |" in text
    assert "(within 0.5; tood\\_af − tood\\_ab)" in text
    assert r"(within 0.5; tood\_af $-$ tood\_ab)" in (tmp_path / "claims.tex").read_text()
    assert "Robustness:" not in text  # nothing else was looked at
    assert "A note with 50% & more." in text
    assert r"50\% \& more" in (tmp_path / "claims.tex").read_text()
    written = pd.read_csv(tmp_path / "claims.csv")
    assert list(written["id"].drop_duplicates()) == [claim.id for claim in DECLARED]
    assert written.groupby("id", sort=False).size().to_list() == [len(claim.contrasts) for claim in DECLARED]
    row = written.set_index("id").loc["tood_af"]
    assert row[["seed0", "seed1", "seed2"]].to_list() == pytest.approx([1, 1.1, 1])


def test_a_line_says_what_else_was_looked_at_and_what_is_pending(tmp_path):
    pair = ["tood_af", "atss_af"]
    checks = [
        Checked("images 1", "one", pair, metrics(**BETTER)),
        Checked("36 epochs", "two", pair, metrics()),
    ]
    write_claims(DECLARED, Evidence("mini", metrics(**BETTER), checks=checks), TABLES, tmp_path, [])
    text = (tmp_path / "claims.md").read_text()
    assert "images 1, another draw of the images; 36 epochs, three times the epochs." in text
    assert "Not trained yet: 36 epochs." in text


def test_of_runs_that_are_alike_it_is_said_on_which_side_of_the_margin():
    for difference, said in (
        (5, "opposite: outside of the margin"),
        (0, "same direction: inside of the margin"),
    ):
        found = judged(
            metrics(tood_af=[40.0, 40.1], tood_ab=[40.0 - difference, 40.1 - difference]), "anchors_alike"
        )
        assert verdict_with_welch(found) == said
