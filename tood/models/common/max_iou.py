"""Positives by the IoU of anchors with objects, as in RetinaNet: mmdet's `MaxIoUAssigner` without waits."""

import torch
from torch import Tensor

from tood.models.common.pairs import box_rows_iou, objects_at_once

NEGATIVE, IGNORED = -1, -2  # in place of an object


def assign_by_iou(
    anchors: Tensor, gt_boxes: Tensor, positive_from: float, negative_below: float, least: float
) -> Tensor:
    """Give each anchor the object that it overlaps most; in addition each object has its best anchors.

    Args:
        anchors: [A, 4].
        gt_boxes: [G, 4].
        positive_from: least IoU of a positive.
        negative_below: IoU below which an anchor is negative; those between are ignored.
        least: IoU that an object's best anchors need. They are all anchors of equal IoU, and belong to the
            last object of which they are the best.

    Returns:
        [A] object of each anchor, or `NEGATIVE`, or `IGNORED`
    """
    A, G = len(anchors), len(gt_boxes)
    if G == 0:
        return torch.full((A,), NEGATIVE, device=anchors.device)
    highest = anchors.new_full((A,), -1)
    owner = last = torch.full((A,), NEGATIVE, device=anchors.device)
    at_once = objects_at_once(A, anchors.device)
    for start in range(0, G, at_once):
        ious = box_rows_iou(anchors.T[None], gt_boxes[start : start + at_once])  # [K, A]
        value, place = ious.max(0)  # [A], [A]
        owner = (place + start).where(value > highest, owner)  # of equal ones the first
        highest = torch.maximum(value, highest)
        own = ious.amax(1, keepdim=True)  # [K, 1]
        objects = torch.arange(start, start + len(ious), device=anchors.device)[:, None]
        last = torch.maximum(last, objects.where((ious == own) & (own >= least), NEGATIVE).amax(0))
    gt_index = owner.where(highest >= positive_from, IGNORED).where(highest >= negative_below, NEGATIVE)
    return last.where(last >= 0, gt_index)
