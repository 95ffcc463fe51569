"""Table 6: how well classification and localisation of a trained run agree, before NMS and after."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tood.analysis.alignment import AlignmentOptions, InstanceAlignment, instance_alignment, summarise
from tood.analysis.box_counts import CountOptions, count_boxes
from tood.evaluation.detection import dense_predictions
from tood.evaluation.trained_run import Trained, load_trained
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
    before = measure_alignment(trained, f"analyse {job.run}", execution.workers)
    after = count_readings(read_json(trained.annotations), read_json(detections))
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


def measure_alignment(trained: Trained, label: str, workers: int) -> dict[str, dict[str, float]]:
    """PCC and IoU under each reading, and by classification score alone (no centerness).

    Args:
        trained: the detector and its images.
        label: shown with the progress.
        workers: processes that load images.

    Returns:
        by reading, what `summarise` gives
    """
    options = {name: replace(AlignmentOptions(), **change) for name, change in ALIGNMENT_READINGS.items()}
    by_score = "confidence=classification"
    found: dict[str, list[InstanceAlignment]] = {name: [] for name in [*options, by_score]}
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
    return {name: summarise(parts, options.get(name, options["default"])) for name, parts in found.items()}


def count_readings(truth: dict, evaluated: dict) -> dict[str, dict[str, int]]:
    """Correct, redundant and error boxes after NMS under each reading, over the evaluated images.

    Args:
        truth: the annotation file.
        evaluated: `image_ids`, and `detections` as COCO results.
    """
    chosen = set(evaluated["image_ids"])
    for key, name in (("images", "id"), ("annotations", "image_id")):
        truth = truth | {key: [entry for entry in truth[key] if entry[name] in chosen]}
    return {
        name: count_boxes(truth, evaluated["detections"], replace(CountOptions(), **change))
        for name, change in COUNT_READINGS.items()
    }
