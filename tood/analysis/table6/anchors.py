"""The anchors of an image, and the object that each belongs to: computed once for all measures."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tood.analysis.table6.alignment import InstancePools, instance_pools
from tood.models.common.dense_level import DenseLevel


class Anchors(NamedTuple):
    """All A anchors of an image with G objects, on the CPU."""

    levels: list[DenseLevel]
    boxes: Tensor  # [A, 4] predicted, pixels of the input
    points: Tensor  # [A, 2]
    instances: InstancePools


def anchors_of(levels: Sequence[DenseLevel], gt_boxes: Tensor, gt_labels: Tensor) -> Anchors:
    """The anchors of an image.

    Args:
        levels: the head's predictions for the image, on any device.
        gt_boxes: [G, 4] objects without crowds, (x1, y1, x2, y2) in pixels of the input.
        gt_labels: [G] integer classes.
    """
    here = [_on_cpu(level) for level in levels]
    boxes, points = (torch.cat([getattr(level, name) for level in here]) for name in ("boxes", "points"))
    pools = instance_pools(boxes, points, gt_boxes.to(boxes), gt_labels.cpu())
    return Anchors(here, boxes, points, pools)


def _on_cpu(level: DenseLevel) -> DenseLevel:
    """The level with all of its tensors on the CPU, each copied once."""
    scores = level.scores.cpu()
    confidence = scores if level.confidence is level.scores else level.confidence.cpu()
    boxes, points = level.boxes.cpu(), level.points.cpu()
    return level._replace(scores=scores, confidence=confidence, boxes=boxes, points=points)
