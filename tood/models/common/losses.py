"""Losses in plain torch that never read a value, so that the host does not wait for a GPU.

mmdet's focal loss calls a compiled operator of mmcv. On a GPU, torch's binary cross entropy of probabilities
and its cross entropy of labels end the process if a number is outside of its range. A training that diverges
would then look like a broken device. So both are computed by formula.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.losses import DistributionFocalLoss as MMDetDistributionFocalLoss
from mmdet.models.losses import FocalLoss as MMDetFocalLoss
from mmdet.models.losses import QualityFocalLoss as MMDetQualityFocalLoss
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from tood.models.common.precision import single_at_least, without_autocast
from tood.models.common.registry import MODELS

# Bounds of logarithm and quotient, as in torch's binary cross entropy
LEAST_LOG = -100.0
LEAST_VARIANCE = 1e-12


class _BinaryCrossEntropy(torch.autograd.Function):
    """By hand, as the derivative of a bounded logarithm is 0 times infinity where a score is 0 or 1."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(scores, target)
        negative = scores.neg().log1p_().clamp_(min=LEAST_LOG)  # log(1 - s)
        positive = scores.log().clamp_(min=LEAST_LOG)
        return negative.mul_(target - 1).sub_(positive.mul_(target))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        scores, target = ctx.saved_tensors
        return grad * (scores - target) / (scores * (1 - scores)).clamp(min=LEAST_VARIANCE), None


def binary_cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """-t log(s) - (1 - t) log(1 - s), elementwise on probabilities, safe under autocast.

    Values and derivatives are those of `torch.nn.functional.binary_cross_entropy` where all scores are in
    [0, 1]. Any other score, such as nan, has the loss nan.

    Args:
        scores: s, any shape.
        target: t, same shape; it gets no gradient.
    """
    with without_autocast(scores):
        scores = single_at_least(scores)
        return _BinaryCrossEntropy.apply(scores, target.to(scores))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """[..., classes] bool, of labels [...]; a label beyond the classes has none."""
    return labels[..., None] == torch.arange(classes, device=labels.device)


@MODELS.register_module()
class FocalLoss(MMDetFocalLoss):
    """mmdet's focal loss on logits, in plain torch on every device.

    mmdet calls a compiled mmcv operator for integer targets on CUDA; for one-hot targets it does not.
    """

    def forward(self, pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`pred` [A, C] logits, `target` [A] labels with C for background, or [A, C] one-hot."""
        if target.dim() == 1:
            target = one_hot(target, pred.shape[1])
        return super().forward(pred, target, *args, **kwargs)


@MODELS.register_module()
class CrossEntropyLoss(nn.Module):
    """Cross entropy of a softmax with labels; an element whose label is beyond the classes has no loss.

    Args:
        loss_weight: factor.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, label: Tensor, avg_factor: Tensor | float) -> Tensor:
        """The sum over `pred` [N, C] logits and `label` [N], divided by `avg_factor`."""
        loss = -pred.log_softmax(1).where(one_hot(label, pred.shape[1]), 0).sum(1)
        return self.loss_weight * weight_reduce_loss(loss, avg_factor=avg_factor)


@MODELS.register_module()
class DistributionFocalLoss(MMDetDistributionFocalLoss):
    """mmdet's distribution focal loss, without its test of the labels."""

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """`pred` [P, n + 1] logits of 0 to n, `target` [P] in [0, n); the rest as mmdet's."""
        places = torch.arange(pred.shape[1], device=pred.device)
        share = (1 - (target[:, None] - places).abs()).clamp(min=0)  # [P, n + 1] of both neighbours
        loss = -(share * pred.log_softmax(1)).sum(1)
        reduction = reduction_override or self.reduction
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction, avg_factor)


@MODELS.register_module()
class QualityFocalLoss(MMDetQualityFocalLoss):
    """mmdet's quality focal loss on logits, without a selection, which would wait for the device.

    |t - s|^beta * BCE(s, t) (Li et al., "Generalized Focal Loss", NeurIPS 2020, Eq. 3).
    """

    def forward(
        self,
        pred: Tensor,
        target: tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """`pred` [A, C] logits, `target` labels [A] with C for background and qualities [A]."""
        t = at_labels(target[1].to(pred), target[0], pred.shape[1])
        loss = F.binary_cross_entropy_with_logits(pred, t, reduction="none")
        loss = loss * (t - pred.sigmoid()).abs().pow(self.beta)
        reduction = reduction_override or self.reduction
        return self.loss_weight * weight_reduce_loss(loss.sum(1), weight, reduction, avg_factor)


def at_labels(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[A, C] with each of the values [A] in the column of its label [A], zeros elsewhere."""
    return torch.where(one_hot(labels, classes), values[:, None], 0)
