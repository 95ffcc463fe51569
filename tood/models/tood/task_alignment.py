"""Task-aligned sample assignment: equation 9 and the normalisation of t to t-hat, as pure functions.

A batch is assigned at once. Its G objects stand one after another, whichever images they are in, and each
finds its anchors in a row of its own: [G, A] in all, of which a few rows exist at a time.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tood.models.common.pairs import Objects, box_rows_iou, objects_at_once, paired_iou, without_conflicts

# An anchor belongs to an object only if its centre lies this far (pixels) inside each side of its box.
CENTRE_MARGIN = 0.01


class Matches(NamedTuple):
    """The m anchors of largest t of each object; fewer columns where an image has fewer anchors."""

    anchors: Tensor  # [G, m] int64, b * A + a for anchor a of image b
    metric: Tensor  # [G, m] t
    iou: Tensor  # [G, m] u
    positive: Tensor  # [G, m] whether the anchor serves the object; no anchor serves two


def alignment_metric(s: Tensor, u: Tensor, alpha: float, beta: float) -> Tensor:
    """t = s^alpha * u^beta (Eq. 9), elementwise."""
    return s**alpha * u**beta


@torch.no_grad()
def task_aligned_match(
    scores: Sequence[Tensor],
    boxes: Tensor,
    centres: Tensor,
    inside: Tensor,
    objects: Objects,
    *,
    alpha: float,
    beta: float,
    topk: int,
    conflict: str = "iou",
    centre_in_box: bool = True,
) -> Matches:
    """The m anchors of largest t become the positives of each object (paper section 3.2.1).

    By default this follows the released code. It takes the m anchors, then drops those whose centre is
    outside the object, and gives an anchor that two objects want to the object with the larger IoU.

    Args:
        scores: aligned classification scores, levels of [B, C, ...] with A anchors in all.
        boxes: [B, 4, A] aligned boxes (x1, y1, x2, y2), pixels.
        centres: [A, 2] anchor centres (x, y), pixels.
        inside: [B, A] whether an anchor takes part.
        objects: G of them; G may be 0.
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
    B, _, A = boxes.shape
    m = min(topk, A)
    sparse = boxes.device.type == "cpu" and beta > 0
    metric = _sparse_metric if sparse else _dense_metric
    metrics, anchors = [boxes.new_zeros(0, m)], [objects.labels.new_zeros(0, m)]
    for part in _parts(objects, objects_at_once(A, boxes.device), across_images=not sparse):
        best = metric(scores, boxes, inside, part, alpha, beta).topk(m)
        metrics.append(best.values)
        anchors.append(best.indices)
    t, a = torch.cat(metrics), torch.cat(anchors)  # [G, m] each
    gt_boxes = objects.boxes[:, None].expand(-1, m, -1)  # [G, m, 4]
    u = paired_iou(boxes[objects.images[:, None], :, a], gt_boxes)  # [G, m]

    positive = t > 0
    if centre_in_box:
        inner = torch.cat([centres[a] - gt_boxes[..., :2], gt_boxes[..., 2:] - centres[a]], -1).amin(-1)
        positive &= inner > CENTRE_MARGIN  # [G, m]
    a = a + objects.images[:, None] * A
    if conflict == "iou":
        preference = u
    else:
        preference = -((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(-1, keepdim=True)).expand_as(u)
    return Matches(a, t, u, without_conflicts(a, positive, preference, B * A))


def _parts(objects: Objects, most: int, across_images: bool) -> Iterator[Objects]:
    """The objects in groups of at most this number; a group is of one image if not `across_images`."""
    counts = [len(objects.images)] if across_images else objects.images.bincount().tolist()
    for of_image in zip(*(field.split(counts) for field in objects), strict=True):
        if len(of_image[0]):
            yield from map(Objects, *(field.split(most) for field in of_image))


def _dense_metric(
    scores: Sequence[Tensor], boxes: Tensor, inside: Tensor, objects: Objects, alpha: float, beta: float
) -> Tensor:
    """t of K objects with all A anchors of their images, 0 for those that take no part: [K, A].

    Nothing here waits for a device.
    """
    s = _score_rows(scores, objects.images, objects.labels)  # [K, A]
    u = box_rows_iou(boxes.index_select(0, objects.images), objects.boxes)  # [K, A]
    return alignment_metric(s, u, alpha, beta) * inside.index_select(0, objects.images)


def _sparse_metric(
    scores: Sequence[Tensor], boxes: Tensor, inside: Tensor, objects: Objects, alpha: float, beta: float
) -> Tensor:
    """The same for objects of one image and beta > 0: most pairs do not overlap, and their t is 0."""
    b = int(objects.images[0])
    u = box_rows_iou(boxes[b : b + 1], objects.boxes).mul_(inside[b].to(boxes))  # [K, A]
    labels, row = objects.labels.unique(return_inverse=True)  # [L], [K]
    s = _score_rows(scores, torch.full_like(labels, b), labels)  # [L, A]
    pairs = u.flatten().nonzero().squeeze(1)  # [P] in a flat [K, A]
    A = u.shape[1]
    s = s.flatten()[row[pairs // A] * A + pairs % A]  # [P]
    values = alignment_metric(s, u.flatten()[pairs], alpha, beta)
    return values.new_zeros(u.numel()).index_copy_(0, pairs, values).view_as(u)


def _score_rows(scores: Sequence[Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """The scores of these classes in these images, of all anchors: [K, A]."""
    own = images * scores[0].shape[1] + labels
    return torch.cat([level.flatten(2).flatten(0, 1).index_select(0, own) for level in scores], 1)


def normalise_alignment(matches: Matches) -> Tensor:
    """t-hat: t scaled so that its maximum within each object is the object's largest IoU.

    Both maxima run over the object's final positives, as in the released code; the paper (section 3.2.2)
    says "within each instance".

    Returns:
        [G, m], 0 where `positive` is False
    """
    t, u = matches.metric * matches.positive, matches.iou * matches.positive
    return t / (t.amax(1, keepdim=True) + 1e-7) * u.amax(1, keepdim=True)
