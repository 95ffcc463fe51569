"""Which anchors a scheme makes positive for which object, in one form for hard and soft schemes."""

from typing import NamedTuple

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor
from torchvision.ops import box_iou

from tood.models.common.dense_level import DenseLevel


class Positives(NamedTuple):
    """The positives of one image; an anchor may serve several objects."""

    anchors: Tensor  # [P] index into the anchors of all levels, one after the other
    objects: Tensor  # [P] index into the objects of the image
    weights: Tensor  # [P] 1 in hard schemes; in soft schemes, the share of the object's loss


class PositiveStatistics(NamedTuple):
    """Per object: how many positives, and how well their boxes fit."""

    number: Tensor  # [G]
    iou: Tensor  # [G] nan for objects without positives


def of_assignment(gt_index: Tensor) -> Positives:
    """Positives of a hard assignment: `gt_index` [A] is the object of each anchor, negative for none."""
    anchors = (gt_index >= 0).nonzero().squeeze(1)  # [P]
    return Positives(anchors, gt_index[anchors], torch.ones_like(anchors, dtype=torch.float))


def statistics(positives: Positives, levels: list[DenseLevel], gt_boxes: Tensor) -> PositiveStatistics:
    """Number of positives and their mean IoU for each object.

    With weights w the number is (sum w)^2 / sum w^2, Kish's effective sample size: the count where all
    weights are equal, and near 1 where one anchor of a bag has nearly all the weight. The IoU, weighted
    by w, is that of the predicted boxes, which all schemes have in common, not of their anchors.

    Args:
        positives: of one image.
        levels: its dense predictions, boxes unclipped.
        gt_boxes: [G, 4] pixels of the network's input.
    """
    boxes = torch.cat([level.boxes for level in levels])[positives.anchors]  # [P, 4]
    G = len(gt_boxes)
    iou = box_iou(boxes, gt_boxes.to(boxes)).gather(1, positives.objects[:, None])[:, 0]  # [P]
    weights = positives.weights.to(boxes)

    def per_object(values: Tensor) -> Tensor:
        return boxes.new_zeros(G).index_add(0, positives.objects, values)

    total = per_object(weights)
    count = total**2 / per_object(weights**2).clamp(min=torch.finfo(boxes.dtype).tiny)
    return PositiveStatistics(count, per_object(weights * iou) / total)


def means(statistics: list[PositiveStatistics]) -> dict[str, float | None]:
    """Means over the objects of a batch, None where there is nothing to average.

    Returns:
        objects; positives, of an object; positive_iou, over the objects that have positives
    """
    # One copy from the device
    count, iou = torch.cat([torch.stack([image.number, image.iou]) for image in statistics], 1).cpu()
    iou = iou[~iou.isnan()]
    return {
        "objects": len(count),
        "positives": count.mean().item() if len(count) else None,
        "positive_iou": iou.mean().item() if len(iou) else None,
    }


def of_images(
    head: BaseDenseHead, outs: tuple[list[Tensor], ...], gt: list, metas: list[dict]
) -> list[PositiveStatistics]:
    """`statistics` of each image, of which there may be none.

    Args:
        head: a dense head.
        outs: what its `forward` returned.
        gt: objects of each image.
        metas: of each image.
    """
    if not metas:
        return []
    chosen = head.positives_by_feat(*outs, batch_gt_instances=gt, batch_img_metas=metas)
    images = head.dense_by_feat(*outs, batch_img_metas=metas, clip=False)
    return [statistics(p, i, g.bboxes) for p, i, g in zip(chosen, images, gt, strict=True)]
