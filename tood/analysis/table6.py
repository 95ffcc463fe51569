"""Table 6: how well classification and localisation of a trained run agree, before NMS and after."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tood.analysis.alignment import AlignmentOptions, InstanceAlignment, instance_alignment, summarise
from tood.analysis.box_counts import CountOptions, count_boxes
from tood.evaluation.detection import coco_results, dense_predictions
from tood.evaluation.trained_run import Trained, load_trained
from tood.models.common.dense_prediction import select_detections
from tood.runtime.files import read_json, write_json
from tood.study.jobs import Execution, MeasuringJob
from tood.study.provenance import measured_digests

# The default reading of the paper's definitions, then one change at a time.
ALIGNMENT_READINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "ownership=centre": {"ownership": "centre"},
    "ownership=any": {"ownership": "any"},
    "iou_floor=0.1": {"iou_floor": 0.1},
    "iou_floor=0.5": {"iou_floor": 0.5},
    "correlation=value": {"correlation": "value"},
    "class_aware=false": {"class_aware": False},
    "empty_pools=drop": {"empty_pools": "drop"},
}
COUNT_READINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "class_aware=false": {"class_aware": False},
    "crowd=drop": {"crowd": "drop"},
}
# Detections for one more reading of the counts. Every class at every location would be 1.8 million boxes per
# image of COCO, so NMS gets the `nms_pre` best pairs of location and class per level, as in mmdet's heads.
WITHOUT_THRESHOLD = {"score_thr": 0.0, "nms_pre_by": "pair"}


class Measured(NamedTuple):
    """What one pass over the images gives."""

    alignment: dict[str, dict[str, float]]  # by reading, what `summarise` gives
    unfiltered: list[dict]  # detections without score threshold, as COCO results


def analyse(job: MeasuringJob, execution: Execution, detections: Path, output: Path, variants: Path) -> None:
    """Measure the columns of Table 6, and the same under other readings of the paper's definitions.

    Args:
        job: what is measured.
        execution: how it is computed.
        detections: as `tood.evaluation.evaluate` wrote them.
        output: written; the columns of the table, and `digests`.
        variants: written; every reading of what holds before NMS and after.

    Raises:
        RuntimeError: as `load_trained`.
    """
    trained = load_trained(job, execution)
    before, unfiltered = measure(trained, f"analyse {job.run}", execution.workers)
    after = count_readings(read_json(trained.annotations), read_json(detections), unfiltered)
    write_json(
        output,
        {
            "PCC (top-50)": before["default"]["pcc"],
            "IoU (top-10)": before["default"]["iou"],
            "#Correct boxes": after["default"]["correct"],
            "#Redundant boxes": after["default"]["redundant"],
            "#Error boxes": after["default"]["error"],
            "digests": measured_digests(job.model, job.evaluation),
        },
    )
    write_json(variants, {"before NMS": before, "after NMS": after})


def measure(trained: Trained, label: str, workers: int) -> Measured:
    """PCC and IoU under each reading, and by classification score alone (no centerness); detections.

    Args:
        trained: the detector and its images.
        label: shown with the progress.
        workers: processes that load images.
    """
    options = {name: replace(AlignmentOptions(), **change) for name, change in ALIGNMENT_READINGS.items()}
    by_score = "confidence=classification"
    found: dict[str, list[InstanceAlignment]] = {name: [] for name in [*options, by_score]}
    unfiltered = []
    cfg = {**trained.model.bbox_head.test_cfg, **WITHOUT_THRESHOLD}
    for sample, levels in dense_predictions(
        trained.model,
        trained.dataset,
        device=trained.device,
        label=label,
        workers=workers,
        indices=trained.indices,
    ):
        confidence, scores, boxes, points = (
            torch.cat(parts).cpu()
            for parts in zip(
                *((level.confidence, level.scores, level.boxes, level.points) for level in levels),
                strict=True,
            )
        )  # [A, C], [A, C], [A, 4], [A, 2]
        objects = sample.gt_instances.cpu()
        gt = objects.bboxes.to(boxes), objects.labels
        for name, option in options.items():
            found[name].append(instance_alignment(confidence, boxes, points, *gt, option))
        found[by_score].append(instance_alignment(scores, boxes, points, *gt, options["default"]))
        detections = select_detections(levels, sample.metainfo, cfg, rescale=True)
        unfiltered += coco_results(sample.img_id, detections, trained.dataset.cat_ids)
    alignment = {
        name: summarise(parts, options.get(name, options["default"])) for name, parts in found.items()
    }
    return Measured(alignment, unfiltered)


def count_readings(truth: dict, evaluated: dict, unfiltered: list[dict]) -> dict[str, dict[str, int]]:
    """Correct, redundant and error boxes after NMS under each reading, over the evaluated images.

    Args:
        truth: the annotation file.
        evaluated: `image_ids`, and `detections` as COCO results.
        unfiltered: detections on the same images without score threshold.
    """
    chosen = set(evaluated["image_ids"])
    for key, name in (("images", "id"), ("annotations", "image_id")):
        truth = truth | {key: [entry for entry in truth[key] if entry[name] in chosen]}
    counts = {
        name: count_boxes(truth, evaluated["detections"], replace(CountOptions(), **change))
        for name, change in COUNT_READINGS.items()
    }
    return counts | {"score_thr=0": count_boxes(truth, unfiltered, CountOptions())}
