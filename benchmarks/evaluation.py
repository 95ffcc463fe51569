"""Benchmarks of what happens to the predictions of a trained detector."""

import contextlib
import io
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.inputs import CLASSES, STRIDES, objects, predictions
from benchmarks.pair import FLOAT, Pair
from tood.analysis.table6.anchors import anchors_of
from tood.analysis.table6.columns import Statistics
from tood.evaluation import detection
from tood.models.common.dense_level import DenseLevel, grid_of

IMAGES, OBJECTS, DETECTIONS = 8, 7, 100
TEST_CFG = dict(score_thr=0.05, nms_pre=1000, nms=dict(type="nms", iou_threshold=0.6), max_per_img=DETECTIONS)


def statistics(size: tuple[int, int], device: torch.device) -> Pair:
    """Table 6's statistics of images with dense predictions."""
    inputs = predictions(IMAGES, OBJECTS, size, device)
    images = []
    for b, gt in enumerate(inputs.gts):
        meta = dict(img_id=b, img_shape=size, scale_factor=(1.0, 1.0))
        sample = DetDataSample(gt_instances=gt, metainfo=meta)
        levels = []
        for score, box, stride in zip(inputs.scores, inputs.boxes, STRIDES, strict=True):
            height, width = grid = grid_of(score)
            scores, boxes = (
                x[b].flatten(1).T.contiguous() for x in (score, box * stride)
            )  # [H*W, C], [H*W, 4]
            index = torch.arange(height * width, device=device)
            points = torch.stack([index % width, index // width], 1) * float(stride)  # [H*W, 2]
            levels.append(DenseLevel(scores, scores.clone(), boxes, points, grid, stride))
        images.append((sample, levels))

    def run() -> dict[str, dict[str, float]]:
        collector = Statistics(TEST_CFG, list(range(1, CLASSES + 1)))
        for sample, levels in images:
            objects = sample.gt_instances
            collector.add(sample, levels, anchors_of(levels, objects.bboxes, objects.labels))
        return collector.alignment(range(IMAGES))

    elements = sum(level.numel() for level in inputs.scores)
    skipped = "its speed alone is of interest"
    return Pair(run, None, _same, bytes=FLOAT * elements, skipped=skipped, images=IMAGES)


def coco_ap(images: int, device: torch.device) -> Pair:
    """AP of detections near the objects of as many images, and of some anywhere."""
    truth, detections = _annotations_and_detections(images)
    path = Path(tempfile.mkdtemp()) / "truth.json"
    path.write_text(json.dumps(truth))
    ids = [image["id"] for image in truth["images"]]

    def by_pycocotools() -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(path))
            evaluation = COCOeval(coco, coco.loadRes([dict(entry) for entry in detections]), "bbox")
            evaluation.params.imgIds = ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return dict(zip(detection.AP_NAMES, (100 * evaluation.stats[:6]).tolist(), strict=True))

    ours = partial(detection.coco_ap, path, detections, ids)
    return Pair(ours, by_pycocotools, _same, bytes=2 * FLOAT * 6 * len(detections), images=images)


def _same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours == theirs


def _annotations_and_detections(images: int) -> tuple[dict, list[dict]]:
    """Annotations with objects of `inputs.objects`, and detections, six in ten of them near an object."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    annotations: list[dict] = []
    detections: list[dict] = []
    for image in range(1, images + 1):
        gt = objects(OBJECTS, (480, 640), generator)
        corners, labels = gt.bboxes.numpy().astype(float), gt.labels.numpy()
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)  # [G, 4] (x, y, w, h)
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            fields = dict(area=0.6 * box[2] * box[3], iscrowd=int(rng.random() < 0.01))
            annotation = dict(id=len(annotations) + 1, image_id=image, category_id=label + 1, bbox=box)
            annotations.append(annotation | fields)
        near = rng.integers(OBJECTS, size=DETECTIONS)
        shifts = rng.normal(size=(DETECTIONS, 4)) * 0.15 * np.sqrt(boxes[near, 2:].prod(1, keepdims=True))
        own = rng.random(DETECTIONS) < 0.6
        anywhere = np.concatenate(
            [rng.uniform(0, 400, (DETECTIONS, 2)), rng.uniform(5, 200, (DETECTIONS, 2))], 1
        )
        detected = np.where(own[:, None], boxes[near] + shifts, anywhere)
        detected[:, 2:] = detected[:, 2:].clip(min=1)
        few = rng.integers(CLASSES, size=5)
        classes = np.where(own, labels[near], few[rng.integers(5, size=DETECTIONS)]) + 1
        scores = rng.random(DETECTIONS) ** 2
        detections += [
            dict(image_id=image, category_id=category, bbox=box, score=score)
            for category, box, score in zip(classes.tolist(), detected.tolist(), scores.tolist(), strict=True)
        ]
    listed = [dict(id=image, width=640, height=480) for image in range(1, images + 1)]
    categories = [dict(id=c, name=str(c)) for c in range(1, CLASSES + 1)]
    return dict(images=listed, annotations=annotations, categories=categories), detections
