"""How far apart an object is classified best and localised best, over all objects of a data set.

Figure 1 of the paper shows one object; here are all of them, and of the most confident anchors how score and
IoU go together. `BestAnchors` is given one image after the other, so that it can share a pass over them.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor
from torchvision.ops import box_area, box_iou

from tood.analysis.figures.maps import ImageAnchors, distance
from tood.analysis.table6.alignment import AlignmentOptions, instance_pools
from tood.models.common.dense_level import DenseLevel

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
    # The last four are None where no anchor belongs to the object.


class BestAnchors:
    """Collects the objects of the images that it is given, and the density of score and IoU."""

    def __init__(self) -> None:
        self.objects: list[ObjectRecord] = []
        self.density = np.zeros((BINS, BINS), dtype=np.int64)

    def add(self, sample: DetDataSample, levels: list[DenseLevel]) -> None:
        """Take one image: its objects in pixels of the input, and all of its anchors' predictions."""
        levels = [on_cpu(level) for level in levels]
        self.objects += object_records(sample, levels)
        self.density += score_iou_density(sample, levels)

    def to_json(self) -> dict:
        """Columns of the objects, and `density` [score, IoU]."""
        columns = zip(*self.objects, strict=True) if self.objects else ([] for _ in ObjectRecord._fields)
        objects = {name: list(column) for name, column in zip(ObjectRecord._fields, columns, strict=True)}
        return {"objects": objects, "density": self.density.tolist()}


def object_records(sample: DetDataSample, levels: list[DenseLevel]) -> list[ObjectRecord]:
    """What the detector makes of each object of one image.

    Args:
        sample: with `gt_instances`, and where there are crowds `ignored_instances`, in pixels of the input.
        levels: of the image, on the CPU.
    """
    objects, size = sample.gt_instances.cpu(), sample.img_shape[:2]
    boxes, labels = objects.bboxes.float(), objects.labels
    crowded = _crowded(boxes, labels, _crowds(sample))
    areas = box_area(boxes)  # [G]
    anchors = ImageAnchors(levels, boxes, labels, size)
    records = []
    for g in range(len(boxes)):
        red, green = anchors.best(g) or (None, None)
        apart = distance(red, green) if red and green else None
        records.append(
            ObjectRecord(
                sample.img_id,
                g,
                int(labels[g]),
                float(areas[g]) / (size[0] * size[1]),
                bool(crowded[g]),
                # An object without any area has no size to measure by.
                apart / float(areas[g]) ** 0.5 if apart is not None and areas[g] > 0 else None,
                red.score if red else None,
                red.iou if red else None,
                green.iou if green else None,
            )
        )
    return records


def score_iou_density(sample: DetDataSample, levels: list[DenseLevel]) -> np.ndarray:
    """Counts [score, IoU] of the 50 most confident anchors of each object of an image, as for PCC of Table 6.

    Score is what NMS ranks by. Both are in `BINS` equal parts of [0, 1], the last of which holds 1 too.

    Args:
        sample: with `gt_instances` in pixels of the input.
        levels: of the image, on the CPU.
    """
    options, objects = AlignmentOptions(), sample.gt_instances.cpu()
    boxes, points, confidence = (
        torch.cat([getattr(level, name) for level in levels]) for name in ("boxes", "points", "confidence")
    )  # [A, 4], [A, 2], [A, C]
    ious, pools = instance_pools(boxes, points, objects.bboxes.to(boxes), objects.labels, options)
    counts = np.zeros((BINS, BINS), dtype=np.int64)
    for g, label in enumerate(objects.labels.tolist()):
        pool = pools[g].nonzero().squeeze(1)  # [P]
        scores = confidence[pool, label]
        best = scores.topk(min(options.top_pcc, len(pool))).indices
        pairs = torch.stack([scores[best], ious[g, pool[best]]]).double()  # [2, K]
        score, iou = (pairs * BINS).long().clamp(0, BINS - 1).numpy()
        np.add.at(counts, (score, iou), 1)
    return counts


def on_cpu(level: DenseLevel) -> DenseLevel:
    """The level with all of its tensors on the CPU."""
    tensors: dict[str, Any] = {
        name: value.cpu() for name, value in level._asdict().items() if isinstance(value, Tensor)
    }
    return level._replace(**tensors)


def _crowds(sample: DetDataSample) -> Tensor:
    """[N, 4] boxes of the crowds of an image."""
    return (
        sample.ignored_instances.bboxes.cpu().float() if "ignored_instances" in sample else torch.empty(0, 4)
    )


def _crowded(boxes: Tensor, labels: Tensor, crowds: Tensor) -> Tensor:
    """[G] whether a crowd, or another object of the same class, overlaps a box."""
    rivals = (box_iou(boxes, boxes) > 0) & (labels[:, None] == labels)  # [G, G]
    return rivals.fill_diagonal_(False).any(1) | (box_iou(boxes, crowds) > 0).any(1)
