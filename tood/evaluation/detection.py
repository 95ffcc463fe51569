"""One pass of a trained model over a COCO-layout split: detections, dense predictions, COCO AP."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from faster_coco_eval import COCO, COCOeval_faster
from mmdet.datasets import CocoDataset
from mmdet.models.detectors import SingleStageDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from tood.data.loading import evaluation_batches
from tood.evaluation.dense_ids import renumbered
from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.runtime.files import read_json
from tood.runtime.progress import Progress

# The tables' names of the first six figures of COCO's evaluation.
AP_NAMES = ("AP", "AP50", "AP75", "APS", "APM", "APL")

# Takes an image of a pass and its dense predictions.
Observer = Callable[[DetDataSample, list[DenseLevel]], None]


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one image, made from its maps on demand."""

    sample: DetDataSample  # its objects are in pixels of the network's input
    head: DensePredictionMixin
    outs: tuple[list[Tensor], ...]  # of the head: levels of [1, channels, H, W]

    def detections(self) -> InstanceData:
        """What is left after NMS: `bboxes` [K, 4] in original pixels, `scores` [K], `labels` [K]."""
        (found,) = self.head.predict_by_feat(*self.outs, batch_img_metas=[self.sample.metainfo], rescale=True)
        return found

    def levels(self) -> list[DenseLevel]:
        """Every anchor, before any selection.

        Larger images of the batch padded this one. The anchors of that padding are left out, so that those
        that count are the same however images are batched.
        """
        height, width = self.sample.pad_shape[:2]
        own = [
            [
                level[..., : math.ceil(height / stride[1]), : math.ceil(width / stride[0])]
                for level, stride in zip(kind, self.head.prior_generator.strides, strict=True)
            ]
            for kind in self.outs
        ]
        (levels,) = self.head.dense_by_feat(*own, batch_img_metas=[self.sample.metainfo])
        return levels


def predictions(
    model: SingleStageDetector,
    dataset: CocoDataset,
    *,
    device: torch.device,
    label: str,
    batch_size: int = 1,
    workers: int = 0,
    indices: Sequence[int] | None = None,
) -> Iterator[Prediction]:
    """Predictions for each test image, of which those of one batch are in memory at a time.

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
    with Progress(label, total) as progress:
        for batch in batches:
            with torch.no_grad():
                data = model.data_preprocessor(batch)
                outs = model.bbox_head(model.extract_feat(data["inputs"]))
                for b, sample in enumerate(data["data_samples"]):
                    alone = tuple([level[b : b + 1] for level in kind] for kind in outs)
                    yield Prediction(sample, model.bbox_head, alone)
            progress.advance(len(data["data_samples"]))


def dense_predictions(
    model: SingleStageDetector, dataset: CocoDataset, **options: Any
) -> Iterator[tuple[DetDataSample, list[DenseLevel]]]:
    """Each test image with every anchor's prediction before NMS; arguments as `predictions`."""
    for prediction in predictions(model, dataset, **options):
        yield prediction.sample, prediction.levels()


def detect(
    model: SingleStageDetector, dataset: CocoDataset, *, observe: Observer | None = None, **options: Any
) -> tuple[list[dict], list[int]]:
    """Detections on a test dataset in COCO's format for results, and the ids of its images.

    Boxes are (x, y, w, h) in pixels of the original images.

    Args:
        model: a trained detector.
        dataset: with images that have no objects.
        observe: gets the dense predictions of each image in the same pass.
        options: as `predictions`.
    """
    detections, image_ids = [], []
    for prediction in predictions(model, dataset, **options):
        sample = prediction.sample
        image_ids.append(sample.img_id)
        detections += coco_results(sample.img_id, prediction.detections(), dataset.cat_ids)
        if observe:
            observe(sample, prediction.levels())
    return detections, image_ids


def coco_results(image_id: int, found: InstanceData, category_ids: Sequence[int]) -> list[dict]:
    """Detections of one image in COCO's format for results.

    Args:
        image_id: of the image.
        found: `bboxes` [K, 4] as (x1, y1, x2, y2) in original pixels, `scores` [K], `labels` [K].
        category_ids: of each label.
    """
    columns = (found.bboxes, found.scores[:, None], found.labels[:, None])
    # One copy from the device, in a type that holds labels too
    rows = torch.cat([column.double() for column in columns], 1).cpu()  # [K, 6]
    corners = rows[:, :4].to(found.bboxes.dtype)
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)  # [K, 4] (x, y, w, h)
    return [
        {"image_id": image_id, "category_id": category_ids[int(label)], "bbox": box, "score": score}
        for box, (score, label) in zip(boxes.tolist(), rows[:, 4:].tolist(), strict=True)
    ]


def coco_evaluation(annotations: Path, detections: list[dict], image_ids: list[int]) -> COCOeval_faster:
    """COCO's evaluation of boxes over the given images, accumulated; arguments and errors as `coco_ap`.

    By faster-coco-eval, which gives what pycocotools gives, up to rounding, several times as fast. Its ids
    are those of `renumbered`.
    """
    truth, found = renumbered(read_json(annotations), detections, image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(truth)
        evaluation = COCOeval_faster(known, known.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_ap(annotations: Path, detections: list[dict], image_ids: list[int]) -> dict[str, float]:
    """AP, AP50, AP75, APS, APM, APL in percent over the given images; nan where no object is to be found.

    Args:
        annotations: COCO annotation file.
        detections: as `detect` returns them.
        image_ids: images that count.

    Raises:
        ValueError: a detection is on an image, or of a category, that the annotations do not list.
    """
    evaluation = coco_evaluation(annotations, detections, image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    # COCO's code says -1 for "no such object"
    return {
        name: float(value) * 100 if value >= 0 else float("nan")
        for name, value in zip(AP_NAMES, evaluation.stats[:6], strict=True)
    }
