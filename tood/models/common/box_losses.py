"""mmdet's losses of boxes, computed so that the host does not wait for a GPU."""

from mmdet.models.losses import GIoULoss as MMDetGIoULoss
from mmdet.models.losses import IoULoss as MMDetIoULoss
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor

from tood.models.common.pairs import paired_giou, paired_iou
from tood.models.common.registry import MODELS


class BoxLossMixin:
    """What losses of pairs of boxes share: a mixin before a loss with `loss_weight` and `reduction`.

    mmdet's losses first test whether any weight is positive. If none is, the loss is 0 here too.
    """

    loss_weight: float
    reduction: str

    def of_pairs(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss [P] of boxes [P, 4] (x1, y1, x2, y2) against boxes [P, 4]."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of boxes [P, 4] (x1, y1, x2, y2) against boxes [P, 4], weighted by [P] or [P, 4]."""
        if weight is not None and weight.dim() == 2:
            weight = weight.mean(-1)
        reduction = reduction_override or self.reduction
        return self.loss_weight * weight_reduce_loss(
            self.of_pairs(pred, target), weight, reduction, avg_factor
        )


@MODELS.register_module()
class GIoULoss(BoxLossMixin, MMDetGIoULoss):
    """1 - GIoU, bit-equal to mmdet's `GIoULoss` and with the same arguments."""

    def of_pairs(self, pred: Tensor, target: Tensor) -> Tensor:
        """1 - GIoU [P]."""
        return 1 - paired_giou(pred, target, self.eps)


@MODELS.register_module()
class IoULoss(BoxLossMixin, MMDetIoULoss):
    """-log IoU, or the form that `mode` names; bit-equal to mmdet's `IoULoss`."""

    def of_pairs(self, pred: Tensor, target: Tensor) -> Tensor:
        """By `mode`, [P]."""
        iou = paired_iou(pred, target).clamp(min=self.eps)
        return {"log": lambda: -iou.log(), "linear": lambda: 1 - iou, "square": lambda: 1 - iou**2}[
            self.mode
        ]()
