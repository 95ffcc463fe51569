"""The paper's claims: declared and checked, judged by a study's values, shown."""

import math

import pandas as pd
import pytest
import yaml

from tood.report.claims_table import judge, write_claims
from tood.study.claims import CLAIMS, load_claims
from tood.study.declarations import ExperimentError, load_runs, load_tables

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


def metrics(**values) -> pd.DataFrame:
    """AP of each run by seed."""
    rows = [(run, seed, "AP", value, "") for run, found in values.items() for seed, value in enumerate(found)]
    return pd.DataFrame(rows, columns=["run", "seed", "metric", "value", "stale"])


def judged(frame: pd.DataFrame, claim: str) -> dict:
    """One row."""
    return judge(DECLARED, frame, TABLES).set_index("id").loc[claim].to_dict()


def test_the_effects_in_the_paper_are_those_that_it_states():
    found = judge(DECLARED, metrics(), TABLES)
    assert dict(zip(found["id"], found["paper"], strict=True)) == pytest.approx(STATED, nan_ok=True)
    assert set(found["verdict"]) == {"pending"}
    assert found["ours"].isna().all()


def test_a_study_of_one_seed_shows_nothing():
    found = judged(metrics(tood_af=[40.0], atss_af=[30.0]), "tood_af")
    assert (found["ours"], found["seeds"], found["verdict"]) == (10, 1, "not shown")
    assert math.isnan(found["low"])


def test_paired_seeds_show_what_means_alone_would_not():
    # Seeds differ by far more than the detectors do.
    frame = metrics(tood_af=[41.0, 31.1, 21.0], atss_af=[40.0, 30.0, 20.0])
    found = judged(frame, "tood_af")
    assert (found["seeds"], found["verdict"]) == (3, "holds")
    assert found["ours"] == pytest.approx(3.1 / 3)
    assert judged(frame.assign(value=-frame["value"]), "tood_af")["verdict"] == "contradicted"


def test_stale_values_do_not_count():
    frame = metrics(tood_af=[41.0, 31.1, 21.0], atss_af=[40.0, 30.0, 20.0])
    frame.loc[0, "stale"] = "code"
    assert judged(frame, "tood_af")["seeds"] == 2
    frame["stale"] = "data"
    assert judged(frame, "tood_af")["verdict"] == "pending"


def test_an_interaction_and_the_best_of_several():
    frame = metrics(tood_af=[42.0, 42.1], atss_af_thead=[41.0, 41.0], tal=[40.0, 40.0], atss_af=[39.5, 39.5])
    assert judged(frame, "more_than_the_sum")["ours"] == pytest.approx(0.55)
    assert judged(frame, "alpha_beta")["verdict"] == "pending"
    others = {run.run: [41.0, 41.1] for run in TABLES["table4"].rows if run.run != "tood_af"}
    found = judged(metrics(tood_af=[42.0, 42.1], **others), "alpha_beta")
    assert (found["ours"], found["verdict"]) == (pytest.approx(1), "holds")


def test_parameters_need_no_seed():
    rows = [("atss_af", math.nan, 32.07), ("atss_af_thead", math.nan, 31.98)]
    frame = pd.DataFrame(rows, columns=["run", "seed", "value"]).assign(metric="Full params (M)", stale="")
    found = judged(frame, "t_head_parameters")
    assert (found["ours"], found["seeds"], found["verdict"]) == (pytest.approx(0.09), 0, "holds")


def test_the_files_show_verdicts_intervals_and_notes(tmp_path):
    frame = metrics(tood_af=[41.0, 31.1, 21.0], atss_af=[40.0, 30.0, 20.0], fovea=[3.0], fovea_thead=[4.0])
    write_claims(DECLARED, frame, TABLES, tmp_path, ["A note with 50% & more."])
    text = (tmp_path / "claims.md").read_text()
    lines = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    shown = lines["TOOD is better than ATSS, anchor-free"]
    assert "| holds | AP | +3.3 | +1.0 (+0.9 to +1.2) | 3 |" in shown
    assert (
        "| not shown | AP | +0.7 | +1.0 | 1 |" in lines["T-head is better than the parallel head in FoveaBox"]
    )
    assert "| pending | AP | +1.1 | – | 0 |" in lines["TAL assigns better than ATSS, with the parallel head"]
    assert "95% intervals by Student's t over paired seeds" in text
    assert "A note with 50% & more." in text
    assert r"50\% \& more" in (tmp_path / "claims.tex").read_text()
    assert list(pd.read_csv(tmp_path / "claims.csv")["id"]) == [claim.id for claim in DECLARED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "mAP"}, r"claims: tood_af: metric: 'mAP' is no column of table3: AP, AP50, AP75"),
        ({"table": "table33"}, r"claims: tood_af: table: 'table33' is none of "),
        ({"contrast": {"tood_aff": 1}}, r"claims: tood_af: unknown run 'tood_aff'; did you mean "),
        ({"contrast": {"paa": 1, "atss_af": -1}}, r"claims: tood_af: paa is in no row of table3"),
        ({"contrast": None}, r"claims: tood_af: write exactly one of contrast, best and alike"),
        ({"within": 1}, r"claims: tood_af: within belongs to alike"),
        ({"sektion": "4"}, r"claims: tood_af: sektion: unknown key"),
        ({"id": "tal"}, r"claims: tal: is declared twice"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    content = yaml.safe_load(CLAIMS.read_text())
    (claim,) = (claim for claim in content["claims"] if claim["id"] == "tood_af")
    claim |= change
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ExperimentError, match=rf"claims\.yaml: {message}"):
        load_claims(RUNS, TABLES, path)
