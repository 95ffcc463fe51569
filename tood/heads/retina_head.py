"""mmdet's RetinaNet heads with this package's prediction path: RetinaNet, PISA and FreeAnchor (Table 2)."""

import torch
from mmdet.models.dense_heads import FreeAnchorRetinaHead as MMDetFreeAnchorHead
from mmdet.models.dense_heads import PISARetinaHead as MMDetPISAHead
from mmdet.models.dense_heads import RetinaHead as MMDetRetinaHead
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from tood.box_codecs import anchor_centres
from tood.dense import DenseLevel
from tood.heads.dense_prediction import DensePredictionMixin
from tood.positives import Positives
from tood.registry import MODELS


class AnchorBoxesMixin(DensePredictionMixin):
    """Dense predictions and hard assignments of mmdet heads with several anchors a location."""

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, deltas = outs  # [anchors * C, H, W], [anchors * 4, H, W]
        scores = rows_of_anchors(cls_logits, self.cls_out_channels).sigmoid()  # [H*W*anchors, C]
        return DenseLevel(
            scores,
            scores,
            self.bbox_coder.decode(priors, rows_of_anchors(deltas, 4)),  # [H*W*anchors, 4]
            anchor_centres(priors),
            tuple(cls_logits.shape[-2:]),
            self.prior_generator.strides[level][0],
        )

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        inside = self._inside([level.grid for level in levels], priors, meta)
        result = self.assigner.assign(InstanceData(priors=torch.cat(priors)[inside]), gt)
        gt_index = torch.full_like(inside, -1, dtype=torch.long)
        gt_index[inside] = result.gt_inds - 1
        return gt_index


def rows_of_anchors(maps: Tensor, channels: int) -> Tensor:
    """[anchors * channels, H, W] as [H * W * anchors, channels], in the order of mmdet's anchors."""
    return maps.permute(1, 2, 0).reshape(-1, channels)


@MODELS.register_module()
class RetinaHead(AnchorBoxesMixin, MMDetRetinaHead):
    """RetinaNet: positives by the IoU of anchors with objects; configuration as mmdet's."""


@MODELS.register_module()
class PISARetinaHead(AnchorBoxesMixin, MMDetPISAHead):
    """RetinaNet's positives, weighted by their rank (PISA); configuration as mmdet's."""


@MODELS.register_module()
class FreeAnchorHead(AnchorBoxesMixin, MMDetFreeAnchorHead):
    """RetinaNet that learns which anchors of a bag serve an object; configuration as mmdet's.

    Its positives are soft: the weights by which the mean-max function of the bag's loss mixes the anchors.
    """

    assigns_by_prediction = True

    def _positives(
        self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict
    ) -> Positives:
        anchors = torch.cat(priors)  # [A, 4]
        boxes = torch.cat([level.boxes for level in levels])  # [A, 4]
        scores = torch.cat([level.scores for level in levels])  # [A, C]
        G = len(gt)
        bags = bbox_overlaps(gt.bboxes, anchors).topk(self.pre_anchor_topk, dim=1).indices  # [G, K]
        targets = gt.bboxes[:, None].expand(-1, self.pre_anchor_topk, -1)  # [G, K, 4]
        loss = self.loss_bbox(
            self.bbox_coder.encode(anchors[bags], boxes[bags]),
            self.bbox_coder.encode(anchors[bags], targets),
            reduction_override="none",
        )
        box_probability = (-loss.sum(-1)).exp()  # [G, K], or a scalar, as mmdet's loss of nothing is
        cls_probability = scores[bags, gt.labels[:, None]]  # [G, K]
        weights = 1 / (1 - cls_probability * box_probability).clamp(min=1e-12)
        weights = weights / weights.sum(1, keepdim=True)
        objects = torch.arange(G, device=bags.device)[:, None].expand_as(bags)
        return Positives(bags.flatten(), objects.flatten(), weights.flatten())
