"""What a study measured: positives over a training, the frame of all values, and remarks below the tables."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers.losses import LOSSES, write_losses
from helpers.records import finish

from tood.ledger.curves import by_epoch
from tood.ledger.status import Result, Status
from tood.report.metrics import measured, of_sizes, positives, readings, remarks
from tood.report.tables import as_metrics, with_enough_objects
from tood.runtime.failures import State
from tood.runtime.files import write_json
from tood.study.declarations import Run, load_runs, load_tables
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

RUNS = load_runs()


def status(folder: Path, run: str | Run = "tood_af", **fields) -> Status:
    declared = RUNS[run] if isinstance(run, str) else run
    return replace(Status(run=declared, seed=3, folder=folder, state=State.DONE), **fields)


def test_losses_and_positives_by_epoch(tmp_path):
    path = write_losses(tmp_path / "losses.jsonl", *LOSSES)
    found = by_epoch(path)
    assert [epoch["epoch"] for epoch in found] == [1, 2, 3]
    assert [epoch["positives"] for epoch in found] == pytest.approx([(9 + 3 * 5) / 4, 2 * 4 / 6, 7])
    assert [epoch["positive_iou"] for epoch in found] == pytest.approx([(0.2 + 3 * 0.4) / 4, 0.5, 0.7])
    assert [epoch["loss"] for epoch in found] == [(1 + 2) / 2, (3 + 4 + 5) / 3, 6]
    path.write_text(path.read_text() + '{"epoch": 3.5, "iter')  # being written
    assert by_epoch(path) == found


def test_a_loss_log_without_any_object(tmp_path):
    (found,) = by_epoch(write_losses(tmp_path / "losses.jsonl", (1.0, 0, None, None)))
    assert (found["objects"], found["positives"], found["positive_iou"]) == (0, None, None)
    assert positives([found]) == []


def test_first_and_last_epoch_go_into_the_table(tmp_path):
    metrics = dict(positives(by_epoch(write_losses(tmp_path / "losses.jsonl", *LOSSES))))
    assert metrics == {
        "Positives (first)": pytest.approx(6.0),
        "IoU (first)": pytest.approx(0.35),
        "Positives (last)": pytest.approx(7.0),
        "IoU (last)": pytest.approx(0.7),
    }
    assert metrics.keys() == load_tables()["positives"].metrics.keys()


def test_a_training_without_a_loss_log_has_no_positives(tmp_path):
    assert positives(by_epoch(tmp_path / "losses.jsonl")) == []


def test_a_reconstruction_is_explained_below_its_table(tmp_path):
    run = RUNS["tood_af"].model_copy(update={"title": "TOOD, a reconstruction", "reconstruction": True})
    found = remarks(["atss_af", "tood_af"], [status(tmp_path, "atss_af"), status(tmp_path, run=run)])
    assert found == [
        "TOOD, a reconstruction: no code of its authors was published, so it was written from what is public "
        "about it; its result is not a reproduction of theirs."
    ]


def test_every_value_says_whether_it_is_stale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_losses(tmp_path / "losses.jsonl", (1.0, 2, 3.0, 0.5))
    results = {"ap.json": Result({"AP": 40.0}, ["settings", "evaluation"])}
    statuses = [
        status(tmp_path, results=results, report={"state": "done"}, training_stale=["settings"]),
        status(tmp_path, "atss_af", results={"ap.json": Result({"AP": 39.0}, [])}),
    ]
    frame = measured(Plan({}), statuses)
    found = frame.set_index(["run", "metric"])[["seed", "value", "stale"]].T.to_dict("list")
    assert found["tood_af", "AP"] == [3, 40.0, True]
    assert found["tood_af", "Positives (last)"] == [3, 3.0, True]
    assert found["atss_af", "AP"] == [3, 39.0, False]
    assert not {run for run, metric in found if metric.startswith("Positives")} - {"tood_af"}  # not done


def test_every_value_says_what_it_was_made_with(tmp_path, monkeypatch):
    """As the record has it, or else as the study asks for it."""
    monkeypatch.chdir(tmp_path)
    result = {"results": {"ap.json": Result({"AP": 40.0, "APM": 41.0}, [])}}
    made = {"settings": {"run": {"epochs": 36}, "train": {"lr": 0.3}}}
    plan = Plan({"scale": "mini", "name": "own", "data_seed": 7, "lr": 0.02})
    columns = ["study", "data_seed", "lr", "epochs"]
    for given, expected in (({"provenance": made}, ["own", 7, 0.3, 36]), ({}, ["own", 7, 0.02, 12])):
        frame = measured(plan, [status(tmp_path, **result, **given)])
        assert frame[columns].to_numpy().tolist() == [expected] * 2
        assert frame["objects"].isna().all()  # there is no record
    frame = measured(Plan({"scale": "paper", "data_root": "d", "name": "x"}), [status(tmp_path, **result)])
    assert frame.loc[0, "lr"] == 0.01  # of the configuration
    assert frame[["data_seed", "objects"]].isna().all(axis=None)


def test_the_objects_of_a_size_class_are_those_of_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan({"scale": "mini"})
    folder = StudyPaths("mini").run("tood_af", 3)
    write_json(folder.evaluated_images, [1])
    annotations = [{"image_id": 1, "area": 100.0, "iscrowd": 0}, {"image_id": 1, "area": 2000, "iscrowd": 0}]
    write_json(plan.data_root / "val.json", {"annotations": annotations})
    finish(plan, "tood_af", 3)
    frame = measured(plan, [status(tmp_path, results={"ap.json": Result({"AP": 9.0, "APM": 41.0}, [])})])
    assert frame.set_index("metric")["objects"].dropna().to_dict() == {"APM": 1}


def test_a_size_class_of_few_objects_is_not_shown():
    rows = [("APS", 100), ("APM", 99), ("APL", None), ("AP", None)]
    frame = as_metrics(pd.DataFrame(rows, columns=["metric", "objects"]).assign(value=40.0, run="tood_r101"))
    shown = with_enough_objects(frame).set_index("metric")["value"]
    assert shown.dropna().to_dict() == {"APS": 40.0, "AP": 40.0}
    (line,) = of_sizes(load_tables()["table5"], frame)
    assert line == "Not shown, as fewer than 100 objects have this size: APM, APL."
    assert of_sizes(load_tables()["table3"], frame) == []


def test_readings_are_those_of_runs_that_are_up_to_date(tmp_path):
    groups = {"before NMS": {"default": {"pcc": 0.5}}, "after NMS": {"crowd=drop": {"correct": 7}}}
    fresh = status(tmp_path, readings=groups)
    frame = readings([fresh, status(tmp_path, "atss_af", readings=groups, training_stale=["code"])])
    expected = [("tood_af", 3, "default", "pcc", 0.5), ("tood_af", 3, "crowd=drop", "correct", 7)]
    columns = ["run", "seed", "reading", "metric", "value"]
    pd.testing.assert_frame_equal(frame, pd.DataFrame(expected, columns=columns))
    assert list(readings([])) == columns


def test_remarks_name_what_stopped_and_what_is_stale_of_the_tables_own_runs(tmp_path):
    own = [row.run for row in load_tables()["table3"].rows]
    statuses = [
        status(tmp_path, own[0], state=State.DIVERGED, reason="the loss is nan"),
        status(tmp_path, own[1], training_stale=["code"]),
        replace(status(tmp_path, own[1], training_stale=["code", "data"]), seed=4),
        status(tmp_path, "tal", state=State.FAILED, reason="of another table"),
    ]
    assert "tal" not in own
    stopped, stale = remarks(own, statuses)
    assert stopped == f"{own[0]}, seed 3, diverged: the loss is nan"
    assert f"({own[1]}: code, data)" in stale
    assert remarks(own, [status(tmp_path, own[0])]) == []
