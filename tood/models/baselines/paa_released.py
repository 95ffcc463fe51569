"""PAA as its authors' code has it (kkhoot/PAA, `paa_core/modeling/rpn/paa/loss.py`), for Table 5.

Differences from mmdet's head, which `paa.py` has:

- An object's best anchor, if it overlaps by less than the threshold, is a candidate of the object that the
  anchor overlaps most; mmdet makes it one of the former.
- Candidates are ranked by classification loss plus GIoU loss; mmdet weighs the latter by 1.3, as in training.
- Positives are all candidates up to the most likely one of the first Gaussian, whatever Gaussian they are of.
  If no candidate belongs to the first, all are positive; a single candidate is positive.
- Number of positives and sum of their IoUs, which divide the losses, are means over GPUs.
"""

from typing import Any

import numpy as np
import torch
from mmdet.models.task_modules.assigners import AssignResult, MaxIoUAssigner
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from sklearn.mixture import GaussianMixture
from torch import Tensor

from tood.models.baselines.paa import LEAST_IOU, PAAHead
from tood.models.common.anchor_boxes import rows_of_batch
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import box_rows_iou, paired_iou
from tood.models.common.registry import MODELS, TASK_UTILS


@TASK_UTILS.register_module()
class OwnBestIoUAssigner(MaxIoUAssigner):
    """Anchors that overlap an object enough, and each object's best, go to the object of largest IoU."""

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> AssignResult:
        """Assign the `priors` [A, 4] of one image to its objects; no region is ignored."""
        priors = pred_instances.priors
        overlaps = box_rows_iou(priors.T[None], gt_instances.bboxes.to(priors))  # [G, A]
        return self.assign_wrt_overlaps(overlaps, gt_instances.labels)

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> AssignResult:
        """Assign by IoUs [G, A]; labels [G]."""
        if overlaps.numel() == 0:
            return super().assign_wrt_overlaps(overlaps, gt_labels)
        best, owner = overlaps.max(0)  # [A] each
        of_some_object = (overlaps == overlaps.amax(1, keepdim=True)).any(0)
        positive = (best >= self.pos_iou_thr) | of_some_object
        return AssignResult(
            len(gt_labels),
            torch.where(positive, owner + 1, 0),
            best,
            labels=torch.where(positive, gt_labels[owner], -1),
        )


def number_of_positives(losses: np.ndarray) -> int:
    """How many of an object's candidates are positive, those of least loss.

    Args:
        losses: [K] by rising loss.
    """
    if len(losses) < 2:
        return len(losses)
    column = losses[:, None]
    mixture = GaussianMixture(
        2,
        weights_init=[0.5, 0.5],
        means_init=[[losses[0]], [losses[-1]]],
        precisions_init=[[[1.0]], [[1.0]]],
    ).fit(column)
    first = mixture.predict(column) == 0
    if not first.any():
        return len(losses)
    likelihood = np.where(first, mixture.score_samples(column), -np.inf)
    return int(likelihood.argmax()) + 1


def choose_positives(losses: Tensor, objects: Tensor, levels: Tensor, topk: int) -> Tensor:
    """Which candidates of an image are positive.

    Args:
        losses: [P].
        objects: [P] of each candidate.
        levels: [P] of each candidate.
        topk: candidates of an object on a level, those of least loss.

    Returns:
        [P] bool
    """
    positive = torch.zeros_like(objects, dtype=torch.bool)
    for index in objects.unique():
        kept = []
        for level in levels[objects == index].unique():
            here = ((objects == index) & (levels == level)).nonzero().squeeze(1)
            kept.append(here[losses[here].topk(min(topk, len(here)), largest=False).indices])
        candidates = torch.cat(kept)
        candidates = candidates[losses[candidates].argsort()]
        positive[candidates[: number_of_positives(losses[candidates].double().cpu().numpy())]] = True
    return positive


@MODELS.register_module()
class PAAReleasedHead(PAAHead):
    """`PAAHead` as its authors train it; configuration with `tood.OwnBestIoUAssigner`."""

    divisors = Divisors.PREDICTIONS

    def _candidate_losses(
        self, logits: Tensor, labels: Tensor, weights: Tensor, boxes: Tensor, gt_boxes: Tensor
    ) -> Tensor:
        """[K] the rank score of candidates: loss of classes plus GIoU loss, both without weights."""
        loss_cls = self.loss_cls(logits, labels, reduction_override="none").sum(-1)
        loss_bbox = self.loss_bbox(boxes, gt_boxes, reduction_override="none")
        return loss_cls + loss_bbox / self.loss_bbox.loss_weight

    def paa_reassign(
        self,
        pos_losses: Tensor,
        label: Tensor,
        label_weight: Tensor,
        bbox_weight: Tensor,
        pos_inds: Tensor,
        pos_gt_inds: Tensor,
        anchors: list[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        """Labels after the choice, and the number of positives; arguments and result as mmdet's."""
        levels = torch.cat([torch.full((len(a),), i, device=label.device) for i, a in enumerate(anchors)])
        positive = choose_positives(pos_losses, pos_gt_inds, levels[pos_inds], self.topk)
        label = label.clone()
        label[pos_inds[~positive]] = self.num_classes
        return label, label_weight, bbox_weight, int(positive.sum())

    def _losses(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: list[Tensor] | None,
        gts: list[InstanceData],
        metas: list[dict],
        ignored: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox` and `loss_iou` of a batch; no region is ignored."""
        assert iou_preds is not None, "the authors' head predicts IoUs"
        logits, deltas = rows_of_batch(cls_scores, self.cls_out_channels), rows_of_batch(bbox_preds, 4)
        chosen = self._chosen(cls_scores, logits, deltas, gts, metas)
        deltas = deltas[chosen.places]  # [P, 4]
        boxes = self.bbox_coder.decode(chosen.anchors, deltas)
        iou = paired_iou(boxes.detach(), chosen.boxes)  # [P]
        sums = torch.stack([torch.full_like(iou.sum(), len(iou)), iou.sum()])
        number, sum_of_ious = reduce_mean(sums)
        number, sum_of_ious = number.clamp(min=1), sum_of_ious.clamp(min=LEAST_IOU)
        iou_logits = rows_of_batch(iou_preds, 1)[chosen.places, 0]
        options: dict[str, Any] = {"reduction_override": "none"}
        return {
            "loss_cls": self.loss_cls(logits, chosen.labels, chosen.label_weights, avg_factor=number),
            "loss_bbox": (self.loss_bbox(boxes, chosen.boxes, **options) * iou).sum() / sum_of_ious
            if len(iou)
            else deltas.sum(),
            "loss_iou": self.loss_centerness(iou_logits, iou, **options).sum() / number,
        }
