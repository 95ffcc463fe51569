"""What mmdet's heads on anchor boxes share: predictions as rows of anchors, and hard assignments."""

import torch
from mmdet.models.task_modules.assigners import BaseAssigner
from mmdet.models.task_modules.coders import BaseBBoxCoder
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.box_coders import anchor_centres
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin


class AnchorBoxesMixin(DensePredictionMixin):
    """Dense predictions and hard assignments of mmdet heads with `bbox_coder` and `assigner`.

    A head with more maps, such as centerness, or with another assignment overrides what differs.
    """

    # Of the head
    assigner: BaseAssigner
    bbox_coder: BaseBBoxCoder
    cls_out_channels: int

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, regression = outs  # [anchors * C, H, W], [anchors * 4, H, W]
        scores = rows_of_anchors(cls_logits, self.cls_out_channels).sigmoid()  # [H*W*anchors, C]
        return DenseLevel(
            scores,
            scores,
            self.bbox_coder.decode(priors, rows_of_anchors(regression, 4)),  # [H*W*anchors, 4]
            anchor_centres(priors),
            grid_of(cls_logits),
            self.prior_generator.strides[level][0],
        )

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        inside = self._inside([level.grid for level in levels], priors, meta)
        return assign_inside(self.assigner, priors, inside, gt)


def rows_of_anchors(maps: Tensor, channels: int) -> Tensor:
    """[anchors * channels, H, W] as [H * W * anchors, channels], in the order of mmdet's anchors."""
    return maps.permute(1, 2, 0).reshape(-1, channels)


def rows_of_batch(levels: list[Tensor], channels: int) -> Tensor:
    """Levels of [B, anchors * channels, H, W] as [B * A, channels], image after image, A anchors in each."""
    rows = [maps.permute(0, 2, 3, 1).reshape(len(maps), -1, channels) for maps in levels]  # [B, .., channels]
    return torch.cat(rows, 1).flatten(0, 1)


def assign_inside(assigner: BaseAssigner, priors: list[Tensor], inside: Tensor, gt: InstanceData) -> Tensor:
    """Assign the anchors that take part in training.

    Args:
        assigner: mmdet's, or one like it.
        priors: anchors of each level, [.., 4]; A in all.
        inside: [A] which of them take part.
        gt: objects of the image.

    Returns:
        [A] object of each anchor, negative for none
    """
    gt_index = torch.full_like(inside, -1, dtype=torch.long)
    gt_index[inside] = assigner.assign(InstanceData(priors=torch.cat(priors)[inside]), gt).gt_inds - 1
    return gt_index
