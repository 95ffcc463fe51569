"""Prediction alignment: equations 5 and 6 of the paper, as pure functions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def align_scores(cls_logits: Tensor, prob_logits: Tensor) -> Tensor:
    """P^align = sqrt(P * M), the geometric mean of two sigmoids (Eq. 5).

    The product is a sum of log-sigmoids here, so that the gradient stays finite where the square root
    of an underflowing product has none (both logits below about -50 in float32).

    Args:
        cls_logits: [B, C, H, W], before the sigmoid.
        prob_logits: [B, 1, H, W], before the sigmoid.

    Returns:
        [B, C, H, W] in [0, 1]
    """
    return ((F.logsigmoid(cls_logits) + F.logsigmoid(prob_logits)) / 2).exp()


def align_logits(cls_logits: Tensor, prob_logits: Tensor) -> Tensor:
    """The logits whose sigmoid is P^align (Eq. 5), for losses that take logits.

    Args:
        cls_logits: [B, C, H, W], before the sigmoid.
        prob_logits: [B, 1, H, W], before the sigmoid.

    Returns:
        [B, C, H, W]
    """
    log_p = (F.logsigmoid(cls_logits) + F.logsigmoid(prob_logits)) / 2
    # log(1 - p) loses its digits in one form for small p and in the other for large p. Both are computed,
    # each on arguments that are safe for it, as a NaN in the branch not taken would reach the gradient.
    small = log_p < -math.log(2)
    log_1_minus_p = torch.where(
        small,
        torch.log1p(-log_p.clamp(max=-math.log(2)).exp()),
        torch.log(-torch.expm1(log_p.clamp(min=-math.log(2), max=-torch.finfo(log_p.dtype).tiny))),
    )
    return log_p - log_1_minus_p


def align_boxes(boxes: Tensor, offsets: Tensor) -> Tensor:
    """B^align: each boundary read where its own offset points, by bilinear interpolation (Eq. 6).

    A sample outside the map reads zero, as in the released code, whose deformable convolution with a
    kernel of one this equals. The values are corner coordinates, so zero is the image's origin.

    Args:
        boxes: [B, K, H, W], one channel a boundary.
        offsets: [B, 2 * K, H, W] in cells of the map; channel 2k shifts the row of boundary k,
            2k + 1 its column.

    Returns:
        [B, K, H, W]
    """
    B, K, H, W = boxes.shape
    offsets = offsets.reshape(B * K, 2, H, W)  # [B*K, (row, column), H, W]
    rows = torch.arange(H, dtype=boxes.dtype, device=boxes.device).view(H, 1) + offsets[:, 0]
    columns = torch.arange(W, dtype=boxes.dtype, device=boxes.device) + offsets[:, 1]
    # grid_sample wants -1..1. With align_corners=False the outer edges of the border cells are the ends,
    # which stays defined for a map of a single row or column.
    grid = torch.stack([(2 * columns + 1) / W - 1, (2 * rows + 1) / H - 1], -1)  # [B*K, H, W, 2]
    sampled = F.grid_sample(boxes.reshape(B * K, 1, H, W), grid, padding_mode="zeros", align_corners=False)
    return sampled.view(B, K, H, W)


def keep_valid(aligned: Tensor, boxes: Tensor) -> Tensor:
    """Undo the alignment of boxes that it turned inside out (x1 > x2 or y1 > y2).

    Each boundary has its own offsets, so this can happen, and GIoU has no meaning for such a box.
    Not in the paper; mmdet's repair of its NaN losses.

    Args:
        aligned: [B, 4, H, W] after Eq. 6, as (x1, y1, x2, y2).
        boxes: [B, 4, H, W] before it.
    """
    inverted = (aligned[:, :2] > aligned[:, 2:]).any(1, keepdim=True)  # [B, 1, H, W]
    return torch.where(inverted, boxes, aligned)
