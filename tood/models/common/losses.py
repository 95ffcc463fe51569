"""Losses of mmdet that call compiled operators of mmcv, in plain torch."""

from typing import Any

import torch.nn.functional as F
from mmdet.models.losses import FocalLoss as MMDetFocalLoss
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
