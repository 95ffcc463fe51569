"""Records: what they keep, when they stand for a training, and that nobody edits one unseen."""

import hashlib
import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
from helpers.layouts import write_voc
from helpers.records import MANIFEST, finish

from tood.data.conversion import convert
from tood.data.validation import check_dataset
from tood.ledger import records, status
from tood.ledger.code_digest import import_closure
from tood.ledger.curves import by_epoch
from tood.ledger.provenance import data_digest
from tood.ledger.records import DRAWN_BY, objects_by_size, read_record, write_record
from tood.ledger.standing import recorded
from tood.ledger.status import known_status, read_status, status_with_records
from tood.ledger.study_jobs import deciding_code
from tood.report.metrics import write_results
from tood.runtime.files import read_json, write_json
from tood.study.declarations import ExperimentError, load_tables
from tood.study.paths import StudyPaths
from tood.study.plan import Plan
from tood.workflow import stages as workflow

TABLES = load_tables()
STUDY = {"scale": "mini", "runs": "atss_af,tood_af,fcos", "seeds": "0,1"}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish_all(plan: Plan) -> list[Path]:
    return [finish(plan, run, seed) for run, seed in plan.trainings]


def elsewhere() -> None:
    """As in a clone: what is kept is here, what can be made again is not."""
    shutil.rmtree("work")


# What is kept


def test_a_record_keeps_what_was_measured_and_how_it_was_made(folder):
    plan = Plan(STUDY)
    path = finish(plan, "tood_af", 1)
    paths, record = StudyPaths("mini").run("tood_af", 1), read_record(path)
    for measured in (paths.alignment, paths.alignment_variants):
        assert record.files[measured.name] == read_json(measured)
    assert record.files["ap.json"]["AP"] == 46.0
    assert record.epochs == by_epoch(paths.losses)
    assert len(record.epochs) == 3
    assert record.provenance["digests"] == read_json(paths.provenance)["digests"]
    found = dict(record.best_anchors)
    share = found.pop("share")
    assert found == {
        "objects": 4,
        "without": 1,
        "distance": pytest.approx(0.55 / 3),
        "classified": pytest.approx(0.6),
        "localised": pytest.approx(0.8),
    }
    assert share[:2] == [0.25, 0.5]
    assert share[5] == share[-1] == 0.75
    assert len(share) == 21


def test_a_record_is_small_and_says_nothing_of_the_machines_folders(folder):
    text = finish(Plan(STUDY), "tood_af", 0).read_text()
    assert len(text) < 10_000
    assert "work/" not in text
    assert '"here"' not in text
    assert "config" not in json.loads(text)["files"]["provenance.json"]


def test_there_may_be_none(folder):
    assert read_record(Path("results/mini/runs/tood_af/seed0.json")) is None


def edit(text: str) -> str:
    return text.replace("45.0", "54.0")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edit, "its content does not fit its checksum: it was edited or damaged"),
        (lambda text: text[:-100], "it is no record (JSONDecodeError"),
        (lambda text: "{}", "it is no record (KeyError: 'checksum')"),
        (lambda text: "[1]", "it is no record ("),
    ],
)
def test_one_that_is_not_what_was_written_stops_everything(folder, damage, said):
    plan = Plan(STUDY)
    path = finish(plan, "tood_af", 0)
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    elsewhere()
    for call in (
        lambda: read_record(path),
        lambda: recorded(plan, TABLES),
        lambda: write_results(plan, Path("none.csv")),
    ):
        with pytest.raises(ExperimentError, match=re.escape(f"{path}: {said}")) as caught:
            call()
        assert f"git checkout -- {path}" in str(caught.value)


def test_one_in_the_place_of_another_stops_everything(folder):
    path = finish(Plan(STUDY), "tood_af", 0)
    other = path.with_name("seed1.json")
    shutil.copy(path, other)
    with pytest.raises(ExperimentError, match="is of tood_af, seed 0, and lies in another's place"):
        read_record(other)


def test_one_of_another_version(folder, monkeypatch):
    path = finish(Plan(STUDY), "tood_af", 0)
    monkeypatch.setattr(records, "VERSION", 2)
    with pytest.raises(ExperimentError, match="of another version, 1, than this suite's 2"):
        read_record(path)


# When it stands for the training


def test_in_a_clone_records_stand_for_all_and_tables_are_the_same(folder):
    plan = Plan(STUDY)
    finish_all(plan)
    write_results(plan, Path("none.csv"))
    assert recorded(plan, TABLES) == {}  # trained here
    kept = {path: path.read_bytes() for path in Path("results").rglob("*.*")}
    tables = [path for path in kept if path.parent.name == "tables"]
    assert b"46.0" not in kept[Path("results/mini/tables/table6.md")]  # Table 6 shows no AP
    assert b"45.5" in kept[Path("results/mini/tables/table3.md")]
    elsewhere()
    for path in tables:
        path.unlink()
    assert set(recorded(plan, TABLES)) == set(plan.trainings)
    assert {one.state for one in known_status(plan)} == {"done"}
    write_results(plan, Path("none.csv"))
    assert {path: path.read_bytes() for path in Path("results").rglob("*.*")} == kept


def test_the_summary_says_so(folder):
    plan = Plan(STUDY)
    finish_all(plan)
    elsewhere()
    said = workflow.describe_study(plan, recorded(plan, TABLES), status_with_records(plan))
    assert "6 of 6 trainings are taken from the records in results/mini/runs; fresh=true trains" in said
    assert "stale" not in said


@pytest.mark.parametrize("part", ["code", "settings", "data"])
def test_one_with_other_digests_is_stale_and_never_used_silently(folder, part):
    plan = Plan(STUDY)
    finish_all(plan)
    finish(plan, "tood_af", 0, **{part: "other"})
    manifest = StudyPaths("mini").manifest
    elsewhere()
    write_json(manifest, MANIFEST | {"root": str(plan.data_root)})
    found = read_status(plan, "tood_af", 0)
    assert (found.state, found.stale) == ("stale", [part])
    standing = recorded(plan, TABLES)
    assert set(standing) == set(plan.trainings) - {("tood_af", 0)}
    said = workflow.describe_study(plan, standing, status_with_records(plan))
    assert f"1 records are stale: made with other {part} than now" in said
    write_results(plan, Path("none.csv"))
    table = Path("results/mini/tables/table3.md").read_text()
    assert "(stale)" in table
    assert rf"(tood\_af: {part})" in table


def test_a_changed_head_makes_its_records_stale(folder, monkeypatch):
    """The digest of code is that of the head's file; tests/ledger/test_code_digest.py edits files."""
    plan = Plan(STUDY)
    finish_all(plan)
    elsewhere()
    monkeypatch.setattr(
        status, "deciding_code", lambda plan, run: "new" if run == "tood_af" else deciding_code(plan, run)
    )
    assert {run for run, _ in recorded(Plan(STUDY), TABLES)} == {"atss_af", "fcos"}


def test_measured_otherwise_is_stale(folder, monkeypatch):
    plan = Plan(STUDY)
    finish_all(plan)
    elsewhere()
    monkeypatch.setattr(status, "evaluation_digest", lambda name, images: "new")
    assert recorded(plan, TABLES) == {}


def test_unchecked_data_count_while_they_would_be_drawn_the_same(folder):
    plan = Plan(STUDY)
    finish_all(plan)
    elsewhere()
    assert read_status(plan, "fcos", 0).state == "done"
    other = Plan(STUDY | {"data_seed": 3, "name": "mine"})
    assert recorded(other, TABLES) == {}  # the scale's records are of other images
    assert read_status(other, "fcos", 0).state == "pending"


def test_unchecked_data_count_while_their_annotations_are_the_same(folder, photographs):
    study = {"scale": "paper", "runs": "fcos", "data_root": str(photographs), "device": "cpu"}
    plan = Plan(study)
    splits = {
        name: {
            "images": 1,
            "annotation_file": name,
            "image_folder": name,
            "sha256": records.hashlib.sha256(text).hexdigest(),
            "image_digest": "",
        }
        for name, split in plan.splits.items()
        if (text := (photographs / split.annotations).read_bytes())
    }
    original = dict(MANIFEST["splits"])
    MANIFEST["splits"].update(splits)
    try:
        finish(plan, "fcos", 0)
    finally:
        MANIFEST["splits"].update(original)
    elsewhere()
    assert read_status(plan, "fcos", 0).state == "done"
    moved = shutil.copytree(photographs, folder / "moved")
    assert read_status(Plan(study | {"data_root": str(moved)}), "fcos", 0).state == "done"
    annotations = moved / plan.scale.train.annotations
    annotations.write_text(annotations.read_text() + " ")
    assert read_status(Plan(study | {"data_root": str(moved)}), "fcos", 0).stale == ["data"]
    absent = study | {"data_root": str(folder / "none")}
    assert read_status(Plan(absent), "fcos", 0).state == "done"  # nothing speaks against it
    # A study of another name has no reason to believe that its data are the same.
    assert read_status(Plan(absent | {"name": "mine"}), "fcos", 0).state == "pending"
    assert read_status(Plan(study | {"name": "mine"}), "fcos", 0).state == "done"


def converted(folder):
    """A dataset in VOC's layout, the options of a study on it, and its plan, once the data are converted."""
    root = write_voc(folder / "voc")
    study = {"scale": "mini", "name": "mine", "runs": "fcos", "seeds": 0, "data_root": str(root)}
    plan = Plan(study)
    convert(plan.conversion, plan.data_root, plan.sources)
    return root, study, plan


def test_unchecked_data_count_while_they_are_converted_from_the_same(folder):
    root, study, plan = converted(folder)
    assert read_record(finish(plan, "fcos", 0)).converted == plan.sources != ""
    elsewhere()
    assert read_status(Plan(study), "fcos", 0).state == "done"
    moved = shutil.copytree(root, folder / "moved")
    assert read_status(Plan(study | {"data_root": str(moved)}), "fcos", 0).state == "done"
    (moved / "Annotations/plain.xml").write_text("<annotation/>")
    assert read_status(Plan(study | {"data_root": str(moved)}), "fcos", 0).stale == ["data"]
    absent = study | {"data_root": str(folder / "none"), "train": "train", "val": "val"}
    assert read_status(Plan(absent), "fcos", 0).state == "done"  # nothing speaks against it
    # A study of another name has no reason to believe that its data are the same.
    shutil.move("results/mine", "results/mini")
    assert read_status(Plan(absent | {"name": "other"}), "fcos", 0).state == "pending"
    assert read_status(Plan(study | {"name": "other"}), "fcos", 0).state == "done"


def test_converted_data_do_not_count_as_checked_when_their_sources_change(folder):
    """The converted files are those that were checked until they are converted again."""
    root, study, plan = converted(folder)
    checked = check_dataset(plan.data_root, plan.splits["train"], plan.splits["val"])
    finish(plan, "fcos", 0, data=data_digest(checked))
    shutil.rmtree(StudyPaths("mine").run("fcos", 0).folder)
    write_json(StudyPaths("mine").manifest, checked | {"root": str(plan.data_root)})
    assert read_status(Plan(study), "fcos", 0).stale == []
    (root / "Annotations/plain.xml").write_text("<annotation/>")
    assert read_status(Plan(study), "fcos", 0).stale == ["data"]


def test_checked_data_of_another_place_or_content_do_not_count_as_checked(folder, photographs):
    """A record of other data would otherwise stand for a training on these. Times say nothing."""
    root = shutil.copytree(photographs, folder / "photographs")
    plan = Plan({"scale": "paper", "runs": "fcos", "data_root": str(root), "device": "cpu"})
    manifest = StudyPaths("paper").manifest
    checked = check_dataset(root, plan.splits["train"], plan.splits["val"])
    path = finish(plan, "fcos", 0, data=data_digest(checked))
    shutil.rmtree(StudyPaths("paper").run("fcos", 0).folder)
    assert path.is_file()

    def stale(at: Path, content: dict = checked) -> list[str]:
        write_json(manifest, content | {"root": str(at)})
        return read_status(plan, "fcos", 0).stale

    assert stale(root) == []
    assert stale(folder / "others") == ["data"]
    for time in (0, 2**32):
        os.utime(manifest, (time, time))
        assert stale(root) == []
        os.utime(root / plan.splits["train"].annotations, (time, time))
        assert stale(root) == []
    old = {key: checked[key] for key in ("categories", "splits")}  # of a version that kept no times
    assert stale(root, old) == []
    annotations = root / plan.splits["train"].annotations
    annotations.write_text(annotations.read_text() + " ")
    assert stale(root) == ["data"]
    assert stale(root, old) == ["data"]


def test_fresh_trains_all_the_same(folder):
    finish_all(Plan(STUDY))
    elsewhere()
    plan = Plan(STUDY | {"fresh": True})
    assert recorded(plan, TABLES) == {}
    assert {one.state for one in known_status(plan)} == {"pending"}
    part = Plan(STUDY | {"fresh": True, "runs": "fcos"})  # others are shown beside it
    assert {(one.run.id, one.state) for one in known_status(part)} == {
        ("fcos", "pending"),
        ("atss_af", "done"),
        ("tood_af", "done"),
    }


def test_a_study_of_another_name_takes_those_of_its_scale(folder):
    finish_all(Plan(STUDY))
    elsewhere()
    plan = Plan(STUDY | {"name": "mine"})
    found = recorded(plan, TABLES)
    assert found["fcos", 1] == StudyPaths("mini").record("fcos", 1)
    assert len(found) == 6
    assert recorded(Plan(STUDY | {"name": "mine", "batch_size": 4}), TABLES) == {}


def test_what_was_trained_here_counts_more_than_a_record_unless_it_is_stale(folder):
    plan = Plan(STUDY)
    record = finish(plan, "fcos", 0)
    kept = record.read_bytes()
    finish(plan, "fcos", 0, code="old")
    record.write_bytes(kept)  # merged from another machine
    assert read_status(plan, "fcos", 0).record.path == record
    assert ("fcos", 0) in recorded(plan, TABLES)
    finish(plan, "fcos", 0)
    assert read_status(plan, "fcos", 0).record is None


def test_a_record_counts_more_than_a_training_that_was_interrupted(folder):
    plan = Plan(STUDY)
    finish(plan, "fcos", 0)
    write_json(StudyPaths("mini").run("fcos", 0).state, {"state": "interrupted"})
    assert read_status(plan, "fcos", 0).state == "done"
    assert ("fcos", 0) in recorded(plan, TABLES)


def test_one_without_what_table_6_needs_does_not_stand_for_a_run_of_it(folder):
    plan = Plan(STUDY)
    finish_all(plan)
    for run, seed in plan.trainings:
        paths = StudyPaths("mini").run(run, seed)
        paths.alignment.unlink()
        write_record(paths, StudyPaths("mini").manifest, StudyPaths("mini").record(run, seed))
    elsewhere()
    assert {run for run, _ in recorded(plan, TABLES)} == {"fcos"}


def test_a_training_that_diverged_stays_as_such(folder):
    plan = Plan(STUDY)
    finish(plan, "fcos", 1, state="diverged")
    elsewhere()
    assert list(recorded(plan, TABLES)) == [("fcos", 1)]
    write_results(plan, Path("none.csv"))
    assert "fcos, seed 1, diverged" in Path("results/mini/tables/table2.md").read_text()


def test_one_of_a_training_that_diverged_has_no_measurements_of_earlier_weights(folder):
    plan = Plan(STUDY)
    assert read_record(finish(plan, "tood_af", 0)).best_anchors
    record = read_record(finish(plan, "tood_af", 0, state="diverged"))
    assert set(record.files) == {"state.json", "provenance.json"}
    assert not record.best_anchors


def test_records_of_two_machines_are_merged_by_copying(folder):
    one, two = (Plan(STUDY | {"seeds": str(seed)}) for seed in (0, 1))
    finish_all(one)
    Path("results/mini/runs").rename("first")
    elsewhere()
    finish_all(two)
    elsewhere()
    shutil.copytree("first", "results/mini/runs", dirs_exist_ok=True)
    both = Plan(STUDY)
    assert set(recorded(both, TABLES)) == set(both.trainings)
    write_results(both, Path("none.csv"))
    assert "45.5 ± 0.7" in Path("results/mini/tables/table3.md").read_text()


def test_a_method_that_is_added_is_shown_beside_the_recorded_ones(folder):
    finish_all(Plan(STUDY))
    elsewhere()
    plan = Plan(STUDY | {"runs": "tal"})
    assert {one.run.id for one in known_status(plan)} == {"tal", "atss_af", "tood_af", "fcos"}
    write_results(plan, Path("none.csv"))
    assert "45.5" in Path("results/mini/tables/table3.md").read_text()


# For Snakemake


def test_a_rule_leaves_out_what_is_recorded():
    constraint = workflow.not_recorded([("tood_af", 0), ("fcos", 12)])
    made = re.compile(rf"work/mini/runs/(?P<run>{constraint})/seed(?P<seed>\d+)/model\.pth")
    record = re.compile(rf"results/mini/runs/(?P<run>{constraint})/seed(?P<seed>\d+)\.json")
    for run, seed, left_out in (
        ("tood_af", 0, True),
        ("tood_af", 1, False),
        ("tood_af", 10, False),
        ("atss_af", 0, False),
        ("fcos", 12, True),
        ("fcos", 1, False),
        ("fcos_imprv", 12, False),
    ):
        assert (made.fullmatch(f"work/mini/runs/{run}/seed{seed}/model.pth") is None) == left_out
        assert (record.fullmatch(f"results/mini/runs/{run}/seed{seed}.json") is None) == left_out
    some = re.compile(workflow.not_recorded([], ["tal", "fcos"]))
    assert some.fullmatch("tal")
    assert not some.fullmatch("tood_af")


def test_a_record_is_json_that_every_reader_takes(folder):
    """Of a metric that is not defined it holds null; older ones, which hold NaN, are still read."""
    plan = Plan(STUDY)
    path = finish(plan, "fcos", 0)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(path.read_text(), parse_constant=refuse)
    assert content["files"]["ap.json"]["APL"] is None
    assert math.isnan(read_status(plan, "fcos", 0).results["ap.json"].metrics["APL"])
    old = path.read_text().replace('"APL": null', '"APL": NaN')
    content = json.loads(old)
    del content["checksum"]
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"checksum": checksum}))
    assert math.isnan(read_record(path).files["ap.json"]["APL"])
    elsewhere()
    status = read_status(plan, "fcos", 0)
    assert (status.state, math.isnan(status.results["ap.json"].metrics["APL"])) == ("done", True)


def test_data_are_drawn_by_all_that_the_drawing_imports():
    assert import_closure(["tood.data.synthetic"], ["data"]) == DRAWN_BY


def test_objects_of_a_size_class_are_counted_as_pycocotools_does():
    """Bounds are in both classes; crowds and images that were not evaluated do not count."""
    areas = [(1, 10, 0), (1, 1024, 0), (1, 1024.5, 0), (2, 9216, 0), (2, 9217, 0), (2, 50, 1), (3, 50, 0)]
    truth = {"annotations": [{"image_id": i, "area": area, "iscrowd": crowd} for i, area, crowd in areas]}
    assert objects_by_size(truth, [1, 2]) == {"APS": 2, "APM": 3, "APL": 2}
    assert objects_by_size(truth, []) == {"APS": 0, "APM": 0, "APL": 0}
