"""Losses of mmdet that call compiled operators of mmcv, in plain torch."""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.losses import FocalLoss as MMDetFocalLoss
from mmdet.models.losses import QualityFocalLoss as MMDetQualityFocalLoss
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor

from tood.models.common.registry import MODELS


@MODELS.register_module()
class FocalLoss(MMDetFocalLoss):
    """mmdet's focal loss on logits, in plain torch on every device.

    mmdet calls a compiled mmcv operator for integer targets on CUDA; for one-hot targets it does not.
    """

    def forward(self, pred: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`pred` [A, C] logits, `target` [A] labels with C for background, or [A, C] one-hot."""
        if target.dim() == 1:
            target = F.one_hot(target, pred.shape[1] + 1)[:, :-1]  # [A, C]
        return super().forward(pred, target, *args, **kwargs)


@MODELS.register_module()
class QualityFocalLoss(MMDetQualityFocalLoss):
    """mmdet's quality focal loss on logits, of which none is selected, as a selection waits for the device.

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
    own = labels[:, None] == torch.arange(classes, device=labels.device)
    return torch.where(own, values[:, None], 0)
