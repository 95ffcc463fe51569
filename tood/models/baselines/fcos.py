"""FCOS (Tables 1, 2 and 5): mmdet's head with this suite's prediction path."""

import torch
from mmdet.models.dense_heads import FCOSHead as MMDetFCOSHead
from mmdet.models.losses.utils import weight_reduce_loss
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin, name_objects
from tood.models.common.divisors import Divisors
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin


@MODELS.register_module()
class SmoothedGIoULoss(nn.Module):
    """GIoU of the authors' code (tianzhi0549/FCOS, `fcos_core/layers/iou_loss.py`).

    Its IoU is (intersection + 1) / (union + 1), in the unit of the boxes, which is the stride.

    Args:
        loss_weight: factor.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: Tensor | float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of boxes [P, 4] (x1, y1, x2, y2) against boxes [P, 4]; the rest as mmdet's `GIoULoss`."""
        sides, target_sides = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]  # [P, 2]
        common = torch.minimum(pred[:, 2:], target[:, 2:]) - torch.maximum(pred[:, :2], target[:, :2])
        around = torch.maximum(pred[:, 2:], target[:, 2:]) - torch.minimum(pred[:, :2], target[:, :2])
        intersection, enclosing = common.clamp(min=0).prod(1), around.prod(1) + 1e-7  # [P]
        union = sides.prod(1) + target_sides.prod(1) - intersection
        loss = 1 - (intersection + 1) / (union + 1) + (enclosing - union) / enclosing
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction_override or "mean", avg_factor)


@MODELS.register_module()
class FCOSHead(TowersMixin, DensePredictionMixin, MMDetFCOSHead):
    """Parallel head + FCOS; configuration as mmdet's `FCOSHead`.

    With `dcn_on_last_conv` the initial weights are those of the authors' code, see `TowersMixin`.
    """

    divisors = Divisors.TARGETS

    def divisors_from_targets(
        self, grids: list[tuple[int, int]], gts: list[InstanceData], metas: list[dict], like: Tensor
    ) -> list[Tensor]:
        """The number of positives and the sum of their centerness."""
        points = self.prior_generator.grid_priors(grids, dtype=like.dtype, device=like.device)
        labels, distances = (torch.cat(levels) for levels in self.get_targets(points, gts))
        positive = labels < self.num_classes
        return [positive.sum().float(), self.centerness_target(distances[positive]).sum()]

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        ranges = [
            points.new_tensor(r).expand(len(points), 2)
            for r, points in zip(self.regress_ranges, priors, strict=True)
        ]
        labels, _ = self._get_targets_single(
            name_objects(gt, self.num_classes), torch.cat(priors), torch.cat(ranges), [len(p) for p in priors]
        )
        return labels - self.num_classes - 1

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, distances, *centerness = outs
        if self.norm_on_bbox and self.training:  # the forward gives strides then, pixels in testing
            distances = distances * self.prior_generator.strides[level][0]
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        factor = centerness[0].flatten(1).T.sigmoid() if centerness else 1.0  # [H*W, 1]
        return DenseLevel(
            scores,
            scores * factor,
            self.bbox_coder.decode(priors, distances.flatten(1).T),  # [H*W, 4]
            priors,
            grid_of(cls_logits),
            self.prior_generator.strides[level][0],
        )
