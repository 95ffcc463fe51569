"""`tood classes`: which detections it takes, and what it writes."""

import json

import pandas as pd
import pytest
from helpers.coco_results import near_annotations, random_dataset
from helpers.records import finish

from tood.cli import main
from tood.data.manifest import read_manifest
from tood.runtime.files import write_json
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

NAMES = {1: "disc", 2: "ring", 3: "a|b"}
FILES = ["classes.csv", "classes.md", "confusion.csv", "precision_recall.csv"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The study `mini` with detections of two seeds of ATSS and one of TOOD."""
    monkeypatch.chdir(tmp_path)
    plan = Plan({"scale": "mini"})
    truth, _ = random_dataset(3)
    truth["categories"] = [{"id": id_, "name": name} for id_, name in NAMES.items()]
    write_json(plan.data_root / "val.json", truth)
    for run, seed in (("atss_af", 0), ("atss_af", 1), ("tood_af", 0)):
        paths = StudyPaths("mini").run(run, seed)
        write_json(paths.evaluated_images, [image["id"] for image in truth["images"]])
        write_json(paths.detections, near_annotations(truth)[seed:])
        finish(plan, run, seed)
    return tmp_path


def test_runs_of_a_study_are_measured_by_class(study, capsys):
    assert main(["classes", "--name", "mini"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("study mini")
    assert lines[0].split() == ["Class", "Images", "Objects", "atss_af", "tood_af"]
    assert [line.split()[0] for line in lines[1:5]] == ["disc", "ring", "a|b", "all"]
    assert " ± " in lines[1]
    folder = study / "results/mini/classes"
    assert lines[5] == "written to results/mini/classes: tables and figures with their captions"
    figures = [f"{name}{ending}" for name in FIGURES for ending in (".md", ".pdf", ".png", "_dark.png")]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, *figures])

    values = pd.read_csv(folder / "classes.csv")
    assert values[["run", "seed"]].drop_duplicates().to_numpy().tolist() == [
        ["atss_af", 0],
        ["atss_af", 1],
        ["tood_af", 0],
    ]
    assert values["stale"].dtype == bool
    counts = pd.read_csv(folder / "confusion.csv")
    objects = counts[counts["object"] != "no object"].groupby(["run", "seed", "object"])["count"].sum()
    expected = values.set_index(["run", "seed", "class"])["objects"]
    assert objects.to_dict() == expected.to_dict()
    assert "2 seeds" in (folder / "confusion_atss_af.md").read_text()
    assert "seeds" not in (folder / "confusion_tood_af.md").read_text()
    assert r"| a\|b | " in (folder / "classes.md").read_text()


FIGURES = ("ap", "precision_recall", "confusion_atss_af", "confusion_tood_af")


def test_one_run_and_seed_as_json(study, capsys):
    assert main(["classes", "atss_af", "--seed", "1", "--name", "mini", "--json", "--output", "there"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(row["run"], row["seed"]) for row in found} == {("atss_af", 1)}
    assert [row["class"] for row in found] == list(NAMES.values())
    assert (study / "there/ap.png").is_file()


def test_results_of_any_program(study, capsys):
    detections = StudyPaths("mini").run("tood_af", 0).detections
    annotations = f"{read_manifest(StudyPaths('mini').manifest)['root']}/val.json"
    assert main(["classes", "--detections", str(detections), "--annotations", annotations, "--json"]) == 0
    of_file = json.loads(capsys.readouterr().out)
    main(["classes", "tood_af", "--name", "mini", "--json", "--output", "there"])
    of_run = json.loads(capsys.readouterr().out)
    assert [row["AP"] for row in of_file] == [row["AP"] for row in of_run]
    assert (study / "classes/confusion_detections.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fcos"], "fcos: no detections of mini are on this machine"),
        (["tood_ax"], "did you mean tood_a"),
        (["--seed", "7"], "no detections of seed 7 are on this machine"),
        (["--seed", "7"], "fresh=true seeds=7"),
        (["--detections", "x.json"], "--detections, --annotations: give both"),
        (["--detections", "x.json", "--annotations", "none.json"], "--detections x.json: no such file"),
        (["tood_af", "--detections", "x", "--annotations", "y"], "omit RUN, --name and --seed"),
    ],
)
def test_what_is_missing_is_said(study, capsys, arguments, message):
    own = [] if "--detections" in arguments else ["--name", "mini"]
    assert main(["classes", *arguments, *own]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: {}, "not COCO results, which are a list of detections"),
        (lambda entries: [entries[0], {"image_id": 1}], "entry 1: lacks category_id, bbox, score"),
        (
            lambda entries: [entries[0] | {"bbox": [1, 2, float("nan"), 4]}],
            "entry 0: bbox [1, 2, nan, 4] is no",
        ),
        (lambda entries: [entries[0] | {"bbox": [1, 2, -3, 4]}], "entry 0: bbox [1, 2, -3, 4] is no"),
    ],
)
def test_what_is_no_list_of_boxes_is_refused(study, capsys, change, message):
    detections = StudyPaths("mini").run("tood_af", 0).detections
    root = read_manifest(StudyPaths("mini").manifest)["root"]
    (study / "changed.json").write_text(json.dumps(change(json.loads(detections.read_text()))))
    assert main(["classes", "--detections", "changed.json", "--annotations", f"{root}/val.json"]) == 2
    assert message in capsys.readouterr().err


def test_detections_of_other_annotations_are_refused(study, capsys):
    detections = StudyPaths("mini").run("tood_af", 0).detections
    annotations = read_manifest(StudyPaths("mini").manifest)["root"]
    path = study / annotations / "val.json"
    content = json.loads(path.read_text())
    write_json(study / "other.json", content | {"categories": content["categories"][:2]})
    assert main(["classes", "--detections", str(detections), "--annotations", "other.json"]) == 2
    assert "does not fit other.json: detections with category_id [3]" in capsys.readouterr().err
    write_json(study / "other.json", {"images": content["images"]})
    assert main(["classes", "--detections", str(detections), "--annotations", "other.json"]) == 2
    assert "not in COCO's formats" in capsys.readouterr().err
