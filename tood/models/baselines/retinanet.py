"""RetinaNet (Tables 2 and 5): mmdet's head with this suite's prediction path, and targets without waits."""

from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import RetinaHead as MMDetRetinaHead
from mmdet.models.losses.utils import weight_reduce_loss
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.anchor_boxes import AnchorBoxesMixin, rows_of_batch
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.max_iou import IGNORED, assign_by_iou
from tood.models.common.pairs import objects_of_points
from tood.models.common.registry import MODELS


class AnchorTargets(NamedTuple):
    """The training targets of the N anchors of a batch, image after image."""

    anchors: Tensor  # [N, 4] pixels
    owners: Tensor  # [B, A] object of the image, negative for none
    labels: Tensor  # [N] class of the object, or the number of classes for background
    label_weights: Tensor  # [N] 0 for those that are ignored
    deltas: Tensor  # [N, 4] of the object's box; without meaning for the others
    number: Tensor  # of positives; an image without positives counts as one


@MODELS.register_module()
class RetinaHead(AnchorBoxesMixin, MMDetRetinaHead):
    """RetinaNet: positives by the IoU of anchors with objects; configuration as mmdet's.

    Raises:
        ValueError: `reg_decoded_bbox` is set, an option of mmdet's head that this head lacks.
    """

    divisors = Divisors.NONE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.reg_decoded_bbox:
            raise ValueError(f"{type(self).__name__} learns deltas: leave out reg_decoded_bbox")

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls` and `loss_bbox` of a batch, mmdet's; ignored objects play no part.

        Raises:
            ValueError: no anchor of an image takes part.
        """
        logits = rows_of_batch(cls_scores, self.cls_out_channels)  # [B*A, C]
        deltas = rows_of_batch(bbox_preds, 4)  # [B*A, 4]
        targets = self._targets(cls_scores, batch_gt_instances, batch_img_metas)
        return self._losses(logits, deltas, targets)

    def _losses(self, logits: Tensor, deltas: Tensor, targets: AnchorTargets) -> dict[str, Tensor]:
        of_boxes = self.loss_bbox(deltas, targets.deltas, reduction_override="none")  # [N, 4]
        positive = (targets.owners.flatten() >= 0)[:, None]
        return {
            "loss_cls": self.loss_cls(
                logits, targets.labels, targets.label_weights, avg_factor=targets.number
            ),
            "loss_bbox": weight_reduce_loss(of_boxes, positive, avg_factor=targets.number),
        }

    def _targets(self, cls_scores: list[Tensor], gts: list[InstanceData], metas: list[dict]) -> AnchorTargets:
        priors, grids = self._priors((cls_scores,)), [grid_of(maps) for maps in cls_scores]
        anchors = torch.cat(priors)  # [A, 4]
        owners = [
            self._owners_of_image(anchors, rows, gt)
            for gt, rows in zip(gts, self._inside_rows(grids, priors, metas), strict=True)
        ]
        of_images = torch.stack(owners)  # [B, A]
        labels, boxes = objects_of_points(gts, of_images, self.num_classes, anchors)
        repeated = anchors.repeat(len(gts), 1)  # [B*A, 4]
        weights = (of_images != IGNORED).to(anchors)
        if (positive_weight := self.train_cfg["pos_weight"]) > 0:
            weights = weights.where(of_images < 0, positive_weight)
        boxes = boxes.where(of_images.flatten()[:, None] >= 0, repeated)
        return AnchorTargets(
            repeated,
            of_images,
            labels,
            weights.flatten(),
            self.bbox_coder.encode(repeated, boxes),
            (of_images >= 0).sum(1).clamp(min=1).sum().to(anchors),
        )

    def _owners_of_image(self, anchors: Tensor, rows: Tensor, gt: InstanceData) -> Tensor:
        """[A] object of each of the anchors [A, 4], of which those of some rows [N] take part."""
        owners = torch.full((len(anchors),), IGNORED, device=anchors.device)
        return owners.index_put((rows,), self._owners(anchors[rows], gt))

    def _owners(self, anchors: Tensor, gt: InstanceData) -> Tensor:
        """[N] object of each anchor [N, 4], or `NEGATIVE`, or `IGNORED`."""
        rule = self.assigner
        return assign_by_iou(
            anchors, gt.bboxes.to(anchors), rule.pos_iou_thr, rule.neg_iou_thr, rule.min_pos_iou
        )

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        (rows,) = self._inside_rows([level.grid for level in levels], priors, [meta])
        return self._owners_of_image(torch.cat(priors), rows, gt)

    def _inside_rows(
        self, grids: list[tuple[int, int]], priors: list[Tensor], metas: list[dict]
    ) -> list[Tensor]:
        """Of each image, the indices of the anchors that take part in training, over all levels.

        Raises:
            ValueError: an image has none.
        """
        images = self._rows_inside(grids, priors, metas)
        starts = [sum(len(level) for level in priors[:i]) for i in range(len(priors))]
        inside = [
            torch.cat([rows + start for rows, start in zip(levels, starts, strict=True)]) for levels in images
        ]
        if not all(len(rows) for rows in inside):
            raise ValueError("no anchor is inside of the image: set model.train_cfg.allowed_border to -1")
        return inside
