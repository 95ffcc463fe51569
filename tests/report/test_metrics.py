"""What a study measured: positives over a training, the frame of all values, and remarks below the tables."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from helpers.losses import LOSSES, write_losses

from tood.ledger.curves import by_epoch
from tood.ledger.status import Result, Status
from tood.report.metrics import measured, positives, readings, remarks
from tood.runtime.failures import State
from tood.study.declarations import Run, load_runs, load_tables

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


def test_every_value_carries_what_is_stale_of_it(tmp_path):
    write_losses(tmp_path / "losses.jsonl", (1.0, 2, 3.0, 0.5))
    results = {"ap.json": Result({"AP": 40.0}, ["settings", "evaluation"])}
    frame = measured(
        [
            status(tmp_path, results=results, report={"state": "done"}, training_stale=["settings"]),
            status(tmp_path, "atss_af", results={"ap.json": Result({"AP": 39.0}, [])}),
        ]
    )
    found = {(run, metric): (seed, value, stale) for run, seed, metric, value, stale in frame.to_numpy()}
    assert found["tood_af", "AP"] == (3, 40.0, "settings, evaluation")
    assert found["tood_af", "Positives (last)"] == (3, 3.0, "settings")
    assert found["atss_af", "AP"] == (3, 39.0, "")
    assert not {run for run, metric in found if metric.startswith("Positives")} - {"tood_af"}  # not done


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
