"""Figures 1 and 4: the objects that the rule chooses, and the same ones under every detector."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from helpers.initial_runs import analyse_run, draw_dataset, initial_run

from tood.analysis.figures import figure1 as module
from tood.analysis.figures import image_maps
from tood.analysis.figures.chosen_objects import Case, choose
from tood.analysis.figures.figure1 import figures, row
from tood.analysis.figures.image_maps import of_study
from tood.evaluation.trained_run import load_trained
from tood.runtime.files import read_json
from tood.study.jobs import Execution, Figure1Job
from tood.study.paths import RunPaths
from tood.study.plan import Plan

CPU = Execution(device="cpu")
RUNS = {"ATSS": "atss_af", "TOOD": "tood_af"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return draw_dataset(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def job(manifest):
    """Both detectors, with their best anchors beside their weights."""
    runs = {name: initial_run(manifest, run) for name, run in RUNS.items()}
    for run in runs.values():
        analyse_run(run, run.model.parent)
    return Figure1Job(detectors=runs)


def records(job) -> dict[str, pd.DataFrame]:
    return {
        name: pd.DataFrame(json.loads(RunPaths(run.model.parent).best_anchors.read_text())["objects"])
        for name, run in job.detectors.items()
    }


def test_every_detector_shows_the_objects_that_the_rule_chose(job, tmp_path, monkeypatch):
    drawn = {}
    for name in ("draw_figure1", "draw_figure4"):
        original = getattr(module, name)

        def spy(rows, name=name, original=original):
            drawn[name] = rows
            return original(rows)

        monkeypatch.setattr(module, name, spy)
    figures(job, CPU, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"figure{number}{end}" for number in (1, 4) for end in (".png", "_dark.png", ".pdf", ".md")
    }
    trained = load_trained(job.detectors["ATSS"], CPU)
    choice = choose(records(job), trained.dataset.metainfo["classes"])
    ids = [trained.dataset.get_data_info(index)["img_id"] for index in trained.indices]
    shown = [drawn["draw_figure1"], *drawn["draw_figure4"]]
    assert len(shown) == len(choice.cases) == 5
    for rows, case in zip(shown, choice.cases, strict=True):
        assert [one.detector for one in rows] == ["ATSS", "TOOD"]
        first, second = rows
        assert (first.instance, second.instance) == (case.instance, case.instance)
        index = ids.index(case.image_id)
        image = trained.dataset[index]["inputs"].numpy()[::-1].transpose(1, 2, 0)
        assert np.array_equal(first.image, image)
        assert np.array_equal(second.image, image)
        assert first.maps.classification != second.maps.classification
        info = trained.dataset.get_data_info(index)
        labels = [i["bbox_label"] for i in info["instances"] if not i["ignore_flag"]]
        assert first.class_name == trained.dataset.metainfo["classes"][labels[case.instance]]


def test_tood_maps_shows_the_objects_that_the_captions_name(job, manifest, tmp_path, monkeypatch):
    figures(job, CPU, tmp_path)
    trained = load_trained(job.detectors["ATSS"], CPU)
    cases = choose(records(job), trained.dataset.metainfo["classes"]).cases
    captions = "".join((tmp_path / f"figure{number}.md").read_text() for number in (1, 4))
    named = re.findall(r"`--image (\S+) --object (\d+)`", captions)
    assert len(named) == len(cases) == 5
    content = read_json(manifest)
    monkeypatch.setattr(image_maps, "checked_data", lambda plan: content)
    for (image, number), case in zip(named, cases, strict=True):
        shown, drawn = of_study(Plan({}), "atss_af", image, int(number)), row(trained, "", case)
        assert shown.chosen == drawn.instance
        assert shown.names == drawn.names
        assert np.allclose(shown.boxes, drawn.gt_boxes)  # in pixels of the file: the input is as large


def test_the_figures_distance_is_that_of_the_records(job):
    trained = load_trained(job.detectors["ATSS"], CPU)
    found = records(job)["ATSS"].dropna()
    for record in found.head(4).to_dict("records"):
        shown = row(trained, "", Case(record["image_id"], record["instance"], 0))
        x1, y1, x2, y2 = shown.gt_boxes[record["instance"]]
        assert shown.maps.distance / ((x2 - x1) * (y2 - y1)) ** 0.5 == pytest.approx(
            record["distance"], rel=1e-5
        )


def test_one_object_in_all_is_shown_in_both_figures(job, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *arguments: one(choose(*arguments)))

    def one(choice):
        return choice._replace(cases=choice.cases[:1])

    figures(job, CPU, tmp_path)
    assert "on 1 further object" not in (tmp_path / "figure4.md").read_text()
    assert "on the object of Figure 1, as no other image has one" in (tmp_path / "figure4.md").read_text()


def test_data_without_objects_is_refused(manifest, tmp_path):
    annotations = load_trained(initial_run(manifest, "atss_af"), CPU).annotations
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    content = json.loads(annotations.read_text())
    (root / "annotations" / annotations.name).write_text(json.dumps(content | {"annotations": []}))
    (root / "val2017").symlink_to(annotations.parents[1] / "val2017")
    changed = json.loads(manifest.read_text()) | {"root": str(root)}
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    (tmp_path / "run").mkdir()
    weights = initial_run(manifest, "atss_af").model
    (tmp_path / "run/model.pth").write_bytes(weights.read_bytes())
    job = initial_run(manifest, "atss_af").model_copy(
        update={"manifest": tmp_path / "manifest.json", "model": tmp_path / "run/model.pth"}
    )
    (tmp_path / "run/provenance.json").write_text(json.dumps({"digests": {}}))
    analyse_run(job, tmp_path / "run")
    with pytest.raises(ValueError, match="no object of 0 images is touched"):
        figures(Figure1Job(detectors={"ATSS": job}), CPU, tmp_path)
