"""mmdet's ATSS head with this package's prediction path; anchor-free by `tood.PointBBoxCoder`."""

from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import ATSSHead as MMDetATSSHead
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn

from tood.models.common.anchor_boxes import AnchorBoxesMixin, assign_inside, rows_of_anchors, rows_of_batch
from tood.models.common.atss_assigner import match_batch
from tood.models.common.box_coders import anchor_centres, centerness_target
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import objects_of
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin


class Targets(NamedTuple):
    """What a batch of B images and A anchors is to learn, with P pairs of an anchor and an object."""

    labels: Tensor  # [B * A], the number of classes for the background
    label_weights: Tensor  # [B * A] of the classification loss; 0 in the padding outside an image
    anchors: Tensor  # [P] int64, b * A + a for anchor a of image b
    priors: Tensor  # [P, 4] the same as boxes, pixels
    boxes: Tensor  # [P, 4] of the objects, pixels
    positive: Tensor  # [P]; pairs that are not positive teach nothing
    centerness: Tensor  # [P], 0 where not positive
    number: Tensor  # of positives, by which mmdet divides: one at least for each image


@MODELS.register_module()
class ATSSHead(TowersMixin, AnchorBoxesMixin, MMDetATSSHead):
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
        if self.train_cfg and getattr(self.assigner, "ignore_iof_thr", -1) > 0:
            raise ValueError(
                "train_cfg.assigner.ignore_iof_thr is set; tood.ATSSHead ignores no regions: remove it"
            )

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:
        """Logits [B, C, H, W], regression [B, 4, H, W] and centerness [B, 1, H, W] of one level."""
        cls_logits, regression, *centerness = super().forward_single(x, scale)
        # mmdet makes float32 of the regression; a loss in float64 is to be one throughout.
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
        deltas = rows_of_batch(bbox_preds, 4)[targets.anchors]  # [P, 4]
        # Without a loss and without a gradient where not positive, whatever was predicted
        boxes = self.bbox_coder.decode(targets.priors, torch.where(positive[:, None], deltas, 0))
        centerness = torch.where(positive, rows_of_batch(centernesses, 1)[targets.anchors, 0], 0)  # [P]
        nothing = deltas.sum() + centerness.sum()  # 0 with a gradient, where there are no pairs
        loss_cls = self.loss_cls(
            rows_of_batch(cls_scores, self.cls_out_channels),
            targets.labels,
            targets.label_weights,
            reduction_override="sum",
        )
        # Given weights, mmdet's looks whether any is positive, and waits for the device
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

    @torch.no_grad()
    def _targets(
        self, grids: list[tuple[int, int]], gts: list[InstanceData], metas: list[dict], like: Tensor
    ) -> Targets:
        """Targets; arguments as for `divisors_from_targets`."""
        B = len(metas)
        priors = self.prior_generator.grid_priors(grids, dtype=like.dtype, device=like.device)
        objects = objects_of(gts, like)
        rows = self._rows_inside(grids, priors, metas)
        anchors, owner, positive = match_batch(self.assigner, priors, rows, gts)  # [P] each
        everywhere = torch.cat(priors)  # [A, 4]
        A = len(everywhere)
        slot = torch.where(positive, anchors, B * A)  # one more, for all that is not positive
        labels = torch.full((B * A + 1,), self.num_classes, device=slot.device)
        labels[slot] = torch.where(positive, objects.labels[owner], self.num_classes)
        weights = torch.stack([self._inside(grids, priors, meta) for meta in metas]).to(everywhere)  # [B, A]
        weights = weights.flatten()
        if self.train_cfg["pos_weight"] > 0:
            weights = torch.where(labels[:-1] < self.num_classes, self.train_cfg["pos_weight"], weights)
        own, boxes = everywhere[anchors % A], objects.boxes[owner]  # [P, 4] each
        centerness = torch.where(positive, centerness_target(anchor_centres(own), boxes), 0)
        of_images = weights.new_zeros(B).index_add(0, anchors // A, positive.to(weights))  # [B]
        number = of_images.clamp(min=1).sum()
        return Targets(labels[:-1], weights, anchors, own, boxes, positive, centerness, number)

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        inside = self._inside([level.grid for level in levels], priors, meta)
        return assign_inside(self.assigner, priors, inside, gt, by_level=True)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        dense = super()._dense_level(level, outs[:2], priors)
        if len(outs) == 2:  # without centerness
            return dense
        return dense._replace(confidence=dense.scores * rows_of_anchors(outs[2], 1).sigmoid())
