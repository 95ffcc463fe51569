"""Score voting: detections take the mean of what NMS suppressed around them."""

import torch
from torch import Tensor
from torchvision.ops import box_iou

SIGMA = 0.025  # width of the weights over 1 - IoU, squared
MIN_IOU = 0.01  # a candidate that overlaps less has no vote


def vote(boxes: Tensor, labels: Tensor, candidates: Tensor, scores: Tensor, of_class: Tensor) -> Tensor:
    """Boxes of detections as the weighted mean of the candidates of their class.

    A candidate weighs score * exp(-(1 - IoU)^2 / 0.025). Kim and Lee, "Probabilistic Anchor Assignment with
    IoU Prediction for Object Detection", ECCV 2020, with the constants of their code (kkhoot/PAA,
    `paa_core/modeling/rpn/paa/inference.py`).

    Args:
        boxes: [D, 4] after NMS; each is one of the candidates.
        labels: [D] their classes.
        candidates: [K, 4] boxes before NMS.
        scores: [K] what NMS ranks the candidates by.
        of_class: [K] classes of the candidates.

    Returns:
        [D, 4]. A box for which no candidate has any weight stays: its own area or score is zero.
    """
    ious = box_iou(boxes, candidates)  # [D, K]
    votes = (labels[:, None] == of_class) & (ious > MIN_IOU)
    weights = (scores * torch.exp(-((1 - ious) ** 2) / SIGMA)).where(votes, 0)  # [D, K]
    total = weights.sum(1, keepdim=True)  # [D, 1]
    return torch.where(total > 0, weights @ candidates / total, boxes)
