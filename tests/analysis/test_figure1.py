"""Figure 1's object: chosen by rule on the baseline's predictions, and the same one under every detector."""

import json

import numpy as np
import pytest
from helpers.initial_runs import draw_dataset, initial_run

from tood.analysis import figure1 as module
from tood.analysis.figure1 import choose, figure1, row
from tood.evaluation.trained_run import load_trained
from tood.study.jobs import Execution, Figure1Job

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return draw_dataset(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def baseline(manifest):
    return load_trained(initial_run(manifest, "atss_af"), CPU)


def classes_of(trained, index: int) -> set[str]:
    names = trained.dataset.metainfo["classes"]
    return {names[i["bbox_label"]] for i in trained.dataset.get_data_info(index)["instances"]}


def distances(trained) -> dict[tuple[int, int], float]:
    """Pixels between the best anchors, of each object by image and number."""
    found = {}
    for index in trained.indices:
        for instance in range(len(trained.dataset[index]["data_samples"].gt_instances)):
            found[index, instance] = row(trained, "", index, instance).maps.distance
    return found


def test_the_object_is_the_one_with_the_most_distant_anchors(baseline):
    found = distances(baseline)
    assert len(set(found.values())) > 3
    chosen = choose(baseline, "ATSS", workers=0)
    assert found[chosen] == max(found.values())


def test_objects_that_the_baseline_detects_go_first(baseline, monkeypatch):
    found = distances(baseline)
    scores = {key: row(baseline, "", *key).maps.classification.score for key in found}
    monkeypatch.setattr(module, "LEAST_SCORE", sorted(scores.values())[-2])
    detected = {key for key, score in scores.items() if score >= module.LEAST_SCORE}
    assert 0 < len(detected) < len(found)
    assert choose(baseline, "ATSS", workers=0) == max(detected, key=found.__getitem__)


def test_images_with_the_papers_classes_go_first(baseline, monkeypatch):
    found = distances(baseline)
    farthest = max(found, key=found.__getitem__)
    others = [
        index
        for index in baseline.indices
        if not classes_of(baseline, index) <= classes_of(baseline, farthest[0])
    ]
    wanted = classes_of(baseline, others[0])
    monkeypatch.setattr(module, "PREFERRED", wanted)
    index, instance = choose(baseline, "ATSS", workers=0)
    assert classes_of(baseline, index) >= wanted
    assert index != farthest[0]
    assert found[index, instance] == max(
        d for (i, _), d in found.items() if classes_of(baseline, i) >= wanted
    )


def test_every_detector_shows_the_object_that_the_baseline_chose(manifest, baseline, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "draw_figure1", lambda *arguments: drawn.append(arguments))
    runs = {"ATSS": "atss_af", "TOOD": "tood_af"}
    job = Figure1Job(detectors={name: initial_run(manifest, run) for name, run in runs.items()})
    figure1(job, CPU, tmp_path / "a.png", tmp_path / "a.pdf")
    ((rows, *paths),) = drawn
    assert paths == [tmp_path / "a.png", tmp_path / "a.pdf"]
    assert [row.detector for row in rows] == ["ATSS", "TOOD"]
    index, instance = choose(baseline, "ATSS", workers=0)
    first, second = rows
    assert (first.instance, second.instance) == (instance, instance)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.image, baseline.dataset[index]["inputs"].numpy()[::-1].transpose(1, 2, 0))
    assert first.maps.classification != second.maps.classification
    info = baseline.dataset.get_data_info(index)
    labels = [i["bbox_label"] for i in info["instances"] if not i["ignore_flag"]]
    assert first.class_name == baseline.dataset.metainfo["classes"][labels[instance]]


def test_data_without_objects_is_refused(manifest, tmp_path):
    annotations = load_trained(initial_run(manifest, "atss_af"), CPU).annotations
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    content = json.loads(annotations.read_text())
    (root / "annotations" / annotations.name).write_text(json.dumps(content | {"annotations": []}))
    (root / "val2017").symlink_to(annotations.parents[1] / "val2017")
    changed = json.loads(manifest.read_text()) | {"root": str(root)}
    (tmp_path / "manifest.json").write_text(json.dumps(changed))
    job = initial_run(manifest, "atss_af").model_copy(update={"manifest": tmp_path / "manifest.json"})
    with pytest.raises(ValueError, match="ATSS predicts no box that touches any object of 6 images"):
        figure1(Figure1Job(detectors={"ATSS": job}), CPU, tmp_path / "a.png", tmp_path / "a.pdf")
