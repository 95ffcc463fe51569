"""Table 6: how well classification and localisation of a trained run agree, before NMS and after."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from mmdet.structures import DetDataSample

from tood.analysis.table6.alignment import AlignmentOptions, InstanceAlignment, instance_alignment, summarise
from tood.analysis.table6.anchors import Anchors
from tood.analysis.table6.box_counts import CountOptions, count_boxes
from tood.analysis.table6.names import METRIC_OF
from tood.evaluation.detection import coco_results
from tood.ledger.provenance import measured_digests
from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import select_detections
from tood.runtime.files import write_json
from tood.study.jobs import AnalysisJob
from tood.study.paths import RunPaths

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


class Statistics:
    """The measurements of one pass over the images, image by image.

    PCC and IoU are under each reading, and by classification score alone, without centerness.

    Args:
        test_cfg: of the detector, see `DensePredictionMixin`.
        category_ids: of the images, by label.
    """

    BY_SCORE = "confidence=classification"

    def __init__(self, test_cfg: Mapping[str, Any], category_ids: Sequence[int]) -> None:
        self._unfiltered: dict[int, list[dict]] = {}  # by id of the image
        self._category_ids = category_ids
        self._test_cfg = {**test_cfg, **WITHOUT_THRESHOLD}
        self._options = {
            name: replace(AlignmentOptions(), **change) for name, change in ALIGNMENT_READINGS.items()
        }
        self._found: dict[str, dict[int, InstanceAlignment]] = {
            name: {} for name in [*self._options, self.BY_SCORE]
        }

    def add(self, sample: DetDataSample, levels: list[DenseLevel], anchors: Anchors) -> None:
        """Add one image, with its predictions on the model's device and its anchors on the CPU."""
        instances = anchors.instances
        confidence = torch.cat([level.confidence for level in anchors.levels])  # [A, C]
        aligned = instance_alignment(confidence, instances, self._options)
        if all(level.confidence is level.scores for level in anchors.levels):
            aligned[self.BY_SCORE] = aligned["default"]
        else:
            scores = torch.cat([level.scores for level in anchors.levels])  # [A, C]
            by_score = {self.BY_SCORE: self._options["default"]}
            aligned |= instance_alignment(scores, instances, by_score)
        for name, values in aligned.items():
            self._found[name][sample.img_id] = values
        detections = select_detections(levels, sample.metainfo, self._test_cfg, rescale=True)
        self._unfiltered[sample.img_id] = coco_results(sample.img_id, detections, self._category_ids)

    def unfiltered(self, image_ids: Iterable[int]) -> list[dict]:
        """Detections without score threshold on the added images, as COCO results."""
        return list(chain.from_iterable(self._unfiltered[image] for image in image_ids))

    def alignment(self, image_ids: Sequence[int]) -> dict[str, dict[str, float]]:
        """The result of `summarise` under each reading, for the added images."""
        default = self._options["default"]
        return {
            name: summarise([images[image] for image in image_ids], self._options.get(name, default))
            for name, images in self._found.items()
        }


def write_table6(
    job: AnalysisJob,
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, int]],
    files: RunPaths,
) -> None:
    """Write the columns of Table 6, and the same under other readings of the paper's definitions.

    Args:
        job: what is measured.
        before: the values before NMS under each reading, from `Statistics.alignment`.
        after: the values after NMS, from `count_readings`.
        files: of these are written `alignment`, the columns of the table and `digests`, and
            `alignment_variants`, every reading.
    """
    values = {**before["default"], **after["default"]}
    columns = {name: values[key] for key, name in METRIC_OF.items()}
    write_json(files.alignment, columns | {"digests": measured_digests(job.model, job.analysis)})
    write_json(files.alignment_variants, {"before NMS": before, "after NMS": after})


def count_readings(
    truth: dict, detections: list[dict], image_ids: Iterable[int], unfiltered: list[dict]
) -> dict[str, dict[str, int]]:
    """Correct, redundant and error boxes after NMS under each reading, over the evaluated images.

    Args:
        truth: the annotation file.
        detections: COCO results.
        image_ids: images that they are on.
        unfiltered: detections on the same images without score threshold.
    """
    chosen = set(image_ids)
    for key, name in (("images", "id"), ("annotations", "image_id")):
        truth = truth | {key: [entry for entry in truth[key] if entry[name] in chosen]}
    counts = {
        name: count_boxes(truth, detections, replace(CountOptions(), **change))
        for name, change in COUNT_READINGS.items()
    }
    return counts | {"score_thr=0": count_boxes(truth, unfiltered, CountOptions())}
