"""RetinaNet trained by NoisyAnchor (Table 2); the scheme itself is `tood.noisy_anchor`."""

from typing import Any

import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from tood.dense import grid_of
from tood.heads.anchor_boxes import assign_inside
from tood.heads.retina_head import RetinaHead
from tood.noisy_anchor import keep_sum, sample_weights, soft_focal_loss, soft_labels, top_n_assign
from tood.registry import MODELS, TASK_UTILS


@TASK_UTILS.register_module()
class TopNAssigner(BaseAssigner):
    """`top_n_assign` as mmdet's heads call it.

    Args:
        top_n: anchors an object chooses.
    """

    def __init__(self, top_n: int) -> None:
        self.top_n = top_n

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> AssignResult:
        """Assign `pred_instances.priors` [A, 4] to `gt_instances.bboxes` [G, 4]."""
        priors = pred_instances.priors
        ious = bbox_overlaps(gt_instances.bboxes.to(priors), priors)  # [G, A]
        gt_index = top_n_assign(ious, self.top_n)
        positive = gt_index >= 0
        labels = torch.full_like(gt_index, -1)
        labels[positive] = gt_instances.labels[gt_index[positive]]
        return AssignResult(len(gt_instances), gt_index + 1, max_overlaps=None, labels=labels)


@MODELS.register_module()
class NoisyAnchorHead(RetinaHead):
    """RetinaNet with soft labels and weights by the cleanliness of its positives.

    Both losses are divided by a running mean of the number of positives in a batch, as in the authors'
    code. There a GPU keeps one of its own few images; here the batch is whole.

    Args:
        loss_cls: its `gamma`, `alpha` and `loss_weight` are `soft_focal_loss`'s.
        train_cfg: `assigner`, `allowed_border`, `alpha` (share of localisation in the cleanliness) and
            `momentum` of the running mean.
        others: as mmdet's `RetinaHead`; `loss_bbox` on encoded boxes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A reasonable number to begin with; in a buffer, as a resumed training needs it.
        self.register_buffer("mean_positives", torch.tensor(100.0))

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls` and `loss_bbox` of a batch; it moves the running mean of the number of positives."""
        logits, deltas = (  # [B, A, C], [B, A, 4]
            torch.cat([maps.permute(0, 2, 3, 1).reshape(len(maps), -1, K) for maps in levels], 1)
            for levels, K in ((cls_scores, self.cls_out_channels), (bbox_preds, 4))
        )
        priors = self._priors((cls_scores,))
        grids = [grid_of(maps) for maps in cls_scores]
        anchors = torch.cat(priors)  # [A, 4]
        insides, targets, weights = [], [], []
        box_deltas, box_targets, box_weights = [], [], []
        for b, (gt, meta) in enumerate(zip(batch_gt_instances, batch_img_metas, strict=True)):
            inside = self._inside(grids, priors, meta)
            gt_index = assign_inside(self.assigner, priors, inside, gt)
            positive = gt_index >= 0
            owner = gt_index[positive]
            gt_boxes, gt_labels = gt.bboxes[owner].to(anchors), gt.labels[owner]
            boxes = self.bbox_coder.decode(anchors[positive], deltas[b, positive].detach())
            loc = bbox_overlaps(boxes, gt_boxes, is_aligned=True)
            cls = logits[b, positive, gt_labels].detach().sigmoid()
            alpha = self.train_cfg["alpha"]
            target = torch.zeros_like(logits[b])
            target[positive, gt_labels] = soft_labels(loc, cls, alpha).to(target)
            weight = torch.ones_like(inside, dtype=logits.dtype)
            weight[positive] = sample_weights(loc, cls, alpha).to(weight)
            insides.append(inside)
            targets.append(target)
            weights.append(weight)
            box_deltas.append(deltas[b, positive])
            box_targets.append(self.bbox_coder.encode(anchors[positive], gt_boxes))
            box_weights.append(weight[positive])
        positive_weights = torch.cat(box_weights)[:, None]  # [P, 1]
        momentum = self.train_cfg["momentum"]
        self.mean_positives.mul_(momentum).add_((1 - momentum) * len(positive_weights))
        divisor = self.mean_positives.clamp(min=1)
        cfg = self.loss_cls
        inside = torch.stack(insides)  # [B, A]; the sum that the weights keep is without the padding
        cls_loss = soft_focal_loss(logits[inside], torch.stack(targets)[inside], cfg.gamma, cfg.alpha)
        cls_weights = torch.stack(weights)[inside][:, None]
        box_loss = self.loss_bbox(torch.cat(box_deltas), torch.cat(box_targets), reduction_override="none")
        return {
            "loss_cls": keep_sum(cls_loss, cls_weights).sum() * cfg.loss_weight / divisor,
            "loss_bbox": keep_sum(box_loss, positive_weights).sum() / divisor,
        }
