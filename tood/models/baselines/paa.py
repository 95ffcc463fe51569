"""mmdet's PAA head with this package's prediction path, with and without IoU prediction (Tables 2 and 5)."""

from typing import Any

import torch
from mmdet.models.dense_heads import PAAHead as MMDetPAAHead
from mmdet.models.utils import levels_to_images
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.common.anchor_boxes import AnchorBoxesMixin, rows_of_anchors
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.positives import Positives, of_assignment
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin


class EqualWeights(nn.Module):
    """A box loss that counts all boxes alike, whatever weights and divisor mmdet's head gives it.

    Args:
        loss: of mmdet.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, boxes: Tensor, targets: Tensor, *weights: Tensor, **options: Any) -> Tensor:
        """The mean over [P, 4] boxes, or the loss of each of them where the head scores anchors by it."""
        if options.get("reduction_override") == "none":
            return self.loss(boxes, targets, *weights, **options)
        return self.loss(boxes, targets)


@MODELS.register_module()
class PAAHead(TowersMixin, AnchorBoxesMixin, MMDetPAAHead):
    """Parallel head + PAA; configuration as mmdet's `PAAHead`.

    The confidence is the geometric mean of the score and the IoU. mmdet's threshold is on it
    (`test_cfg.score_thr_on="confidence"`), that of the authors' code on the score.

    Args:
        use_iou_pred: predict the IoU of each box and rank by the geometric mean of it and the score, as
            mmdet always does. Without it the branch, its loss and its factor are gone, and the box loss is a
            plain mean over the positives, as in the authors' code (kkhoot/PAA,
            `paa_core/modeling/rpn/paa/loss.py`); with it, IoUs weigh the boxes.
        conv_bias, dcn_on_last_conv: as in the authors' code, see `TowersMixin`.
        score_voting: always False; `test_cfg.score_voting` says whether there is voting.

    Raises:
        ValueError: `score_voting` is set.
    """

    loss_bbox: nn.Module  # of the head

    assigns_by_prediction = True
    divisors = Divisors.NONE

    def __init__(
        self,
        *args: Any,
        use_iou_pred: bool = True,
        conv_bias: bool = False,
        dcn_on_last_conv: bool = False,
        score_voting: bool = False,
        **kwargs: Any,
    ) -> None:
        if score_voting:
            raise ValueError(
                "bbox_head.score_voting of tood.PAAHead is set; set model.test_cfg.score_voting instead"
            )
        self.use_iou_pred = use_iou_pred
        self.conv_bias = conv_bias
        self.dcn_on_last_conv = dcn_on_last_conv
        super().__init__(*args, score_voting=False, **kwargs)
        if not use_iou_pred:
            self.loss_bbox = EqualWeights(self.loss_bbox)

    def _init_layers(self) -> None:
        super()._init_layers()
        if not self.use_iou_pred:
            self.atss_centerness = nn.Identity()  # its output goes nowhere

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        """Logits [B, C, H, W], deltas [B, 4, H, W] and, if predicted, IoU logits [B, 1, H, W] of a level."""
        maps = super().forward_single(x, scale)
        return maps if self.use_iou_pred else maps[:2]

    def loss_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """As mmdet's; without IoU prediction its loss is absent."""
        if self.use_iou_pred:
            return super().loss_by_feat(cls_scores, bbox_preds, *args, **kwargs)
        nothing = [scores[:, :1].detach() for scores in cls_scores]
        losses = super().loss_by_feat(cls_scores, bbox_preds, nothing, *args, **kwargs)
        del losses["loss_iou"]
        return losses

    @torch.no_grad()
    def positives_by_feat(
        self, *outs: list[Tensor], batch_gt_instances: list[InstanceData], batch_img_metas: list[dict]
    ) -> list[Positives]:
        """What is left of the candidates after the mixture model's choice; see `DensePredictionMixin`."""
        _, owners, _ = self._chosen(outs[0], outs[1], batch_gt_instances, batch_img_metas)
        return [of_assignment(owner) for owner in owners]

    @torch.no_grad()
    def _chosen(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """The mixture model's choice for each image.

        Returns:
            anchors [A, 4]; object of each anchor [A], -1 for none; weights of its classification loss [A]
        """
        grids = [grid_of(scores) for scores in cls_scores]
        anchors, flags = self.get_anchors(grids, batch_img_metas, device=cls_scores[0].device)
        targets = self.get_targets(anchors, flags, batch_gt_instances, batch_img_metas)
        logits = [maps.reshape(-1, self.cls_out_channels) for maps in levels_to_images(cls_scores)]
        deltas = [maps.reshape(-1, 4) for maps in levels_to_images(bbox_preds)]
        owners, weights = [], []
        for image in zip(anchors, logits, deltas, *targets, strict=True):
            levels, *_, label, label_weight, _, box_weight, candidates, objects = image
            (loss,) = self.get_pos_loss(*image[:-1])
            label, label_weight, *_ = self.paa_reassign(
                loss, label, label_weight, box_weight, candidates, objects, levels
            )
            owner = torch.full_like(label, -1)
            owner[candidates] = objects
            owner[label == self.num_classes] = -1
            owners.append(owner)
            weights.append(label_weight)
        return [torch.cat(levels) for levels in anchors], owners, weights

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        dense = super()._dense_level(level, outs[:2], priors)
        if not self.use_iou_pred:
            return dense
        iou = rows_of_anchors(outs[2], 1).sigmoid()  # [H*W, 1]
        return dense._replace(confidence=(dense.scores * iou).sqrt())
