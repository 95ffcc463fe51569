"""ATSS + QFL (Table 2): the IoU as the score of the class."""

import torch
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.baselines.atss import ATSSHead
from tood.models.common.dense_level import grid_of
from tood.models.common.registry import MODELS


@MODELS.register_module()
class ATSSQFLHead(ATSSHead):
    """ATSS that learns the IoU as the score of the class, instead of a centerness beside it ("ATSS + QFL").

    GFL without its distributions (Li et al., "Generalized Focal Loss", NeurIPS 2020): quality focal loss
    (its Eq. 3) with the IoU of the predicted box as target, and boxes weighted by the detached score of
    their best class, as mmdet's `GFLHead` does, whose regression cannot be a single value per side.
    Configuration as `ATSSHead`, with mmdet's `QualityFocalLoss`; there is no `loss_centerness`.
    """

    def _init_layers(self) -> None:
        super()._init_layers()
        self.atss_centerness = nn.Identity()  # its output goes nowhere

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, Tensor]:
        """Logits [B, C, H, W] and regression [B, 4, H, W] of one level."""
        return super().forward_single(x, scale)[:2]

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls` over the number of positives, `loss_bbox` over the sum of its weights."""
        grids = [grid_of(scores) for scores in cls_scores]
        anchors, flags = self.get_anchors(grids, batch_img_metas, device=cls_scores[0].device)
        anchors, labels, label_weights, gt_boxes, _, positives = self.get_targets(
            anchors, flags, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        # Levels of [B, H*W, ...], one after the other
        anchors, labels, label_weights, gt_boxes = (
            torch.cat([level.flatten(0, 1) for level in levels])
            for levels in (anchors, labels, label_weights, gt_boxes)
        )
        logits, regression = (
            torch.cat([maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in levels])  # [A, C], [A, 4]
            for levels in (cls_scores, bbox_preds)
        )
        positive = labels < self.num_classes
        boxes = self.bbox_coder.decode(anchors[positive], regression[positive])
        quality = torch.zeros_like(label_weights)
        quality[positive] = bbox_overlaps(boxes.detach(), gt_boxes[positive], is_aligned=True).to(quality)
        weights = logits[positive].detach().sigmoid().amax(1)
        divisors = reduce_mean(torch.stack([labels.new_tensor(positives).to(weights), weights.sum()]))
        divisors = divisors.clamp(min=1)
        return {
            "loss_cls": self.loss_cls(logits, (labels, quality), label_weights, avg_factor=divisors[0]),
            "loss_bbox": self.loss_bbox(boxes, gt_boxes[positive], weights, avg_factor=divisors[1]),
        }
