"""ATSS + QFL (Table 2): the IoU as the score of the class."""

import torch
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.baselines.atss import ATSSHead
from tood.models.common.anchor_boxes import rows_of_batch
from tood.models.common.dense_level import grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import paired_iou
from tood.models.common.registry import MODELS


@MODELS.register_module()
class ATSSQFLHead(ATSSHead):
    """ATSS whose class score learns the IoU; there is no centerness ("ATSS + QFL").

    GFL without its distributions (Li et al., "Generalized Focal Loss", NeurIPS 2020): quality focal loss
    (its Eq. 3) with the IoU of the predicted box as target, and boxes weighted by the detached score of
    their best class, as mmdet's `GFLHead` does, whose regression cannot be a single value per side.
    Configuration as `ATSSHead`, with mmdet's `QualityFocalLoss`; there is no `loss_centerness`.
    """

    divisors = Divisors.PREDICTIONS  # scores weigh the boxes

    def _init_layers(self) -> None:
        super()._init_layers()
        self.atss_centerness = nn.Identity()  # its output goes nowhere

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        """Logits [B, C, H, W] and regression [B, 4, H, W] of one level."""
        return super().forward_single(x, scale)[:2]

    def loss_by_feat(  # type: ignore[override]  # without centerness
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls` over the number of positives, `loss_bbox` over the sum of its weights."""
        grids = [grid_of(scores) for scores in cls_scores]
        targets = self._targets(grids, batch_gt_instances, batch_img_metas, bbox_preds[0])
        logits = rows_of_batch(cls_scores, self.cls_out_channels)  # [B * A, C]
        deltas = targets.of_positives(rows_of_batch(bbox_preds, 4))  # [P, 4]
        boxes = self.bbox_coder.decode(targets.priors, deltas)
        quality = targets.on_anchors(paired_iou(boxes.detach(), targets.boxes).to(targets.label_weights))
        weights = torch.where(targets.positive, logits.detach()[targets.anchors].sigmoid().amax(1), 0)  # [P]
        loss_cls = self.loss_cls(
            logits, (targets.labels, quality), targets.label_weights, reduction_override="sum"
        )
        loss_bbox = self.loss_bbox(boxes, targets.boxes, reduction_override="none")  # [P]
        # As mmdet's, at least 1
        sums = reduce_mean(torch.stack([targets.number.to(weights), weights.sum()]))
        of_cls, of_bbox = sums.clamp(min=1) + torch.finfo(torch.float32).eps
        return {
            "loss_cls": loss_cls / of_cls,
            "loss_bbox": ((loss_bbox * weights).sum() if len(weights) else deltas.sum()) / of_bbox,
        }
