"""FCOS (Tables 1, 2 and 5): mmdet's head with this suite's prediction path."""

from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import FCOSHead as MMDetFCOSHead
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torchvision.ops import box_area

from tood.models.common.box_losses import BoxLossMixin
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import objects_of_points
from tood.models.common.registry import MODELS
from tood.models.common.towers import TowersMixin

UNLIMITED = 1e8  # area of an object that a point may not have


@MODELS.register_module()
class SmoothedGIoULoss(BoxLossMixin, nn.Module):
    """GIoU of the authors' code (tianzhi0549/FCOS, `fcos_core/layers/iou_loss.py`).

    Its IoU is (intersection + 1) / (union + 1), in the unit of the boxes, which is the stride.

    Args:
        loss_weight: factor.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight, self.reduction = loss_weight, "mean"

    def of_pairs(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss [P] of boxes [P, 4] against boxes [P, 4]."""
        sides, target_sides = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]  # [P, 2]
        common = torch.minimum(pred[:, 2:], target[:, 2:]) - torch.maximum(pred[:, :2], target[:, :2])
        around = torch.maximum(pred[:, 2:], target[:, 2:]) - torch.minimum(pred[:, :2], target[:, :2])
        intersection, enclosing = common.clamp(min=0).prod(1), around.prod(1) + 1e-7  # [P]
        union = sides.prod(1) + target_sides.prod(1) - intersection
        return 1 - (intersection + 1) / (union + 1) + (enclosing - union) / enclosing


class PointTargets(NamedTuple):
    """The training targets of the N points of a batch, image after image."""

    labels: Tensor  # [N] class of the object, or the number of classes for background
    positive: Tensor  # [N] bool
    distances: Tensor  # [N, 4] to the four sides, in strides where the head's are; 1 for background
    centerness: Tensor  # [N] in (0, 1], 0 for background


def smallest_around(points: Tensor, ranges: Tensor, gt_boxes: Tensor, reach: Tensor | None) -> Tensor:
    """The object of each point, by FCOS's rules: the smallest object that the point may have.

    Args:
        points: [A, 2] pixels.
        ranges: [A, 2] limits of the largest of a point's four distances, pixels.
        gt_boxes: [G, 4] pixels.
        reach: [A] largest distance of a point from the object's centre on each axis, pixels; None: the point
            must be inside the object.

    Returns:
        [A], -1 for none
    """
    if len(gt_boxes) == 0:
        return torch.full((len(points),), -1, device=points.device)
    x, y = points.T  # [A]
    left, top, right, bottom = gt_boxes.T[..., None]  # [G, 1]
    distances = x - left, y - top, right - x, bottom - y  # [G, A]
    largest = torch.maximum(torch.maximum(*distances[:2]), torch.maximum(*distances[2:]))
    if reach is not None:
        centre_x, centre_y = (left + right) / 2, (top + bottom) / 2
        left, right = torch.maximum(centre_x - reach, left), torch.minimum(centre_x + reach, right)
        top, bottom = torch.maximum(centre_y - reach, top), torch.minimum(centre_y + reach, bottom)
    candidate = (x > left) & (x < right) & (y > top) & (y < bottom)
    candidate &= (largest >= ranges[:, 0]) & (largest <= ranges[:, 1])
    least, owner = box_area(gt_boxes)[:, None].where(candidate, UNLIMITED).min(0)
    return owner.where(least != UNLIMITED, -1)


@MODELS.register_module()
class FCOSHead(TowersMixin, DensePredictionMixin, MMDetFCOSHead):
    """Parallel head + FCOS; configuration as mmdet's `FCOSHead`.

    With `dcn_on_last_conv` the initial weights are those of the authors' code, see `TowersMixin`.

    Args:
        unit: pixels of a distance of exp(0), where `norm_on_bbox` is not set. FCOS's first paper has 1, at
            strides of 8 to 128. Half of it with half of the strides leaves first boxes as large in strides.
        others: as mmdet's `FCOSHead`.
    """

    divisors = Divisors.TARGETS

    def __init__(self, *args: Any, unit: float = 1.0, **kwargs: Any) -> None:
        self.unit = unit
        super().__init__(*args, **kwargs)

    def forward_single(self, x: Tensor, scale: nn.Module, stride: int) -> tuple[Tensor, ...]:
        """Logits, distances and centerness of one level, as mmdet's, with distances in pixels of any unit."""
        logits, distances, centerness = super().forward_single(x, scale, stride)
        return logits, distances if self.norm_on_bbox else distances * self.unit, centerness

    def divisors_from_targets(
        self, grids: list[tuple[int, int]], gts: list[InstanceData], metas: list[dict], like: Tensor
    ) -> list[Tensor]:
        """The number of positives and the sum of their centerness."""
        points = self.prior_generator.grid_priors(grids, dtype=like.dtype, device=like.device)
        targets = self._targets(points, gts)
        return [targets.positive.sum().float(), targets.centerness.sum()]

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        centernesses: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox` and `loss_centerness` of a batch, mmdet's; ignored objects play no part.

        All points go through all losses, as a selection of the positives would wait for the device.
        """
        priors = self._priors((cls_scores,))
        points = torch.cat(priors).repeat(len(batch_gt_instances), 1)  # [B*A, 2]
        logits, distances, centerness = (
            torch.cat([maps.flatten(2) for maps in levels], 2).transpose(1, 2).flatten(0, 1)  # [B*A, ...]
            for levels in (cls_scores, bbox_preds, centernesses)
        )
        targets = self._targets(priors, batch_gt_instances)
        number = reduce_mean(targets.positive.sum().to(torch.float)).clamp(min=1)
        total = reduce_mean(targets.centerness.sum()).clamp(min=1e-6)
        # Distances of other points are unbounded, and an infinite loss times 0 would be nan
        distances = distances.where(targets.positive[:, None], 1.0)
        boxes, gt_boxes = (self.bbox_coder.decode(points, d) for d in (distances, targets.distances))
        of_boxes = self.loss_bbox(boxes, gt_boxes, reduction_override="none")  # [B*A]
        of_centerness = self.loss_centerness(
            centerness.squeeze(1), targets.centerness, reduction_override="none"
        )
        return {
            "loss_cls": self.loss_cls(logits, targets.labels, avg_factor=number),
            "loss_bbox": weight_reduce_loss(of_boxes, targets.centerness, avg_factor=total),
            "loss_centerness": weight_reduce_loss(of_centerness, targets.positive, avg_factor=number),
        }

    def _targets(self, priors: list[Tensor], gts: list[InstanceData]) -> PointTargets:
        """Of all points of all images, image after image.

        Args:
            priors: points of each level.
            gts: objects of each image.
        """
        points, strides = torch.cat(priors), self._by_point(priors, self.strides)  # [A, 2], [A]
        owners = torch.stack([self._owners(priors, gt.bboxes) for gt in gts])  # [B, A]
        labels, boxes = objects_of_points(gts, owners, self.num_classes, points)
        boxes = boxes.view(len(gts), -1, 4)  # [B, A, 4]
        units = strides if self.norm_on_bbox else torch.ones_like(strides)
        distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], 2) / units[:, None]
        positive = owners.flatten() >= 0  # [B*A]
        distances = distances.flatten(0, 1).where(positive[:, None], 1.0)
        left, top, right, bottom = distances.unbind(1)
        horizontal = torch.minimum(left, right) / torch.maximum(left, right)
        vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
        centerness = (horizontal * vertical).sqrt().where(positive, 0.0)
        return PointTargets(labels, positive, distances, centerness)

    def _owners(self, priors: list[Tensor], gt_boxes: Tensor) -> Tensor:
        ranges = torch.cat(
            [
                torch.stack([points.new_full((len(points),), limit) for limit in limits], 1)  # [.., 2]
                for points, limits in zip(priors, self.regress_ranges, strict=True)
            ]
        )
        reach = self._by_point(priors, [stride * self.center_sample_radius for stride in self.strides])
        return smallest_around(torch.cat(priors), ranges, gt_boxes, reach if self.center_sampling else None)

    def _by_point(self, priors: list[Tensor], values: list[float]) -> Tensor:
        """[A] one value for each level, at every point of it."""
        return torch.cat([p.new_full((len(p),), value) for p, value in zip(priors, values, strict=True)])

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        return self._owners(priors, gt.bboxes)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, distances, *centerness = outs
        if self.norm_on_bbox and self.training:  # then `forward` gives strides in training, pixels in testing
            distances = distances * self.prior_generator.strides[level][0]
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        factor = centerness[0].flatten(1).T.sigmoid() if centerness else 1.0  # [H*W, 1]
        return DenseLevel(
            scores,
            scores * factor,
            self.bbox_coder.decode(priors, distances.flatten(1).T),  # [H*W, 4]
            priors,
            grid_of(cls_logits),
            self.prior_generator.strides[level][0],
        )
