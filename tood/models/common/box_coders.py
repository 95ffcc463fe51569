"""Box codecs, one per parametrisation: how a head's four regression channels become a box."""

import math
from typing import Any

import torch
from mmcv.cnn import Scale
from mmdet.models.task_modules.coders import BaseBBoxCoder
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder as MMDetDeltaXYWHBBoxCoder
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.structures.bbox import distance2bbox
from torch import Tensor

from tood.models.common.registry import TASK_UTILS


def anchor_centres(anchors: Tensor) -> Tensor:
    """Centres (x, y) of boxes (x1, y1, x2, y2): [..., 4] to [..., 2]."""
    return (anchors[..., :2] + anchors[..., 2:]) / 2


def centerness_target(points: Tensor, boxes: Tensor) -> Tensor:
    """FCOS centerness of points [P, 2] in the boxes [P, 4] that contain them: [P] in [0, 1]."""
    before, after = points - boxes[:, :2], boxes[:, 2:] - points  # [P, (x, y)]
    ratio = torch.minimum(before, after) / torch.maximum(before, after)
    return ratio.prod(-1).sqrt()


class DistanceCodec:
    """Anchor-free TOOD: distances to the four sides, `scale * exp(raw)` strides from the anchor's centre.

    Released code; the paper only says "distance-to-bbox".
    """

    def decode(self, raw: Tensor, scale: Scale, anchors: Tensor, stride: int) -> Tensor:
        """Boxes in units of the stride.

        Args:
            raw: [B, 4, H, W] (left, top, right, bottom).
            scale: learned scalar of the level.
            anchors: [H * W, 4] pixels.
            stride: of the level, pixels.

        Returns:
            [B, 4, H, W] (x1, y1, x2, y2)
        """
        B, _, H, W = raw.shape
        distances = scale(raw.exp()).flatten(2).transpose(1, 2)  # [B, H*W, 4]
        boxes = distance2bbox(anchor_centres(anchors) / stride, distances)  # [B, H*W, 4]
        return boxes.transpose(1, 2).reshape(B, 4, H, W)


class DeltaCodec:
    """Anchor-based TOOD: mmdet's delta coder around the anchor box, result in strides.

    Args:
        bbox_coder: mmdet configuration of the coder.
    """

    def __init__(self, bbox_coder: dict) -> None:
        self.coder = MMDET_TASK_UTILS.build(bbox_coder)

    def decode(self, raw: Tensor, scale: Scale, anchors: Tensor, stride: int) -> Tensor:
        """As `DistanceCodec.decode`, with `raw` the deltas (dx, dy, dw, dh)."""
        B, _, H, W = raw.shape
        deltas = scale(raw).permute(0, 2, 3, 1).reshape(-1, 4)  # [B*H*W, 4]
        boxes = self.coder.decode(anchors.repeat(B, 1), deltas)  # [B*H*W, 4]
        return boxes.view(B, H, W, 4).permute(0, 3, 1, 2) / stride


@TASK_UTILS.register_module()
class PointBBoxCoder(BaseBBoxCoder):
    """Anchor-free ATSS: distances from the anchor's centre, relu'd, in units of `anchor size / anchor_scale`.

    The ATSS repository's `REGRESSION_TYPE = "POINT"` (`atss_core/modeling/rpn/atss/atss.py`), which mmdet
    lacks; without that code's one-pixel convention for widths, as everywhere in mmdet.

    Args:
        anchor_scale: anchor side divided by stride (`octave_base_scale` of the generator).
    """

    def __init__(self, anchor_scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.anchor_scale = anchor_scale

    def _units(self, anchors: Tensor) -> Tensor:
        sides = (anchors[..., 2:] - anchors[..., :2]) / self.anchor_scale
        return torch.cat([sides, sides], -1)  # [..., (w, h, w, h)]

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Distances of `gt_bboxes` [A, 4] from the centres of the anchors `bboxes` [A, 4]."""
        centres = anchor_centres(bboxes)
        distances = torch.cat([centres - gt_bboxes[..., :2], gt_bboxes[..., 2:] - centres], -1)
        return distances / self._units(bboxes)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: tuple | None = None) -> Tensor:
        """Boxes of predictions [A, 4], clipped to `max_shape` (height, width) if given."""
        distances = pred_bboxes.relu() * self._units(bboxes)
        return distance2bbox(anchor_centres(bboxes), distances, max_shape)


@TASK_UTILS.register_module()
class DeltaXYWHBBoxCoder(MMDetDeltaXYWHBBoxCoder):
    """mmdet's coder of anchor boxes, to the last bit, which copies nothing to the device.

    Raises:
        ValueError: centres are to be clamped, as in YOLOF.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.add_ctr_clamp:
            raise ValueError("bbox_coder.add_ctr_clamp: tood.DeltaXYWHBBoxCoder has no such clamp; remove it")

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Deltas [..., 4] of boxes [..., 4] from anchors [..., 4], float32, in standard deviations."""
        anchors, boxes = bboxes.float(), gt_bboxes.float()
        sides, box_sides = (b[..., 2:] - b[..., :2] for b in (anchors, boxes))
        centres, box_centres = ((b[..., :2] + b[..., 2:]) * 0.5 for b in (anchors, boxes))
        deltas = torch.cat([(box_centres - centres) / sides, (box_sides / sides).log()], -1).unbind(-1)
        scaled = [(d - mean) / std for d, mean, std in zip(deltas, self.means, self.stds, strict=True)]
        return torch.stack(scaled, -1)

    def decode(
        self,
        bboxes: Tensor,
        pred_bboxes: Tensor,
        max_shape: tuple | None = None,
        wh_ratio_clip: float = 16 / 1000,
    ) -> Tensor:
        """Boxes of deltas.

        Args:
            bboxes: [A, 4] anchors (x1, y1, x2, y2).
            pred_bboxes: [A, 4] (dx, dy, dw, dh), in standard deviations.
            max_shape: (height, width) that boxes are clipped to, if given.
            wh_ratio_clip: least side, and the inverse of the greatest, in sides of the anchor.
        """
        scaled = [
            delta * std + mean
            for delta, std, mean in zip(pred_bboxes.unbind(-1), self.stds, self.means, strict=True)
        ]
        offsets, logs = torch.stack(scaled[:2], -1), torch.stack(scaled[2:], -1)  # [A, 2] each
        most = abs(math.log(wh_ratio_clip))
        sides = bboxes[:, 2:] - bboxes[:, :2]
        centres = (bboxes[:, :2] + bboxes[:, 2:]) * 0.5 + sides * offsets
        halves = sides * logs.clamp(min=-most, max=most).exp() * 0.5
        boxes = torch.cat([centres - halves, centres + halves], -1)
        if max_shape is None or not self.clip_border:
            return boxes
        height, width = max_shape[:2]
        return torch.stack([boxes[:, i].clamp(0, height if i % 2 else width) for i in range(4)], -1)
