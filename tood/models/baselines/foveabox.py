"""FoveaBox (Tables 1 and 5): mmdet's head with this suite's prediction path."""

import torch
from mmdet.models.dense_heads import FoveaHead as MMDetFoveaHead
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.structures.bbox import distance2bbox
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import box_area

from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import objects_of_points
from tood.models.common.registry import MODELS

SHORTEST, LONGEST = 1 / 16, 16.0  # range of the distances that are learned, in units of the level's base edge


def smallest_core(
    gt_boxes: Tensor, grid: tuple[int, int], stride: int, sizes: tuple[float, float], sigma: float
) -> Tensor:
    """The object of each point of a level, by FoveaBox's rules: the smallest whose core has the point.

    Args:
        gt_boxes: [G, 4] pixels.
        grid: (H, W) of the level.
        stride: of the level, pixels.
        sizes: least and largest side of an object of the level, the square root of its area, pixels.
        sigma: side of an object's core, as a share of the object's side.

    Returns:
        [H * W], -1 for none; of objects of one size the last
    """
    G = len(gt_boxes)
    if G == 0:
        return torch.full((grid[0] * grid[1],), -1, device=gt_boxes.device)
    side = box_area(gt_boxes).sqrt()[:, None]  # [G, 1]
    inside = []
    for axis, cells in ((1, grid[0]), (0, grid[1])):
        start, end = gt_boxes[:, axis, None] / stride, gt_boxes[:, axis + 2, None] / stride  # [G, 1] cells
        half = 0.5 * (end - start)
        first = (start + (1 - sigma) * half - 0.5).ceil().clamp(0, cells - 1)
        last = (start + (1 + sigma) * half - 0.5).floor().clamp(0, cells - 1)
        cell = torch.arange(cells, device=gt_boxes.device)
        inside.append((cell >= first) & (cell <= last))  # [G, H], [G, W]
    rows, columns = inside
    core = (rows[:, :, None] & columns[:, None]).flatten(1)  # [G, H*W]
    core &= (side >= sizes[0]) & (side <= sizes[1])
    # Backwards, as the first of equals is found
    least, place = side.where(core, torch.inf).flip(0).min(0)
    return (G - 1 - place).where(least < torch.inf, -1)


@MODELS.register_module()
class FoveaHead(DensePredictionMixin, MMDetFoveaHead):
    """Parallel head + FoveaBox; configuration as mmdet's `FoveaHead`."""

    divisors = Divisors.NONE

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls` and `loss_bbox` of a batch, mmdet's; ignored objects play no part.

        All points go through both losses, as a selection of the positives would wait for the device.
        """
        logits, regression = (
            torch.cat([maps.flatten(2) for maps in levels], 2).transpose(1, 2).flatten(0, 1)  # [B*A, ...]
            for levels in (cls_scores, bbox_preds)
        )
        labels, positive, targets = self._targets(
            self._priors((cls_scores,)), [grid_of(maps) for maps in cls_scores], batch_gt_instances
        )
        number = positive.sum().to(regression)
        # Predictions of other points are unbounded, and an infinite loss times 0 would be nan
        of_boxes = self.loss_bbox(
            regression.where(positive[:, None], 0.0), targets, reduction_override="none"
        ).view(len(targets), -1)  # [B*A, 4], or [B*A, 1]
        return {
            "loss_cls": self.loss_cls(logits, labels, avg_factor=number + len(batch_gt_instances)),
            "loss_bbox": weight_reduce_loss(of_boxes, positive[:, None], avg_factor=number),
        }

    def _targets(
        self, priors: list[Tensor], grids: list[tuple[int, int]], gts: list[InstanceData]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of all points, image after image.

        Args:
            priors: points of each level.
            grids: (H, W) of each level.
            gts: objects of each image.

        Returns:
            labels [B*A], the number of classes for background; positive [B*A] bool; [B*A, 4] logarithms of
            the distances to the four sides in units of the level's base edge, 0 for background
        """
        points = torch.cat(priors)  # [A, 2]
        units = torch.cat(
            [p.new_full((len(p), 1), edge) for p, edge in zip(priors, self.base_edge_list, strict=True)]
        )
        owners = torch.stack([self._owners(grids, gt.bboxes) for gt in gts])  # [B, A]
        labels, boxes = objects_of_points(gts, owners, self.num_classes, points)
        boxes = boxes.view(len(gts), -1, 4)  # [B, A, 4]
        distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], 2) / units
        positive = owners.flatten() >= 0  # [B*A]
        distances = distances.flatten(0, 1).where(positive[:, None], 1.0)
        return labels, positive, distances.clamp(SHORTEST, LONGEST).log()

    def _owners(self, grids: list[tuple[int, int]], gt_boxes: Tensor) -> Tensor:
        """[A] the object of each point of all levels, -1 for none."""
        levels = zip(grids, self.strides, self.scale_ranges, strict=True)
        return torch.cat(
            [smallest_core(gt_boxes, grid, stride, sizes, self.sigma) for grid, stride, sizes in levels]
        )

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        return self._owners([level.grid for level in levels], gt.bboxes)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, regression = outs
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        distances = regression.flatten(1).T.exp() * self.base_edge_list[level]  # [H*W, 4]
        return DenseLevel(
            scores,
            scores,
            distance2bbox(priors, distances),
            priors,
            grid_of(cls_logits),
            self.prior_generator.strides[level][0],
        )
