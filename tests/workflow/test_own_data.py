"""A dataset of the user's own, with its own classes and file names, through a small scale in one command."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from helpers.layouts import NAMES, write_voc, write_yolo

RUNS = ("atss_af", "tood_af")


@pytest.fixture(scope="module")
def birds(photographs, tmp_path_factory) -> Path:
    """One class, and names that are not COCO's."""
    root = tmp_path_factory.mktemp("own") / "birds"
    for name in ("train", "val"):
        shutil.copytree(photographs / f"{name}2017", root / "photos" / name)
        content = json.loads((photographs / f"annotations/instances_{name}2017.json").read_text())
        content["categories"] = [{"id": 7, "name": "bird"}]
        for annotation in content["annotations"]:
            annotation["category_id"] = 7
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def workspace(new_workspace):
    return new_workspace(counted=True)


def call(root: Path, **options: object) -> list[str]:
    given = {
        "scale": "mini",
        "name": "birds",
        "data_root": root,
        "train": "train.json:photos/train",
        "val": "val.json:photos/val",
        "image_size": "128,96",
        "runs": ",".join(RUNS),
        "seeds": 0,
        "iterations": 4,
        "batch_size": 2,
    }
    return ["--cores", "2", "--config", *(f"{key}={value}" for key, value in (given | options).items())]


def test_one_command_compares_detectors_on_it(workspace, birds):
    outcome = workspace.run("snakemake", *call(birds))
    assert outcome.returncode == 0, outcome.stdout
    results = workspace.path / "results/birds"
    table = pd.read_csv(results / "tables/methods.csv")
    assert table["run"].tolist() == list(RUNS)
    assert table["status"].tolist() == ["done", "done"]
    for path in (results / "tables").glob("*.csv"):
        frame = pd.read_csv(path)
        assert not [column for column in frame if column.endswith("_paper")], path
        assert set(frame.get("run", RUNS)) <= set(RUNS), path
    assert pd.read_csv(results / "tables/claims.csv")["paper"].isna().all()
    page = (results / "report.html").read_text()
    assert "has the highest mean AP: " in page
    assert not re.search("dining table|>paper<|Anchor-based", page)
    assert "Data: birds (COCO layout), scaled, up or down, to fit into 128 × 96 pixels." in page
    assert (results / "figures/distances.png").is_file()
    model = workspace.path / "work/birds/runs/tood_af/seed0/provenance.json"
    config = json.loads(model.read_text())["config"]
    assert config["model"]["bbox_head"]["anchor_generator"]["strides"] == [4, 8, 16]
    assert (config["model"]["bbox_head"]["num_classes"], config["classes"]) == (1, ["bird"])
    notes = (results / "tables/methods.md").read_text()
    assert all(note in notes for note in ("random weights", "after 4 iterations", "Batches of 2"))
    assert "Nothing to be done" in workspace.run("snakemake", *call(birds)).stdout


def test_a_split_without_objects_stops_before_any_training(workspace, birds, tmp_path):
    root = shutil.copytree(birds, tmp_path / "birds")
    content = json.loads((root / "val.json").read_text())
    (root / "val.json").write_text(json.dumps(content | {"annotations": []}))
    outcome = workspace.run("snakemake", *call(root))
    assert outcome.returncode
    assert "val.json: annotations: none can be used: it needs iscrowd 0, an area above 0" in outcome.stdout
    assert not list(workspace.path.glob("work/birds/runs/*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 8}, "image_size=8,8: sides are between 32 and 2048 pixels"),
        ({"train": "train.json"}, "train=train.json: write ANNOTATIONS:IMAGES"),
    ],
)
def test_options_that_do_not_fit_stop_the_call(workspace, birds, options, said):
    outcome = workspace.run("snakemake", "-n", *call(birds, **options))
    assert outcome.returncode
    assert said in outcome.stdout
    assert "Traceback" not in outcome.stdout


def test_a_file_that_is_not_there_is_named(workspace, birds):
    outcome = workspace.run("snakemake", *call(birds, val="other.json:photos/val"))
    assert outcome.returncode
    assert "other.json: annotations: no such file under data_root" in outcome.stdout


def model_of(root: Path, *words: str) -> list[str]:
    """The call that checks the data and trains for one iteration."""
    return ["work/birds/runs/tood_af/seed0/model.pth", *words, *call(root, runs="tood_af", iterations=1)]


def test_files_from_the_future_train_once(workspace, birds, tmp_path):
    """Of a camera or a server whose clock is ahead. Snakemake alone deletes what is older than its input."""
    root = shutil.copytree(birds, tmp_path / "birds")
    later = time.time() + 3 * 3600
    for path in root.rglob("*"):
        os.utime(path, (later, later))
    outcome = workspace.run("snakemake", *model_of(root))
    assert outcome.returncode == 0, outcome.stdout
    assert "Nothing to be done" in workspace.run("snakemake", *model_of(root)).stdout
    (root / "train.json").touch()
    assert "Nothing to be done" in workspace.run("snakemake", "-n", *model_of(root)).stdout
    content = json.loads((root / "train.json").read_text())
    (root / "train.json").write_text(json.dumps(content, indent=1))
    os.utime(root / "train.json", (0, 0))
    again = workspace.run("snakemake", "-n", "-p", *model_of(root)).stdout
    assert "rule check_data:" in again
    assert "rule train:" in again


def test_what_is_left_out_and_how_classes_are_matched_is_said(workspace, birds, tmp_path):
    root = shutil.copytree(birds, tmp_path / "birds")
    for name, number in (("train", 3), ("val", 2**40)):
        content = json.loads((root / f"{name}.json").read_text())
        content["categories"] = [{"id": number, "name": "bird"}]
        for annotation in content["annotations"]:
            annotation |= {"category_id": number, "id": annotation["id"] - 1}
        content["annotations"][-1]["area"] = 0
        (root / f"{name}.json").write_text(json.dumps(content))
    outcome = workspace.run("snakemake", "work/birds/manifest.json", *call(root))
    assert outcome.returncode == 0, outcome.stdout
    matched = "train.json and val.json list the same classes with other ids (bird is 3 and 1099511627776)"
    assert f"data: {matched}: they are matched by name" in outcome.stdout
    assert re.search(r"data: Training leaves out \d+ of \d+ annotations \(.*1 of area 0", outcome.stdout)


def test_other_layouts_are_converted_before_the_check_and_again_when_they_change(workspace, tmp_path):
    root = write_voc(tmp_path / "my cells")
    options = {"train": "train", "val": "val", "image_size": "64,48", "runs": "tood_af", "iterations": 1}
    words = call(root, **options)
    outcome = workspace.run("snakemake", "work/birds/manifest.json", *words)
    assert outcome.returncode == 0, outcome.stdout
    assert "data: VOC, train=train: 4 images, 5 objects (0 ant, 2 cat, 2 dog, 1 hot dog)." in outcome.stdout
    labels = root / "Annotations/plain.xml"
    labels.touch()
    assert "Nothing to be done" in workspace.run("snakemake", "work/birds/manifest.json", *words).stdout
    labels.write_text(labels.read_text().replace("cat", "dog"))
    os.utime(labels, (0, 0))
    again = workspace.run("snakemake", "-n", "-p", "work/birds/runs/tood_af/seed0/model.pth", *words).stdout
    assert all(f"rule {name}:" in again for name in ("convert_data", "check_data", "train"))
    (root / "JPEGImages/plain.png").unlink()
    refused = workspace.run("snakemake", "work/birds/manifest.json", *words)
    assert refused.returncode
    assert re.search(
        r"data: .*ImageSets/Main/train\.txt: line 1: .*JPEGImages has no image of the name 'plain'\. Hint: ",
        refused.stdout,
    )
    assert "Traceback" not in refused.stdout


def test_yolo_is_found_by_its_file(workspace, tmp_path):
    root = write_yolo(tmp_path / "yolo")
    words = [word for word in call(root, image_size="64,48") if not word.startswith(("train=", "val="))]
    outcome = workspace.run("snakemake", "work/birds/manifest.json", *words)
    assert outcome.returncode == 0, outcome.stdout
    manifest = json.loads((workspace.path / "work/birds/manifest.json").read_text())
    assert [category["name"] for category in manifest["categories"]] == NAMES
    assert manifest["root"] == "work/birds/data"


@pytest.mark.slow  # half a minute
def test_some_classes_are_trained_and_others_make_the_results_stale(workspace, tmp_path):
    root = write_voc(tmp_path / "my cells")
    options = {"train": "train", "val": "val", "image_size": "64,48", "runs": "tood_af", "iterations": 1}
    some = call(root, **options, classes="hot dog,dog")
    outcome = workspace.run("snakemake", *some)
    assert outcome.returncode == 0, outcome.stdout
    assert "data: train: 2 of 5 objects are of other classes and left out." in outcome.stdout
    made = json.loads((workspace.path / "work/birds/runs/tood_af/seed0/provenance.json").read_text())
    assert made["config"]["classes"] == made["settings"]["classes"] == ["dog", "hot dog"]
    assert made["config"]["model"]["bbox_head"]["num_classes"] == 2
    note = "Of their classes only dog, hot dog; images without these are kept."
    for file in ("report.html", "tables/methods.md"):
        assert note in (workspace.path / "results/birds" / file).read_text()
    reordered = call(root, **options, classes="dog,hot dog")
    assert "Nothing to be done" in workspace.run("snakemake", *reordered).stdout
    for others in (call(root, **options, classes="dog"), call(root, **options)):
        planned = workspace.run("snakemake", "-n", "-p", *others).stdout
        assert all(f"rule {name}:" in planned for name in ("check_data", "train", "evaluate_and_analyse"))
    # Elsewhere, where the data are not, the record of these classes stands and that of others does not.
    shutil.rmtree(workspace.path / "work")
    root.rename(tmp_path / "moved")
    assert "1 of 1 trainings are taken from the records" in workspace.run("snakemake", "-n", *some).stdout
    other = workspace.run("snakemake", "-n", *call(root, **options, classes="dog")).stdout
    assert "1 records are stale: made with other settings than now" in other


def test_a_class_that_the_data_do_not_have_stops_the_call(workspace, birds):
    outcome = workspace.run("snakemake", "-n", *call(birds, classes="Birds"))
    assert outcome.returncode
    said = r"--config classes: .*train\.json: categories: no class 'Birds'\. Hint: did you mean bird\?"
    assert re.search(said, outcome.stdout)
    assert "Traceback" not in outcome.stdout


def test_files_of_coco_are_converted_where_classes_are_named(workspace, birds):
    manifest = "work/birds/manifest.json"
    outcome = workspace.run("snakemake", manifest, *call(birds, classes="bird"))
    assert outcome.returncode == 0, outcome.stdout
    assert "data: train: 0 of " in outcome.stdout
    checked = json.loads((workspace.path / manifest).read_text())
    assert (checked["root"], checked["categories"]) == ("work/birds/data", [{"id": 7, "name": "bird"}])
    assert "Nothing to be done" in workspace.run("snakemake", manifest, *call(birds, classes="bird")).stdout
    plain = workspace.run("snakemake", manifest, *call(birds))
    assert plain.returncode == 0, plain.stdout
    assert json.loads((workspace.path / manifest).read_text())["root"] == str(birds)
