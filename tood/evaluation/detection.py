"""One pass of a trained model over a COCO-layout split: detections, dense predictions, COCO AP."""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
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

# Receives an image of a pass and its dense predictions.
Observer = Callable[[DetDataSample, list[DenseLevel]], None]


@dataclass(frozen=True)
class Prediction:
    """The predictions of a detector for one image, computed from its maps on demand."""

    index: int  # of the image in the dataset
    sample: DetDataSample  # its objects are in pixels of the network's input
    head: DensePredictionMixin
    outs: tuple[list[Tensor], ...]  # of the head: levels of [1, channels, H, W]

    def detections(self) -> InstanceData:
        """The boxes after NMS: `bboxes` [K, 4] in original pixels, `scores` [K], `labels` [K]."""
        (instances,) = self.head.predict_by_feat(
            *self.outs, batch_img_metas=[self.sample.metainfo], rescale=True
        )
        return instances

    def levels(self) -> list[DenseLevel]:
        """Every anchor, before any selection."""
        (levels,) = self.head.dense_by_feat(*self.outs, batch_img_metas=[self.sample.metainfo])
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
    """Predictions for each test image; only those of one batch are in memory at a time.

    Images of one size are together in a batch, so their order is not that of the dataset, unless the batch
    size is 1.

    Args:
        model: a trained detector.
        dataset: with images that have no objects.
        device: to run on.
        label: shown with the progress.
        batch_size: images at a time, at most.
        workers: processes that load images.
        indices: of the images to use; all by default.
    """
    model.to(device).eval()
    order, batches = evaluation_batches(dataset, batch_size, workers, indices)
    remaining = iter(order)
    with Progress(label, len(order)) as progress:
        for batch in batches:
            with torch.no_grad():
                data = model.data_preprocessor(batch)
                outs = model.bbox_head(model.extract_feat(data["inputs"]))
                for b, sample in enumerate(data["data_samples"]):
                    alone = tuple([level[b : b + 1] for level in kind] for kind in outs)
                    yield Prediction(next(remaining), sample, model.bbox_head, alone)
            progress.advance(len(data["data_samples"]))


def dense_predictions(
    model: SingleStageDetector, dataset: CocoDataset, **options: Any
) -> Iterator[tuple[DetDataSample, list[DenseLevel]]]:
    """Each test image with every anchor's prediction before NMS; order and arguments as `predictions`."""
    for prediction in predictions(model, dataset, **options):
        yield prediction.sample, prediction.levels()


def detect(
    model: SingleStageDetector, dataset: CocoDataset, *, observe: Observer | None = None, **options: Any
) -> tuple[list[dict], list[int]]:
    """Detections on a test dataset in COCO's format for results, and the ids of its images, in its order.

    Boxes are (x, y, w, h) in pixels of the original images.

    Args:
        model: a trained detector.
        dataset: with images that have no objects.
        observe: receives the dense predictions of each image in the same pass, in the order of `predictions`.
        options: as `predictions`.
    """
    by_index: dict[int, tuple[int, list[dict]]] = {}  # id and detections of an image, by its index
    for prediction in predictions(model, dataset, **options):
        sample = prediction.sample
        results = coco_results(sample.img_id, prediction.detections(), dataset.cat_ids)
        by_index[prediction.index] = sample.img_id, results
        if observe:
            observe(sample, prediction.levels())
    images = [by_index[index] for index in sorted(by_index)]
    return list(chain.from_iterable(results for _, results in images)), [image_id for image_id, _ in images]


def coco_results(image_id: int, instances: InstanceData, category_ids: Sequence[int]) -> list[dict]:
    """Detections of one image in COCO's format for results.

    Args:
        image_id: of the image.
        instances: `bboxes` [K, 4] as (x1, y1, x2, y2) in original pixels, `scores` [K], `labels` [K].
        category_ids: of each label.
    """
    columns = (instances.bboxes, instances.scores[:, None], instances.labels[:, None])
    # One copy from the device, in a type that holds labels too
    rows = torch.cat([column.double() for column in columns], 1).cpu()  # [K, 6]
    corners = rows[:, :4].to(instances.bboxes.dtype)
    boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)  # [K, 4] (x, y, w, h)
    return [
        {"image_id": image_id, "category_id": category_ids[int(label)], "bbox": box, "score": score}
        for box, (score, label) in zip(boxes.tolist(), rows[:, 4:].tolist(), strict=True)
    ]


def coco_evaluation(annotations: Path, detections: list[dict], image_ids: list[int]) -> COCOeval_faster:
    """COCO's evaluation of boxes over the given images, accumulated; arguments and errors as `coco_ap`.

    It uses faster-coco-eval, which gives the values of pycocotools, up to rounding, several times faster. Its
    ids are those of `renumbered`.
    """
    truth, renumbered_results = renumbered(read_json(annotations), detections, image_ids)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(truth)
        evaluation = COCOeval_faster(known, known.loadRes(renumbered_results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_ap(annotations: Path, detections: list[dict], image_ids: list[int]) -> dict[str, float]:
    """AP, AP50, AP75, APS, APM, APL in percent over the given images; nan where there is no object.

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
