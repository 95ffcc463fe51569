"""GFL (Table 5): mmdet's head with this suite's prediction path, and its loss without waits for a GPU."""

import torch
from mmdet.models.dense_heads import GFLHead as MMDetGFLHead
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.anchor_boxes import AnchorBoxesMixin, rows_of_anchors, rows_of_batch
from tood.models.common.atss_targets import ATSSTargetsMixin
from tood.models.common.box_coders import anchor_centres
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.pairs import paired_iou
from tood.models.common.registry import MODELS


@MODELS.register_module()
class GFLHead(ATSSTargetsMixin, AnchorBoxesMixin, MMDetGFLHead):
    """Parallel head whose score is the IoU and whose distances are distributions; configuration as mmdet's.

    Li et al., "Generalized Focal Loss", NeurIPS 2020. Positives are those of ATSS.

    Two things differ in the authors' code, which is older than mmdet's (implus/GFocal,
    `mmdet/models/anchor_heads/gfl_head.py`). For the IoU that is the target, boxes are one cell wider and
    higher than their corners say. And box losses are divided by the sum of their weights, even if it is very
    small.
    """

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox` and `loss_dfl` of a batch, each mmdet's sum over levels."""
        grids = [grid_of(scores) for scores in cls_scores]
        targets = self._targets(grids, batch_gt_instances, batch_img_metas, bbox_preds[0])
        logits = rows_of_batch(cls_scores, self.cls_out_channels)  # [B * A, C]
        bins = self.reg_max + 1
        distributions = targets.of_positives(rows_of_batch(bbox_preds, 4 * bins))  # [P, 4 * bins]
        strides = self._strides(grids, like=logits)[targets.anchors % sum(h * w for h, w in grids)]  # [P, 1]
        centres, gt_boxes = anchor_centres(targets.priors) / strides, targets.boxes / strides
        boxes = self.bbox_coder.decode(centres, self.integral(distributions))  # [P, 4] in strides
        quality = targets.on_anchors(paired_iou(boxes.detach(), gt_boxes).to(targets.label_weights))
        weights = torch.where(targets.positive, logits.detach()[targets.anchors].sigmoid().amax(1), 0)  # [P]
        distances = self.bbox_coder.encode(centres, gt_boxes, self.reg_max)  # [P, 4]
        of_cls, of_boxes = reduce_mean(torch.stack([targets.number.to(weights), weights.sum()]))
        # The divisors 1 and 4 are mmdet's, each with the small number that it adds
        loss_bbox = self.loss_bbox(boxes, gt_boxes, weight=weights, avg_factor=1.0)
        loss_dfl = self.loss_dfl(
            distributions.reshape(-1, bins),  # [P * 4, bins]
            distances.flatten(),
            weight=weights.repeat_interleave(4),
            avg_factor=4.0,
        )
        loss_cls = self.loss_cls(
            logits, (targets.labels, quality), weight=targets.label_weights, avg_factor=of_cls
        )
        of_boxes = of_boxes.clamp(min=1)
        return {"loss_cls": loss_cls, "loss_bbox": loss_bbox / of_boxes, "loss_dfl": loss_dfl / of_boxes}

    def _strides(self, grids: list[tuple[int, int]], like: Tensor) -> Tensor:
        """[A, 1] the stride of each anchor in pixels."""
        return torch.cat(
            [
                like.new_full((height * width, 1), stride[0])
                for (height, width), stride in zip(grids, self.prior_generator.strides, strict=True)
            ]
        )

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, distributions = outs  # [C, H, W], [4 * (reg_max + 1), H, W]
        scores = rows_of_anchors(cls_logits, self.cls_out_channels).sigmoid()  # [H*W, C]
        stride = self.prior_generator.strides[level][0]
        centres = anchor_centres(priors)  # [H*W, 2]
        distances = self.integral(distributions.permute(1, 2, 0)) * stride  # [H*W, 4]
        boxes = self.bbox_coder.decode(centres, distances)
        return DenseLevel(scores, scores, boxes, centres, grid_of(cls_logits), stride)
