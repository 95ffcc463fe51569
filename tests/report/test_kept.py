"""What is kept of studies, read from hand-made files."""

import pandas as pd
import pytest

from tood.report.kept import checks, kept, kept_evidence, kept_readings
from tood.runtime.files import DamagedFile

SIZES = "run,head_params_m,params_m,head_gflops,gflops\natss_af,1,2,3,4\n"


@pytest.fixture
def results(tmp_path):
    for name, content in {
        "mini/metrics.csv": "run,seed,metric,value,stale\ntal,0,AP,40.5,False\ntal,1,AP,41,True\n",
        "sweeps/mini_data_seed2/metrics.csv": "run,seed,metric,value,stale\ntal,3,AP,30,\n",
        "mini/table6_readings.csv": "run,seed,reading,metric,value\ntal,0,default,pcc,0.5\n",
        "paper/complexity.csv": SIZES,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_values_have_their_types(results):
    found = kept(results, "mini")
    assert found["seed"].to_list() == [0, 1]
    assert found["seed"].dtype == "Int64"
    assert found["stale"].to_list() == [False, True]
    assert found["stale"].dtype == bool
    assert kept(results, "absent").empty


def test_sizes_of_models_belong_to_the_comparable_scale_and_to_every_claim(results):
    assert set(kept(results, "mini")["metric"]) == {"AP"}
    assert "Full params (M)" in set(kept(results, "paper")["metric"])
    evidence = kept_evidence(results, "mini")
    assert {"AP", "Full params (M)"} <= set(evidence.metrics["metric"])
    assert (evidence.study, evidence.comparable) == ("mini", False)
    assert kept_evidence(results, "paper").comparable
    assert len(evidence.readings) == 1
    assert kept_readings(results, "paper").empty


def test_checks_have_the_values_that_are_there(results):
    found = {check.study: check.metrics for check in checks(results, "mini")}
    assert found["sweeps/mini_data_seed2"]["value"].to_list() == [30]
    assert not found["sweeps/mini_data_seed2"]["stale"].any()
    assert all(values.empty for study, values in found.items() if study != "sweeps/mini_data_seed2")
    assert checks(results, "smoke") == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", "run,metric\n"),
        ("metrics.csv", "run,seed,metric,value,stale\na,x,AP,1,False\n"),
        ("metrics.csv", ""),
        ("table6_readings.csv", "run,seed\n"),
    ],
)
def test_a_damaged_file_is_named(results, name, content):
    (results / "mini" / name).write_text(content)
    with pytest.raises(DamagedFile, match=name):
        kept_evidence(results, "mini")


def test_a_value_that_is_not_a_flag_of_staleness_is_stale(results):
    pd.DataFrame([("tal", 0, "AP", 1.0, "code")], columns=["run", "seed", "metric", "value", "stale"]).to_csv(
        results / "mini/metrics.csv", index=False
    )
    assert kept(results, "mini")["stale"].to_list() == [True]
