"""Annotations and detections in COCO's formats, to compare counts and APs with pycocotools."""

import contextlib
import io
from copy import deepcopy
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

AP_NAMES = ("AP", "AP50", "AP75", "APS", "APM", "APL")


def by_pycocotools(annotations: Path, detections: list[dict] | str, image_ids: list[int]) -> dict[str, float]:
    """The six figures in percent; -100 where pycocotools says that there is no object.

    Args:
        annotations: COCO annotation file.
        detections: COCO results, or the path of a file with them.
        image_ids: images that count.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluator = COCOeval(truth, truth.loadRes(deepcopy(detections)), "bbox")
        evaluator.params.imgIds = image_ids
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(AP_NAMES, (evaluator.stats[:6] * 100).tolist(), strict=True))


def random_dataset(seed: int, images: int = 30, crowded: bool = False) -> tuple[dict, list[dict]]:
    """Annotations with crowds, and boxes around them, with ties of score and of IoU."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(1, images + 1):
        corners = rng.integers(0, 40, (rng.integers(0, 9), 2))
        sizes = rng.integers(4, 40, corners.shape)
        boxes = np.hstack([corners, sizes])
        for box in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, 4)),
                    "bbox": box.tolist(),
                    "area": int(box[2] * box[3]),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
        for _ in range(rng.integers(100, 400) if crowded else rng.integers(0, 60)):
            base = boxes[rng.integers(len(boxes))] if len(boxes) else np.array([5, 5, 20, 20])
            box = base + rng.integers(-4, 5, 4)
            detections.append(
                {
                    "image_id": image,
                    "category_id": int(rng.integers(1, 4)),
                    "bbox": [*box[:2].tolist(), *np.maximum(box[2:], 1).tolist()],
                    "score": round(float(rng.random()), 1),
                }
            )
    gt = {
        "images": [{"id": i} for i in range(1, images + 1)],
        "categories": [{"id": i} for i in (1, 2, 3)],
        "annotations": annotations,
    }
    return gt, detections


def near_annotations(gt: dict) -> list[dict]:
    """Four boxes around each annotation; every tenth is of another class."""
    rng = np.random.default_rng(0)
    categories = sorted({a["category_id"] for a in gt["annotations"]})
    detections = []
    for annotation in gt["annotations"]:
        x, y, w, h = annotation["bbox"]
        for _ in range(4):
            dx, dy, dw, dh = rng.normal(0, 0.2, 4)
            category = annotation["category_id"] if rng.random() > 0.1 else rng.choice(categories)
            detections.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": int(category),
                    "bbox": [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)],
                    "score": float(rng.random()),
                }
            )
    return detections
