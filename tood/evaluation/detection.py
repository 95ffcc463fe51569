"""Detections of a trained model on a COCO-layout split, and COCO AP by pycocotools."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tood.data.loading import evaluation_batches
from tood.models.common.dense_level import DenseLevel
from tood.runtime.progress import Progress

# The tables' names of pycocotools' first six figures.
AP_NAMES = ("AP", "AP50", "AP75", "APS", "APM", "APL")


def detect(
    model: SingleStageDetector,
    dataset: CocoDataset,
    *,
    device: torch.device,
    label: str,
    batch_size: int,
    workers: int = 0,
    indices: Sequence[int] | None = None,
) -> tuple[list[dict], list[int]]:
    """Detections on a test dataset in COCO's format for results, and the ids of its images.

    Boxes are (x, y, w, h) in pixels of the original images.

    Args:
        model: a trained detector.
        dataset: with images that have no objects.
        device: to run on.
        label: shown with the progress.
        batch_size: images at a time.
        workers: processes that load images.
        indices: of the images to use; all by default.
    """
    model.to(device).eval()
    total, batches = evaluation_batches(dataset, batch_size, workers, indices)
    detections, image_ids = [], []
    with Progress(label, total) as progress, torch.no_grad():
        for batch in batches:
            samples = model(**model.data_preprocessor(batch), mode="predict")
            for sample in samples:
                image_ids.append(sample.img_id)
                detections += coco_results(sample.img_id, sample.pred_instances, dataset.cat_ids)
            progress.advance(len(samples))
    return detections, image_ids


def coco_results(image_id: int, found: InstanceData, category_ids: Sequence[int]) -> list[dict]:
    """Detections of one image in COCO's format for results.

    Args:
        image_id: of the image.
        found: `bboxes` [K, 4] as (x1, y1, x2, y2) in original pixels, `scores` [K], `labels` [K].
        category_ids: of each label.
    """
    corners = found.bboxes.cpu()
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)  # [K, 4] (x, y, w, h)
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(
            boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]


def dense_predictions(
    model: SingleStageDetector,
    dataset: CocoDataset,
    *,
    device: torch.device,
    label: str,
    workers: int = 0,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[DetDataSample, list[DenseLevel]]]:
    """Each test image with every anchor's prediction before NMS; its objects too are in input pixels."""
    model.to(device).eval()
    total, batches = evaluation_batches(dataset, 1, workers, indices)
    with Progress(label, total) as progress:
        for batch in batches:
            with torch.no_grad():
                data = model.data_preprocessor(batch)
                (sample,) = data["data_samples"]
                outs = model.bbox_head(model.extract_feat(data["inputs"]))
                (levels,) = model.bbox_head.dense_by_feat(*outs, batch_img_metas=[sample.metainfo])
            yield sample, levels
            progress.advance(1)


def coco_ap(annotations: Path, detections: list[dict], image_ids: list[int]) -> dict[str, float]:
    """AP, AP50, AP75, APS, APM, APL in percent over the given images; nan where no object is to be found.

    Args:
        annotations: COCO annotation file.
        detections: as `detect` returns them.
        image_ids: images that count.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        if detections:
            found = truth.loadRes([dict(detection) for detection in detections])  # which it adds keys to
        else:  # which loadRes does not take
            found = COCO()
            found.dataset = truth.dataset | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools says -1 for "no such object"
    return {
        name: float(value) * 100 if value >= 0 else float("nan")
        for name, value in zip(AP_NAMES, evaluation.stats[:6], strict=True)
    }
