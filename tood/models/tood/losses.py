"""The classification losses of TOOD, elementwise and on probabilities: equations 10 and 11.

Equation 12 is a GIoU loss weighted by t-hat; mmdet's `GIoULoss` with `weight` is exactly that.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.losses import GIoULoss
from torch import Tensor

from tood.models.common.registry import MODELS


def binary_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """BCE(s, t) of Eq. 10, elementwise on probabilities, safe under autocast."""
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
        return F.binary_cross_entropy(scores, target.to(scores), reduction="none")


def task_aligned_focal_loss(scores: Tensor, t_hat: Tensor, gamma: float) -> Tensor:
    """|t_hat - s|^gamma * BCE(s, t_hat) (Eq. 11); with t_hat = 0 this is its term for negatives.

    Args:
        scores: P^align, any shape, in [0, 1].
        t_hat: same shape, 0 but for the class of a positive anchor.
        gamma: focusing parameter.
    """
    return (t_hat - scores).abs().pow(gamma) * binary_cross_entropy(scores, t_hat)


def focal_loss_with_prob(scores: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss on probabilities, for the warm-up in which targets are 0 or 1 (released code only).

    Args:
        scores: P^align, any shape, in [0, 1].
        target: same shape, 0 or 1.
        gamma: focusing parameter.
        alpha: weight of positives, 1 - alpha of negatives.
    """
    balance = alpha * target + (1 - alpha) * (1 - target)
    return balance * (target - scores).abs().pow(gamma) * binary_cross_entropy(scores, target)


@MODELS.register_module()
class LogDistanceGIoULoss(GIoULoss):
    """GIoU of boxes given as logarithms of their four distances from one point, as FoveaBox predicts them.

    Point and unit are the same for prediction and target, and GIoU depends on neither.
    """

    def forward(self, pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`pred` and `target` [A, 4], logarithms of (left, top, right, bottom)."""
        return super().forward(_around_origin(pred), _around_origin(target), *args, **kwargs)


def _around_origin(log_distances: Tensor) -> Tensor:
    distances = log_distances.exp()
    return torch.cat([-distances[:, :2], distances[:, 2:]], 1)  # [A, 4] (x1, y1, x2, y2)
