"""Detections by class: AP, precision against recall, and which classes are taken for which."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pycocotools import mask

from tood.evaluation.dense_ids import require_known
from tood.evaluation.detection import coco_evaluation
from tood.runtime.files import read_json

# IoU thresholds of the curves by their names; None: the mean over COCO's ten.
CURVES: dict[str, float | None] = {"AP": None, "AP50": 0.5, "AP75": 0.75}
_TO_FILE = 4  # decimals of a precision; a curve has 101


class PerClass(NamedTuple):
    """One set of detections by class."""

    metrics: pd.DataFrame  # category_id, class, images, objects, AP, AP50, AP75, AR in percent
    curves: pd.DataFrame  # category_id, class, metric of `CURVES`, recall, precision
    confusion: np.ndarray  # see `confusion`


def measure(
    annotations: Path, detections: list[dict], image_ids: list[int], least_score: float, least_iou: float
) -> PerClass:
    """Everything that is known of detections by class.

    Args:
        annotations: COCO annotation file.
        detections: COCO results.
        image_ids: images that count.
        least_score: of the detections that the confusion matrix counts.
        least_iou: of a detection and its object in the confusion matrix.

    Raises:
        ValueError: a detection is on an image, or of a category, that the annotations do not list.
    """
    truth = read_json(annotations)
    require_known(truth, detections)
    evaluated = set(image_ids)
    results = [detection for detection in detections if detection["image_id"] in evaluated]
    evaluation = coco_evaluation(annotations, results, image_ids)
    # [T, R, K] and [T, K], of all areas and 100 detections; -1 without an object
    precision = _known(np.asarray(evaluation.eval["precision"])[..., 0, -1])
    recall = _known(np.asarray(evaluation.eval["recall"])[..., 0, -1])
    thresholds = np.asarray(evaluation.params.iouThrs)
    of_curve = {
        metric: _mean(precision) if iou is None else precision[_place(thresholds, iou)]
        for metric, iou in CURVES.items()
    }  # [R, K]
    names = classes(truth)
    counted = _counted(truth, evaluated)
    values = pd.DataFrame(
        {"category_id": id_, "class": name, **counted[id_]}
        | {metric: 100 * curve[:, place].mean() for metric, curve in of_curve.items()}
        | {"AR": 100 * recall[:, place].mean()}
        for place, (id_, name) in enumerate(names.items())
    )
    at = np.asarray(evaluation.params.recThrs)
    curves = [
        pd.DataFrame(
            {
                "category_id": id_,
                "class": name,
                "metric": metric,
                "recall": at,
                "precision": curve[:, place].round(_TO_FILE),
            }
        )
        for place, (id_, name) in enumerate(names.items())
        for metric, curve in of_curve.items()
    ]
    return PerClass(
        values,
        pd.concat(curves, ignore_index=True),
        confusion(truth, results, image_ids, least_score, least_iou),
    )


def classes(truth: Mapping[str, Any]) -> dict[int, str]:
    """Names of the classes of annotations by their ids, in the order of these."""
    return {
        category["id"]: category["name"]
        for category in sorted(truth["categories"], key=lambda category: category["id"])
    }


def confusion(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    image_ids: Sequence[int],
    least_score: float,
    least_iou: float,
) -> np.ndarray:
    """How many objects of a class were detected as which class, at one threshold of scores.

    In an image, detections are taken by falling score. Each belongs to the object, of any class, with the
    highest IoU among those that no detection before it belongs to, if that IoU is large enough. A detection
    that belongs to no object and lies in a crowd region, by COCO's rule, does not count.

    Returns:
        [C + 1, C + 1] counts. Rows are the classes of objects, in the order of `classes`; the last row is of
        detections without an object. Columns are the classes of detections; the last column is of objects
        without a detection.
    """
    place = {id_: number for number, id_ in enumerate(classes(truth))}
    objects: dict[int, list[Mapping]] = {}
    for annotation in truth["annotations"]:
        objects.setdefault(annotation["image_id"], []).append(annotation)
    by_image: dict[int, list[Mapping]] = {}
    for detection in detections:
        if detection["score"] >= least_score:
            by_image.setdefault(detection["image_id"], []).append(detection)
    counts = np.zeros((len(place) + 1, len(place) + 1), dtype=int)
    for image in image_ids:
        here = objects.get(image, [])
        taken: set[int] = set()
        best_first = sorted(by_image.get(image, []), key=lambda detection: -detection["score"])
        crowd = np.array([bool(entry.get("iscrowd")) for entry in here], dtype=bool)
        ious = _ious(best_first, here, crowd)  # [D, G]
        for detection, row in zip(best_first, ious, strict=True):
            free = [number for number in range(len(here)) if not crowd[number] and number not in taken]
            column = place[detection["category_id"]]
            best = max(free, key=lambda number: row[number], default=None)
            if best is not None and row[best] >= least_iou:
                taken.add(best)
                counts[place[here[best]["category_id"]], column] += 1
            elif not (row[crowd] >= least_iou).any():
                counts[-1, column] += 1
        for number, entry in enumerate(here):
            if not crowd[number] and number not in taken:
                counts[place[entry["category_id"]], -1] += 1
    return counts


def _ious(detections: Sequence[Mapping], objects: Sequence[Mapping], crowd: np.ndarray) -> np.ndarray:
    """[D, G] IoU of each pair; for a crowd region the share of the detection that is in it."""
    if not (detections and objects):
        return np.zeros((len(detections), len(objects)))
    boxes = [np.array([entry["bbox"] for entry in side], dtype=float) for side in (detections, objects)]
    return np.asarray(mask.iou(*boxes, crowd.astype(np.uint8).tolist()))


def _counted(truth: Mapping[str, Any], images: set[int]) -> dict[int, dict[str, int]]:
    """Of each category its images and objects among those that count, without crowd regions."""
    of_category: dict[int, list[int]] = {id_: [] for id_ in classes(truth)}
    for annotation in truth["annotations"]:
        if annotation["image_id"] in images and not annotation.get("iscrowd"):
            of_category[annotation["category_id"]].append(annotation["image_id"])
    return {id_: {"images": len(set(ids)), "objects": len(ids)} for id_, ids in of_category.items()}


def _known(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, np.nan, values)


def _mean(precision: np.ndarray) -> np.ndarray:
    """[T, ...] over the thresholds; whether a class has an object is the same at each."""
    return precision.mean(axis=0)


def _place(thresholds: np.ndarray, iou: float) -> int:
    return int(np.abs(thresholds - iou).argmin())
