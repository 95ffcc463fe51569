"""Objects against anchors, row by row: each object has a row of anchors, and few rows exist at a time."""

from typing import NamedTuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor

# Pairs of object and anchor that exist at a time. On a CPU fewer need more calls, and more exceed the cache.
PAIRS_AT_ONCE = {"cpu": 2**19}
PAIRS_AT_ONCE_ELSEWHERE = 2**24
LEAST_AREA = 1e-6  # of a union, as in mmdet


class Objects(NamedTuple):
    """The objects of a batch, image after image."""

    boxes: Tensor  # [G, 4] (x1, y1, x2, y2), pixels
    labels: Tensor  # [G] int64 in 0..C-1
    images: Tensor  # [G] int64, index of the image


def objects_of(gts: list[InstanceData], boxes: Tensor) -> Objects:
    """The objects of a batch, in the type and on the device of `boxes`."""
    return Objects(
        torch.cat([gt.bboxes for gt in gts]).to(boxes),
        torch.cat([gt.labels for gt in gts]).to(boxes.device),
        # Filled on the device, because a copy from the host would wait for it
        torch.cat([torch.full_like(gt.labels, b, device=boxes.device) for b, gt in enumerate(gts)]),
    )


def objects_at_once(anchors: int, device: torch.device) -> int:
    """How many objects to compare with all anchors at a time, at least one."""
    return max(1, PAIRS_AT_ONCE.get(device.type, PAIRS_AT_ONCE_ELSEWHERE) // max(1, anchors))


def box_rows_iou(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU of each object with a row of boxes, to the last bit that of mmdet's `bbox_overlaps`.

    Args:
        boxes: [K, 4, A], corner by corner; or [1, 4, A], the same for all.
        gt_boxes: [K, 4].

    Returns:
        [K, A]
    """
    x1, y1, x2, y2 = boxes.unbind(1)  # [K, A] each
    left, top, right, bottom = gt_boxes[..., None].unbind(1)  # [K, 1] each
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    overlap = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)).sub_(overlap)
    return overlap.div_(union.clamp_(min=LEAST_AREA))


def paired_iou(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU of boxes [..., 4] with as many others, to the last bit that of mmdet's aligned `bbox_overlaps`.

    mmdet's copies its smallest union to the device, and the host waits.
    """
    overlap, union = _overlap_and_union(boxes, gt_boxes)
    return overlap / union.clamp(min=LEAST_AREA)


def paired_giou(boxes: Tensor, gt_boxes: Tensor, least_area: float) -> Tensor:
    """Generalised IoU, as `paired_iou`.

    Args:
        boxes, gt_boxes: [..., 4] (x1, y1, x2, y2).
        least_area: of a union, and of what encloses both boxes.
    """
    overlap, union = _overlap_and_union(boxes, gt_boxes)
    union = union.clamp(min=least_area)
    upper = torch.minimum(boxes[..., :2], gt_boxes[..., :2])
    lower = torch.maximum(boxes[..., 2:], gt_boxes[..., 2:])
    enclosing = _area(upper, lower).clamp(min=least_area)
    return overlap / union - (enclosing - union) / enclosing


def _overlap_and_union(boxes: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Areas [...], the second without a bound."""
    # In mmdet's order, which is that of the gradient's sums
    area, gt_area = (
        (each[..., 2] - each[..., 0]) * (each[..., 3] - each[..., 1]) for each in (boxes, gt_boxes)
    )
    upper = torch.maximum(boxes[..., :2], gt_boxes[..., :2])
    lower = torch.minimum(boxes[..., 2:], gt_boxes[..., 2:])
    overlap = _area(upper, lower)
    return overlap, area + gt_area - overlap


def _area(upper: Tensor, lower: Tensor) -> Tensor:
    sides = (lower - upper).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def without_conflicts(anchors: Tensor, wanted: Tensor, preference: Tensor, number: int) -> Tensor:
    """Which wanted anchors an object gets: an anchor goes to the highest preference, the first of equals.

    Args:
        anchors: [G, m] in 0..number-1.
        wanted: [G, m] whether the object wants the anchor.
        preference: [G, m].
        number: of anchors.
    """
    slot = torch.where(wanted, anchors, number)  # one more slot, for entries that are not wanted
    highest = preference.new_full((number + 1,), -torch.inf)
    highest.scatter_reduce_(0, slot.flatten(), preference.flatten(), "amax")
    wanted = wanted & (preference == highest[anchors])
    owner = owners(anchors, wanted, number)
    return wanted & (owner[anchors] == torch.arange(len(anchors), device=anchors.device)[:, None])


def owners(anchors: Tensor, positive: Tensor, number: int) -> Tensor:
    """The first object of which an anchor is a positive: [number] int64, -1 for none.

    Args:
        anchors: [G, m] in 0..number-1.
        positive: [G, m].
        number: of anchors.
    """
    G = len(anchors)
    slot = torch.where(positive, anchors, number)  # [G, m]
    index = torch.arange(G, device=anchors.device)[:, None].expand_as(anchors)
    first = anchors.new_full((number + 1,), G).scatter_reduce_(0, slot.flatten(), index.flatten(), "amin")
    return torch.where(first == G, -1, first)[:number]


def of_owners(values: Tensor, owners: Tensor) -> Tensor:
    """[A, ...] the value [G, ...] of each point's object; zeros or another object's for a point without."""
    if len(values) == 0:
        return values.new_zeros(len(owners), *values.shape[1:])
    return values[owners.clamp(min=0)]


def objects_of_points(
    gts: list[InstanceData], owners: Tensor, background: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Label [B*A] and box [B*A, 4] of the object of each point of a batch.

    Args:
        gts: objects of each image.
        owners: [B, A] object of the image, negative for none.
        background: label of a point without an object; its box has no meaning.
        like: a tensor of the type of the boxes.
    """
    images = list(zip(gts, owners, strict=True))
    labels = torch.cat([of_owners(gt.labels, owner) for gt, owner in images])
    boxes = torch.cat([of_owners(gt.bboxes.to(like), owner) for gt, owner in images])
    return labels.where(owners.flatten() >= 0, background), boxes
