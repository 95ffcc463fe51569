"""Task-aligned sample assignment: equation 9 and the normalisation of t to t-hat, as pure functions.

A batch is assigned at once. Its G objects stand one after another, whichever images they are in, and each
finds its anchors in a row of its own: [G, A] in all, of which a few rows exist at a time.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tood.models.common.pairs import box_rows_iou, objects_at_once, without_conflicts

# An anchor belongs to an object only if its centre lies this far (pixels) inside each side of its box.
CENTRE_MARGIN = 0.01


class Objects(NamedTuple):
    """The objects of a batch, image after image."""

    boxes: Tensor  # [G, 4] (x1, y1, x2, y2), pixels
    labels: Tensor  # [G] int64 in 0..C-1
    images: Tensor  # [G] int64, index of the image


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

    The released code, followed by default, drops those whose centre is outside the object after the m
    were taken, and gives an anchor wanted by two objects to the one of larger IoU. Nothing here waits for a
    device: every shape follows from the number of objects and anchors.

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
    rows = [level.flatten(2).flatten(0, 1) for level in scores]  # levels of [B*C, H*W]
    C = scores[0].shape[1]
    metric, iou, anchors = [boxes.new_zeros(0, m)], [boxes.new_zeros(0, m)], [objects.labels.new_zeros(0, m)]
    for part in _parts(objects, objects_at_once(A, boxes.device)):
        own = part.images * C + part.labels  # [K] row of the object's class in its image
        s = torch.cat([level.index_select(0, own) for level in rows], 1)  # [K, A]
        u = box_rows_iou(boxes.index_select(0, part.images), part.boxes)  # [K, A]
        t = alignment_metric(s, u, alpha, beta)  # [K, A]
        t = t.masked_fill_(~inside.index_select(0, part.images), 0)
        best = t.topk(m)
        metric.append(best.values)
        iou.append(u.gather(1, best.indices))
        anchors.append(best.indices)
    t, u, a = torch.cat(metric), torch.cat(iou), torch.cat(anchors)  # [G, m] each

    positive = t > 0
    if centre_in_box:
        x1y1, x2y2 = objects.boxes[:, None].split(2, -1)  # [G, 1, 2] each
        inner = torch.cat([centres[a] - x1y1, x2y2 - centres[a]], -1).amin(-1)  # [G, m]
        positive &= inner > CENTRE_MARGIN
    a = a + objects.images[:, None] * A
    if conflict == "iou":
        preference = u
    else:
        preference = -((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(-1, keepdim=True)).expand_as(u)
    return Matches(a, t, u, without_conflicts(a, positive, preference, B * A))


def _parts(objects: Objects, most: int) -> Iterator[Objects]:
    for start in range(0, len(objects.boxes), most):
        yield Objects(*(field[start : start + most] for field in objects))


def normalise_alignment(matches: Matches) -> Tensor:
    """t-hat: t scaled so that its maximum within each object is the object's largest IoU.

    Both maxima run over the object's final positives, as in the released code; the paper (section 3.2.2)
    says "within each instance".

    Returns:
        [G, m], 0 where `positive` is False
    """
    t, u = matches.metric * matches.positive, matches.iou * matches.positive
    return t / (t.amax(1, keepdim=True) + 1e-7) * u.amax(1, keepdim=True)
