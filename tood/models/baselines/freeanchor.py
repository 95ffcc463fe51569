"""FreeAnchor (Table 2): mmdet's head with this suite's prediction path."""

import torch
from mmdet.models.dense_heads import FreeAnchorRetinaHead as MMDetFreeAnchorHead
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.anchor_boxes import AnchorBoxesMixin, rows_of_batch
from tood.models.common.dense_level import DenseLevel
from tood.models.common.divisors import Divisors
from tood.models.common.losses import binary_cross_entropy
from tood.models.common.pairs import box_rows_iou, objects_at_once, objects_of
from tood.models.common.positives import Positives
from tood.models.common.registry import MODELS

LEAST = 1e-12  # bound of probabilities, as in mmdet


def class_probabilities(
    boxes: Tensor, gt_boxes: Tensor, gt_labels: Tensor, classes: int, threshold: float
) -> Tensor:
    """The probability that a predicted box belongs to an object of each class.

    It is 0 at the threshold of the IoU, and 1 for the best box of the object.

    Args:
        boxes: [A, 4] predicted.
        gt_boxes: [G, 4].
        gt_labels: [G].
        classes: C.
        threshold: IoU.

    Returns:
        [A, C]
    """
    nothing = boxes.new_zeros(len(boxes), classes)
    if len(gt_boxes) == 0:
        return nothing
    ious = box_rows_iou(boxes.T[None], gt_boxes.to(boxes))  # [G, A]
    best = ious.amax(1, keepdim=True).clamp(min=threshold + LEAST)
    probability = ((ious - threshold) / (best - threshold)).clamp(min=0, max=1)
    return nothing.scatter_reduce(1, gt_labels.expand(len(boxes), -1), probability.T, "amax")


@MODELS.register_module()
class FreeAnchorHead(AnchorBoxesMixin, MMDetFreeAnchorHead):
    """RetinaNet that learns which anchors of a bag serve an object; configuration as mmdet's.

    Its positives are soft: the weights by which the mean-max function of the bag's loss mixes the anchors.
    """

    assigns_by_prediction = True
    divisors = Divisors.NONE

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`positive_bag_loss` and `negative_bag_loss` of a batch, mmdet's; ignored objects play no part."""
        B = len(batch_gt_instances)
        logits = rows_of_batch(cls_scores, self.cls_out_channels)  # [B*A, C]
        deltas = rows_of_batch(bbox_preds, 4)  # [B*A, 4]
        scores = logits.sigmoid().unflatten(0, (B, -1))  # [B, A, C]
        anchors = torch.cat(self._priors((cls_scores,)))  # [A, 4]
        objects = objects_of(batch_gt_instances, anchors)
        G, K = len(objects.boxes), self.pre_anchor_topk
        with torch.no_grad():
            boxes = self.bbox_coder.decode(anchors.repeat(B, 1), deltas).unflatten(0, (B, -1))  # [B, A, 4]
            probabilities = torch.stack(
                [
                    class_probabilities(of_image, gt.bboxes, gt.labels, self.num_classes, self.bbox_thr)
                    for of_image, gt in zip(boxes, batch_gt_instances, strict=True)
                ]
            )
        negative = self.negative_bag_loss(scores, probabilities).sum() / max(1, G * K)
        if G == 0:
            return {"positive_bag_loss": deltas.sum() * 0, "negative_bag_loss": negative}
        bags = self._bags(anchors, objects.boxes)  # [G, K]
        image = objects.images[:, None]
        targets = objects.boxes[:, None].expand(-1, K, -1)  # [G, K, 4]
        loss = self.loss_bbox(
            deltas.unflatten(0, (B, -1))[image, bags],
            self.bbox_coder.encode(anchors[bags], targets),
            reduction_override="none",
        )
        positive = self.positive_bag_loss(scores[image, bags, objects.labels[:, None]], (-loss.sum(-1)).exp())
        return {"positive_bag_loss": positive.sum() / G, "negative_bag_loss": negative}

    def positive_bag_loss(self, matched_cls_prob: Tensor, matched_box_prob: Tensor) -> Tensor:
        """[G] -log of the mean-max of the bags' probabilities [G, K] and [G, K]."""
        probability = matched_cls_prob * matched_box_prob
        weights = 1 / (1 - probability).clamp(min=LEAST)
        probability = (weights / weights.sum(1, keepdim=True) * probability).sum(1)
        return self.alpha * binary_cross_entropy(probability, torch.ones_like(probability))

    def negative_bag_loss(self, cls_prob: Tensor, box_prob: Tensor) -> Tensor:
        """[B, A, C] focal loss of the scores, weighted by how unlikely an object of the class has the box."""
        probability = (cls_prob * (1 - box_prob)).clamp(min=LEAST, max=1 - LEAST)
        loss = binary_cross_entropy(probability, torch.zeros_like(probability))
        return (1 - self.alpha) * probability**self.gamma * loss

    def _bags(self, anchors: Tensor, gt_boxes: Tensor) -> Tensor:
        """[G, K] the anchors of highest IoU with each object, in any order."""
        parts = gt_boxes.split(objects_at_once(len(anchors), anchors.device))
        corners = anchors.T[None]  # [1, 4, A]
        return torch.cat(
            [
                box_rows_iou(corners, part).topk(self.pre_anchor_topk, dim=1, sorted=False).indices
                for part in parts
            ]
        )

    def _positives(
        self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict
    ) -> Positives:
        anchors = torch.cat(priors)  # [A, 4]
        boxes = torch.cat([level.boxes for level in levels])  # [A, 4]
        scores = torch.cat([level.scores for level in levels])  # [A, C]
        G = len(gt)
        bags = self._bags(anchors, gt.bboxes)  # [G, K]
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
