"""The analysis behind Table 6: which images and objects count, and the readings beside the table's own."""

import json

import pytest
import torch
from helpers.initial_runs import draw_dataset, initial_run

from tood.analysis.table6 import columns as table6
from tood.analysis.table6 import measurement as one_pass
from tood.analysis.table6.alignment import AlignmentOptions, instance_alignment, instance_pools, summarise
from tood.analysis.table6.anchors import anchors_of
from tood.evaluation.detection import dense_predictions, detect
from tood.evaluation.evaluate import evaluate
from tood.evaluation.trained_run import Trained, load_trained
from tood.runtime.files import finite
from tood.study.declarations import load_tables
from tood.study.jobs import AnalysisJob, Execution
from tood.study.paths import RunPaths

CPU, CPU_DEVICE = Execution(device="cpu"), torch.device("cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return draw_dataset(tmp_path_factory.mktemp("drawn"))


def box(image: int, x: float, **fields) -> dict:
    return {"image_id": image, "category_id": 1, "bbox": [x, 0.0, 10.0, 10.0], **fields}


TRUTH = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 1}, {"id": 2}],
    "annotations": [box(1, 0, iscrowd=0), box(2, 0, iscrowd=0), box(1, 40, iscrowd=1)],
}
DETECTIONS = [
    box(1, 0, score=0.9),  # correct
    box(1, 1, score=0.8),  # the same object again
    box(1, 41, score=0.7),  # in the crowd
    box(1, 6, score=0.6),  # IoU 4 / 16
    {**box(1, 0, score=0.5), "category_id": 2},  # the object, but not its class
]


def statistics(trained: Trained, images: int) -> tuple[table6.Statistics, list[int]]:
    """Of the first images, with their ids."""
    found = table6.Statistics(trained.model.bbox_head.test_cfg, trained.dataset.cat_ids)
    for sample, levels in dense_predictions(
        trained.model, trained.dataset, device=CPU_DEVICE, label="", indices=range(images)
    ):
        objects = sample.gt_instances
        found.add(sample, levels, anchors_of(levels, objects.bboxes, objects.labels))
    return found, [trained.dataset.get_data_info(index)["img_id"] for index in range(images)]


def test_boxes_are_counted_on_the_evaluated_images_under_each_reading():
    unfiltered = [*DETECTIONS, box(1, 2, score=0.01), box(1, 100, score=0.01)]
    found = table6.count_readings(TRUTH, DETECTIONS, [1], unfiltered)
    kinds = ("correct", "redundant", "error")
    counts = {reading: tuple(values[kind] for kind in kinds) for reading, values in found.items()}
    # Without classes the last one is redundant.
    assert counts == {
        "default": (1, 1, 1),
        "class_aware=false": (1, 2, 1),
        "crowd=drop": (1, 1, 1),
        "score_thr=0": (1, 2, 1),
    }
    assert found["default"]["ignored"] == 1
    assert found["crowd=drop"]["ignored"] == 0
    assert len(TRUTH["annotations"]) == 3


def test_the_alignment_is_that_of_each_image_under_each_reading(manifest):
    trained = load_trained(initial_run(manifest, "atss_af", images=5), CPU)
    measured, image_ids = statistics(trained, 5)
    found = measured.alignment(image_ids)
    assert list(found) == [*table6.ALIGNMENT_READINGS, "confidence=classification"]
    parts = {"default": [], "confidence=classification": [], "iou_floor=0.5": []}
    for sample, levels in dense_predictions(
        trained.model, trained.dataset, device=trained.device, label="", indices=range(5)
    ):
        names = ("confidence", "scores", "boxes", "points")
        cat = {name: torch.cat([getattr(level, name) for level in levels]) for name in names}
        gt = sample.gt_instances
        for reading, ranked_by in zip(parts, ("confidence", "scores", "confidence"), strict=True):
            options = AlignmentOptions(iou_floor=0.5 if reading == "iou_floor=0.5" else 0.0)
            pools = instance_pools(cat["boxes"], cat["points"], gt.bboxes.float(), gt.labels)
            parts[reading].append(instance_alignment(cat[ranked_by], pools, {"": options})[""])
    for reading, images in parts.items():
        assert found[reading] == pytest.approx(summarise(images, AlignmentOptions()), nan_ok=True), reading
    # ATSS ranks by classification and centerness together.
    assert found["default"] != found["confidence=classification"]


def test_detections_without_threshold_are_those_of_the_detector_itself(manifest):
    """Its predictions with the changed test configuration, a hundred per image whatever their scores."""
    trained = load_trained(initial_run(manifest, "tood_af", images=3), CPU)
    measured, ids = statistics(trained, 3)
    found = measured.unfiltered(ids)
    trained.model.bbox_head.test_cfg.update(table6.WITHOUT_THRESHOLD)
    expected, image_ids = detect(
        trained.model, trained.dataset, device=CPU_DEVICE, label="", batch_size=1, indices=range(3)
    )
    assert found == expected
    assert len(found) == 3 * 100
    assert {detection["image_id"] for detection in found} == set(image_ids)


def test_one_pass_gives_what_the_evaluation_gives_and_the_table(manifest, tmp_path):
    """In batches that the images fill unevenly; the table has the default reading, and says what it is of."""
    measured = initial_run(manifest, "tood_af", images=5, batch_size=3, evaluation="how")
    measured.settings["model"] = measured.settings["model"] | {"test_cfg": {"score_thr": 0.0}}
    job = AnalysisJob(**measured.model_dump(), analysis="in which way")
    files, apart = RunPaths(tmp_path / "together"), RunPaths(tmp_path / "apart")
    one_pass.analyse(job, CPU, files)
    evaluate(measured, CPU, apart)
    for name in ("detections", "evaluated_images", "ap"):
        assert getattr(files, name).read_bytes() == getattr(apart, name).read_bytes()

    metrics, variants = (json.loads(path.read_text()) for path in (files.alignment, files.alignment_variants))
    assert metrics.pop("digests") == {"code": "tood_af", "evaluation": "in which way"}
    assert set(metrics) == {name for name in load_tables()["table6"].metrics if not name.startswith("AP")}
    before, after = (variants[key]["default"] for key in ("before NMS", "after NMS"))
    assert (metrics["PCC (top-50)"], metrics["IoU (top-10)"]) == (before["pcc"], before["iou"])
    found, image_ids = statistics(load_trained(job, CPU), 5)
    expected = found.alignment(image_ids)
    for reading, values in variants["before NMS"].items():  # convolutions of a batch round otherwise
        assert values == pytest.approx(finite(expected[reading]), abs=1e-2), reading
    found = sum(metrics[f"#{kind}"] for kind in ("Correct boxes", "Redundant boxes", "Error boxes"))
    assert 0 < found <= len(json.loads(files.detections.read_text()))
    for kind in ("correct", "redundant", "error"):
        assert metrics[f"#{kind.capitalize()} boxes"] == after[kind]
