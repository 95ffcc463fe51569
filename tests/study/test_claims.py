"""The paper's claims as they are declared."""

import pytest
import yaml

from tood.study.claims import CLAIMS, load_checks, load_claims
from tood.study.declarations import ExperimentError, load_runs, load_tables

RUNS = load_runs()
TABLES = load_tables(runs=RUNS)


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
        ({"number": 9}, r"claims: tood_af: number: follows from the place in the file"),
        ({"whole": "pcc"}, r"claims: tood_af: whole: 'pcc' is no claim on AP"),
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


def test_checks_name_studies_with_their_runs():
    """Those of docs/mini_plan.md."""
    found = {check.study: check.runs for check in load_checks("mini", RUNS)}
    cells = ("atss_af", "atss_af_thead", "tal", "tood_af")
    names = ("sweeps/mini_data_seed1", "sweeps/mini_data_seed2", "sweeps/mini_schedule3")
    photographs = found.pop("cells")
    assert found == dict.fromkeys(names, cells)
    assert set(photographs) == {*cells, "parallel_atss", "atss_ab", "tood_ab"}
    assert load_checks("birds", RUNS) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "images 2"}, "mini: 'images 2' is declared twice"),
        ({"runs": ["table9"]}, "mini: runs: unknown run 'table9'"),
        ({"runs": []}, r"mini: \d+: runs: .*at least 1 item"),
        ({"scale": "mini"}, r"mini: \d+: scale: unknown key"),
    ],
    ids=str,
)
def test_a_check_that_is_wrong_is_named(tmp_path, change, message):
    content = yaml.safe_load(CLAIMS.read_text())
    content["checks"]["mini"][0] |= change
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ExperimentError, match=rf"claims\.yaml: checks: {message}"):
        load_checks("mini", RUNS, path)
