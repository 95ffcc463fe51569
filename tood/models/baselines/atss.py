"""mmdet's ATSS head with this package's prediction path; anchor-free by `tood.PointBBoxCoder`."""

from typing import Any

import torch
from mmdet.models.dense_heads import ATSSHead as MMDetATSSHead
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.common.anchor_boxes import AnchorBoxesMixin, rows_of_anchors, rows_of_batch
from tood.models.common.atss_targets import ATSSTargetsMixin
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin


@MODELS.register_module()
class ATSSHead(ATSSTargetsMixin, TowersMixin, AnchorBoxesMixin, MMDetATSSHead):
    """Parallel head + ATSS (Tables 1, 2, 3, 5 and 6); configuration as mmdet's `ATSSHead`.

    `tood.PointBBoxCoder` makes it anchor-free and learns its unit from the anchor generator. Targets and
    losses are mmdet's. With `tood.ATSSAssigner` no shape depends on a value: nothing waits for a device.

    Args:
        conv_bias, dcn_on_last_conv: as in the authors' code, see `TowersMixin`.

    Raises:
        ValueError: the assigner is to ignore regions.
    """

    divisors = Divisors.TARGETS

    def __init__(
        self,
        *args: Any,
        anchor_generator: dict,
        bbox_coder: dict,
        conv_bias: bool = False,
        dcn_on_last_conv: bool = False,
        **kwargs: Any,
    ) -> None:
        self.conv_bias = conv_bias
        self.dcn_on_last_conv = dcn_on_last_conv
        if bbox_coder["type"] == "tood.PointBBoxCoder":
            bbox_coder = {**bbox_coder, "anchor_scale": anchor_generator["octave_base_scale"]}
        super().__init__(*args, anchor_generator=anchor_generator, bbox_coder=bbox_coder, **kwargs)

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        """Logits [B, C, H, W], regression [B, 4, H, W] and centerness [B, 1, H, W] of one level."""
        cls_logits, regression, *centerness = super().forward_single(x, scale)
        # mmdet converts the regression to float32; here a float64 loss is float64 throughout.
        return cls_logits, regression.to(torch.promote_types(torch.float32, cls_logits.dtype)), *centerness

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; no region is ignored, as with mmdet's `ATSSAssigner` by default."""
        grids = [grid_of(scores) for scores in cls_scores]
        targets = self._targets(grids, batch_gt_instances, batch_img_metas, bbox_preds[0])
        positive = targets.positive
        deltas = targets.of_positives(rows_of_batch(bbox_preds, 4))  # [P, 4]
        boxes = self.bbox_coder.decode(targets.priors, deltas)
        centerness = targets.of_positives(rows_of_batch(centernesses, 1))[:, 0]  # [P]
        nothing = deltas.sum() + centerness.sum()  # 0 with a gradient, if there are no pairs
        loss_cls = self.loss_cls(
            rows_of_batch(cls_scores, self.cls_out_channels),
            targets.labels,
            targets.label_weights,
            reduction_override="sum",
        )
        # With weights, mmdet's loss would test their signs and wait for the device
        loss_bbox = self.loss_bbox(boxes, targets.boxes, reduction_override="none")  # [P]
        loss_centerness = self.loss_centerness(
            centerness, targets.centerness, positive.to(centerness), reduction_override="none"
        )  # [P], in float32 whatever it is of
        # With the small number that mmdet adds, in the box loss to a divisor of 1
        eps = torch.finfo(torch.float32).eps
        number, sum_of_centerness = reduce_mean(torch.stack([targets.number, targets.centerness.sum()]))
        return {
            "loss_cls": loss_cls / (number + eps),
            "loss_bbox": ((loss_bbox * targets.centerness).sum() if len(positive) else nothing)
            / (sum_of_centerness.clamp(min=1) * (1 + eps)),
            "loss_centerness": loss_centerness.to(centerness).sum() / (number + eps),
        }

    def divisors_from_targets(
        self, grids: list[tuple[int, int]], gts: list[InstanceData], metas: list[dict], like: Tensor
    ) -> list[Tensor]:
        """The number of positives and the sum of their centerness."""
        targets = self._targets(grids, gts, metas, like)
        return [torch.stack([targets.number, targets.centerness.sum()])]

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        dense = super()._dense_level(level, outs[:2], priors)
        if len(outs) == 2:  # without centerness
            return dense
        return dense._replace(confidence=dense.scores * rows_of_anchors(outs[2], 1).sigmoid())
