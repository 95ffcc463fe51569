"""Tables of a study: all for the scale's own data, of the user's data what was asked for."""

from tood.report.shown import asked_for, claims_of, table_names, tables_of
from tood.study.claims import load_claims
from tood.study.declarations import load_runs, load_tables
from tood.study.plan import Plan

RUNS = load_runs()
TABLES = load_tables(runs=RUNS)
CLAIMS = load_claims(RUNS, TABLES)
SWEEP = [row.run for name in ("table4", "table_m") for row in TABLES[name].rows]


def own(**options: object) -> Plan:
    return Plan({"name": "birds", "data_root": "birds", "train": "a.json:a", "val": "b.json:b"} | options)


def test_a_study_of_the_scales_data_has_every_table_with_every_row():
    plan = Plan({"runs": "tood_af"})
    assert not plan.own_data
    assert tables_of(plan, TABLES) == TABLES
    assert claims_of(plan, CLAIMS) == CLAIMS
    names = table_names(plan, TABLES)
    assert names[:3] == ["claims", "table1", "table2"]
    assert sorted(names) == sorted(["claims", *TABLES])


def test_data_of_coco_in_another_folder_are_the_scales():
    assert not Plan({"scale": "paper", "data_root": "elsewhere"}).own_data
    named = {"scale": "paper", "data_root": "x", "train": "annotations/instances_train2017.json:train2017"}
    assert not Plan(named).own_data
    assert Plan(named | {"train": "mine.json:train2017"}).own_data
    assert own().own_data


def test_own_data_have_nothing_of_the_paper_and_no_row_that_was_not_asked_for():
    plan = own(runs="tood_af,atss_af")
    assert asked_for(plan) == ["tood_af", "atss_af"]
    tables = tables_of(plan, TABLES)
    # AP alone, as in Tables 1 to 5, is in the table of methods.
    assert sorted(tables) == ["control", "positives", "table6"]
    for table in tables.values():
        assert not table.printed
        assert table.paper_set is None
        assert {row.run for row in table.rows} <= {"tood_af", "atss_af"}
    assert [row.run for row in tables["table6"].rows] == ["atss_af", "tood_af"]
    assert list(tables["table6"].metrics) == list(TABLES["table6"].metrics)
    assert [row.footnote for row in tables["table6"].rows] == [TABLES["table6"].rows[0].footnote, None]
    assert table_names(plan, TABLES) == ["methods", "claims", "table6", "control", "positives"]
    claims = claims_of(plan, CLAIMS)
    assert claims
    assert all(set(claim.runs) == {"tood_af", "atss_af"} for claim in claims)
    assert "t_head_parameters" not in {
        claim.id for claim in claims_of(own(runs="atss_af,atss_af_thead"), CLAIMS)
    }


def test_a_whole_sweep_stays_as_its_figures_are_drawn_from_it():
    tables = tables_of(own(runs=",".join(SWEEP)), TABLES)
    assert {"table4", "table_m"} <= set(tables)
    assert not any(row.footnote for row in tables["table_m"].rows)  # it is about the paper's value
    assert not {"table4", "table_m"} & set(tables_of(own(runs=",".join(SWEEP[1:-1])), TABLES))
