"""Task-aligned sample assignment: equation 9 and the normalisation of t to t-hat, as pure functions."""

from typing import NamedTuple

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

# An anchor belongs to an object only if its centre lies this far (pixels) inside each side of its box.
CENTRE_MARGIN = 0.01


class Assignment(NamedTuple):
    """Which object each of A anchors serves, and how well."""

    gt_index: Tensor  # [A] int64, index of the object, -1 for a negative anchor
    metric: Tensor  # [A] t of the anchor with its object, 0 for negatives
    iou: Tensor  # [A] u of the anchor with its object, 0 for negatives


def alignment_metric(s: Tensor, u: Tensor, alpha: float, beta: float) -> Tensor:
    """t = s^alpha * u^beta (Eq. 9), elementwise."""
    return s**alpha * u**beta


@torch.no_grad()
def task_aligned_assign(
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
    """The m anchors of largest t become the positives of each object (paper section 3.2.1).

    The released code, followed by default, drops those whose centre is outside the object after the m
    were taken, and gives an anchor wanted by two objects to the one of larger IoU.

    Args:
        scores: [A, C] aligned classification scores.
        boxes: [A, 4] aligned boxes (x1, y1, x2, y2), pixels.
        centres: [A, 2] anchor centres (x, y), pixels.
        gt_boxes: [G, 4], pixels; G may be 0.
        gt_labels: [G] int64 in 0..C-1.
        alpha: exponent of the score.
        beta: exponent of the IoU.
        topk: m, anchors taken for each object.
        conflict: "iou" as released, or "area": the object of minimal area, as the paper's supplement says.
        centre_in_box: False leaves the centre condition out, which the paper does not mention.

    Raises:
        ValueError: unknown `conflict`.
    """
    if conflict not in ("iou", "area"):
        raise ValueError(f"conflict is {conflict!r}; it must be 'iou' or 'area'")
    A, G = len(boxes), len(gt_boxes)
    if A == 0 or G == 0:
        nothing = scores.new_zeros(A)
        return Assignment(gt_labels.new_full((A,), -1), nothing, nothing)

    u = bbox_overlaps(boxes, gt_boxes)  # [A, G]
    t = alignment_metric(scores[:, gt_labels], u, alpha, beta)  # [A, G]
    chosen = torch.zeros_like(t, dtype=torch.bool)
    chosen.scatter_(0, t.topk(min(topk, A), dim=0).indices, True)
    chosen &= t > 0
    if centre_in_box:
        inner = torch.cat([centres[:, None] - gt_boxes[:, :2], gt_boxes[:, 2:] - centres[:, None]], -1)
        chosen &= inner.amin(-1) > CENTRE_MARGIN  # [A, G] from [A, G, 4]

    if conflict == "iou":
        preference = u
    else:
        preference = -((gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(-1)).expand(A, G)
    best = preference.masked_fill(~chosen, -torch.inf).argmax(1, keepdim=True)  # [A, 1]
    positive = chosen.any(1)
    return Assignment(
        torch.where(positive, best.squeeze(1), -1),
        t.gather(1, best).squeeze(1) * positive,
        u.gather(1, best).squeeze(1) * positive,
    )


def normalise_alignment(assignment: Assignment, num_gt: int) -> Tensor:
    """t-hat: t scaled so that its maximum within each object is the object's largest IoU.

    Both maxima run over the object's final positives, as in the released code; the paper (section 3.2.2)
    says "within each instance".

    Args:
        assignment: of A anchors.
        num_gt: G.

    Returns:
        [A], 0 for negatives
    """
    gt_index, t, u = assignment
    positive = gt_index >= 0
    owner = gt_index[positive]
    max_t = t.new_zeros(num_gt).scatter_reduce(0, owner, t[positive], "amax")
    max_u = u.new_zeros(num_gt).scatter_reduce(0, owner, u[positive], "amax")
    t_hat = torch.zeros_like(t)
    t_hat[positive] = t[positive] / (max_t[owner] + 1e-7) * max_u[owner]
    return t_hat
