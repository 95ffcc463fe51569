"""How far apart an object is classified best and localised best, over all objects of a data set.

Figure 1 of the paper shows one object; this module measures all objects, and for the most confident anchors
how score and IoU are related. `BestAnchors` receives one image after the other, so that it can share a pass.
"""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor
from torchvision.ops import box_area, box_iou

from tood.analysis.figures.maps import ImageAnchors, distance
from tood.analysis.table6.alignment import AlignmentOptions
from tood.analysis.table6.anchors import Anchors

BINS = 50  # of score and of IoU in [0, 1]


class ObjectRecord(NamedTuple):
    """One object under one detector."""

    image_id: int
    instance: int  # index among the objects of its image that are no crowd
    label: int  # class
    share: float  # of the image that its box covers, in [0, 1]
    crowded: bool  # whether a crowd, or another object of its class, overlaps its box at all
    distance: float | None  # between both best anchors, in units of the square root of the box's area
    score: float | None  # of the best-classified anchor
    classified: float | None  # IoU of the box of this anchor
    localised: float | None  # highest IoU of any anchor's box
    # The last four are None if no anchor belongs to the object.


class BestAnchors:
    """Collects the objects of the images that it receives, and the density of score and IoU."""

    def __init__(self) -> None:
        self.objects: dict[int, list[ObjectRecord]] = {}  # by id of the image
        self.density = np.zeros((BINS, BINS), dtype=np.int64)

    def add(self, sample: DetDataSample, anchors: Anchors) -> None:
        """Take one image: its objects in pixels of the input, and its anchors."""
        self.objects[sample.img_id] = object_records(sample, anchors)
        self.density += score_iou_density(anchors)

    def to_json(self, image_ids: Iterable[int]) -> dict:
        """Columns of the objects, image by image, and `density` [score, IoU]."""
        rows = list(chain.from_iterable(self.objects[image] for image in image_ids))
        columns = zip(*rows, strict=True) if rows else ([] for _ in ObjectRecord._fields)
        objects = {name: list(column) for name, column in zip(ObjectRecord._fields, columns, strict=True)}
        return {"objects": objects, "density": self.density.tolist()}


def object_records(sample: DetDataSample, anchors: Anchors) -> list[ObjectRecord]:
    """The measurements of each object of one image.

    Args:
        sample: with `gt_instances` and, if there are crowds, `ignored_instances`, in pixels of the input.
        anchors: of the image.
    """
    objects, size = sample.gt_instances.cpu(), sample.img_shape[:2]
    boxes, labels = objects.bboxes.float(), objects.labels
    best = ImageAnchors(anchors, size)
    crowded = _crowded(boxes, labels, _crowds(sample))
    areas = box_area(boxes)  # [G]
    records = []
    for g in range(len(boxes)):
        red, green = best.best(g) or (None, None)
        apart = distance(red, green) if red and green else None
        records.append(
            ObjectRecord(
                sample.img_id,
                g,
                int(labels[g]),
                float(areas[g]) / (size[0] * size[1]),
                bool(crowded[g]),
                # An object without area has no size to measure by.
                apart / float(areas[g]) ** 0.5 if apart is not None and areas[g] > 0 else None,
                red.score if red else None,
                red.iou if red else None,
                green.iou if green else None,
            )
        )
    return records


def score_iou_density(anchors: Anchors) -> np.ndarray:
    """Counts [score, IoU] of the 50 most confident anchors of each object of an image, as for PCC of Table 6.

    The score is the value that NMS ranks by. Both are in `BINS` equal parts of [0, 1], the last of which
    includes 1.
    """
    options, instances = AlignmentOptions(), anchors.instances
    confidence = torch.cat([level.confidence for level in anchors.levels])  # [A, C]
    pools = instances.of(options)  # [G, A]
    counts = np.zeros((BINS, BINS), dtype=np.int64)
    for g, label in enumerate(instances.labels.tolist()):
        pool = pools[g].nonzero().squeeze(1)  # [P]
        scores = confidence[pool, label]
        best = scores.topk(min(options.top_pcc, len(pool))).indices
        pairs = torch.stack([scores[best], instances.ious[g, pool[best]]]).double()  # [2, K]
        score, iou = (pairs * BINS).long().clamp(0, BINS - 1).numpy()
        np.add.at(counts, (score, iou), 1)
    return counts


def _crowds(sample: DetDataSample) -> Tensor:
    """[N, 4] boxes of the crowds of an image."""
    return (
        sample.ignored_instances.bboxes.cpu().float() if "ignored_instances" in sample else torch.empty(0, 4)
    )


def _crowded(boxes: Tensor, labels: Tensor, crowds: Tensor) -> Tensor:
    """[G] whether a crowd, or another object of the same class, overlaps a box."""
    rivals = (box_iou(boxes, boxes) > 0) & (labels[:, None] == labels)  # [G, G]
    return rivals.fill_diagonal_(False).any(1) | (box_iou(boxes, crowds) > 0).any(1)
