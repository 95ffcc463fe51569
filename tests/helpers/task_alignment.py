"""TAL for one image written out in full, object by anchor: what the batched functions of `tood` have to give.

Dense tensors throughout. `assign_one` and `t_hat_of` bring the batched result into this form.
"""

from typing import NamedTuple

import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from tood.heads import TOODHead
from tood.models.common.pairs import owners
from tood.models.tood.losses import ScoreTargets
from tood.models.tood.task_alignment import (
    CENTRE_MARGIN,
    Matches,
    Objects,
    normalise_alignment,
    task_aligned_match,
)


class Assignment(NamedTuple):
    """Which object each of A anchors serves, and how well."""

    gt_index: Tensor  # [A] int64, index of the object, -1 for a negative anchor
    metric: Tensor  # [A] t of the anchor with its object, 0 for negatives
    iou: Tensor  # [A] u of the anchor with its object, 0 for negatives


def restated_assign(
    scores: Tensor,
    boxes: Tensor,
    centres: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    *,
    alpha: float,
    beta: float,
    topk: int,
    conflict: str = "iou",
    centre_in_box: bool = True,
) -> Assignment:
    """`task_aligned_match` for one image.

    Args:
        scores: [A, C].
        boxes: [A, 4].
        centres: [A, 2].
        gt_boxes: [G, 4].
        gt_labels: [G].
        others: as there.
    """
    A, G = len(boxes), len(gt_boxes)
    if A == 0 or G == 0:
        nothing = scores.new_zeros(A)
        return Assignment(gt_labels.new_full((A,), -1), nothing, nothing)
    u = bbox_overlaps(boxes, gt_boxes)  # [A, G]
    t = scores[:, gt_labels] ** alpha * u**beta  # [A, G]
    chosen = torch.zeros_like(t, dtype=torch.bool)
    chosen.scatter_(0, t.topk(min(topk, A), dim=0).indices, True)
    chosen &= t > 0
    if centre_in_box:
        inner = torch.cat([centres[:, None] - gt_boxes[:, :2], gt_boxes[:, 2:] - centres[:, None]], -1)
        chosen &= inner.amin(-1) > CENTRE_MARGIN
    areas = (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(-1)
    preference = u if conflict == "iou" else -areas.expand(A, G)
    best = preference.masked_fill(~chosen, -torch.inf).argmax(1, keepdim=True)  # [A, 1]
    positive = chosen.any(1)
    return Assignment(
        torch.where(positive, best.squeeze(1), -1),
        t.gather(1, best).squeeze(1) * positive,
        u.gather(1, best).squeeze(1) * positive,
    )


def restated_t_hat(assignment: Assignment, num_gt: int) -> Tensor:
    """`normalise_alignment`, [A]."""
    t_hat = torch.zeros_like(assignment.metric)
    for gt in range(num_gt):
        mine = assignment.gt_index == gt
        if mine.any():
            t, u = assignment.metric[mine], assignment.iou[mine]
            t_hat[mine] = t / (t.max() + 1e-7) * u.max()
    return t_hat


def match_one(
    scores: Tensor, boxes: Tensor, centres: Tensor, gt_boxes: Tensor, gt_labels: Tensor, **options
) -> Matches:
    """`task_aligned_match` with the arguments of `restated_assign`."""
    objects = Objects(gt_boxes, gt_labels, torch.zeros_like(gt_labels))
    inside = torch.ones(1, len(boxes), dtype=torch.bool)
    return task_aligned_match([scores.T[None]], boxes.T[None], centres, inside, objects, **options)


def dense(matches: Matches, values: Tensor, number: int) -> Tensor:
    """Values [G, m] at the anchors that are positive, 0 elsewhere: [number]."""
    found = values.new_zeros(number)
    found[matches.anchors[matches.positive]] = values[matches.positive]
    return found


def assign_one(*arguments: Tensor, **options) -> Assignment:
    """`task_aligned_match` in the form of `restated_assign`."""
    matches, A = match_one(*arguments, **options), len(arguments[1])
    return Assignment(
        owners(matches.anchors, matches.positive, A),
        dense(matches, matches.metric, A),
        dense(matches, matches.iou, A),
    )


def t_hat_of(*arguments: Tensor, **options) -> Tensor:
    """`normalise_alignment` of the same, [A]."""
    matches = match_one(*arguments, **options)
    return dense(matches, normalise_alignment(matches), len(arguments[1]))


class DenseTargets(NamedTuple):
    """What every anchor of a batch is to learn."""

    labels: Tensor  # [B, A] number of classes for negatives
    scores: Tensor  # [B, A] target of the label's score, 0 for negatives
    boxes: Tensor  # [B, A, 4] pixels, zeros for negatives
    weights: Tensor  # [B, A]


def dense_targets(
    head: TOODHead, scores: list[Tensor], boxes: list[Tensor], gts: list[InstanceData], metas: list[dict]
) -> DenseTargets:
    """The targets of a TOOD head for its predictions of a batch."""
    strides = [stride[0] for stride in head.prior_generator.strides]
    pixels = torch.cat([level.flatten(2) * s for level, s in zip(boxes, strides, strict=True)], 2)
    found = head._targets(scores, pixels, gts, metas)
    anchors, labels, targets, positive = found.scores
    anchors = anchors[positive]
    assert len(anchors.unique()) == len(anchors)
    B, A = found.anchor_weights.shape
    dense_labels = torch.full((B * A,), head.num_classes)
    dense_labels[anchors] = labels[positive]
    dense_scores = pixels.new_zeros(B * A)
    dense_scores[anchors] = targets[positive]
    dense_boxes = pixels.new_zeros(B * A, 4)
    dense_boxes[anchors] = found.boxes[positive]
    return DenseTargets(
        dense_labels.view(B, A), dense_scores.view(B, A), dense_boxes.view(B, A, 4), found.anchor_weights
    )


def target_map(targets: ScoreTargets, shape: tuple[int, int, int]) -> Tensor:
    """The targets of all scores, [B, A, C]."""
    B, A, C = shape
    found = targets.targets.new_zeros(B * A, C)
    kept = targets.positive
    found[targets.anchors[kept], targets.labels[kept]] = targets.targets[kept]
    return found.view(B, A, C)
