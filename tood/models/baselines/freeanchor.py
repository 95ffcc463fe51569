"""FreeAnchor (Table 2): mmdet's head with this suite's prediction path."""

import torch
from mmdet.models.dense_heads import FreeAnchorRetinaHead as MMDetFreeAnchorHead
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.anchor_boxes import AnchorBoxesMixin
from tood.models.common.dense_level import DenseLevel
from tood.models.common.divisors import Divisors
from tood.models.common.positives import Positives
from tood.models.common.registry import MODELS


@MODELS.register_module()
class FreeAnchorHead(AnchorBoxesMixin, MMDetFreeAnchorHead):
    """RetinaNet that learns which anchors of a bag serve an object; configuration as mmdet's.

    Its positives are soft: the weights by which the mean-max function of the bag's loss mixes the anchors.
    """

    assigns_by_prediction = True
    divisors = Divisors.NONE

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
