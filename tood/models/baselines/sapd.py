"""SAPD (Table 5): positives weigh by how central they are and by how well their level suits the object.

Paper: Zhu et al., "Soft Anchor-Point Object Detection", ECCV 2020 (arXiv:1911.12448). Its authors published
no code. What is here follows the paper as far as it is known, and two ports by others that have the selection
of levels: xuannianz/SAPD ("the first port": `sapd_layers.py`, `losses.py`, `model.py`, `util_graphs.py`) and
gogo12235LYH/keras-pcb-sapd-mix ("the second port": `models/sapd.py`, `models/neck/fsn.py`, `config.py`).

The loss, with FL the focal loss and CE the cross entropy of the selection network:

    (sum over positives of w (FL + IoU loss) + sum over negatives of FL) / sum of w + lambda CE
    w = weight of the level * (min(l, r) min(t, b) / (max(l, r) max(t, b)))^eta

l, t, r and b are the distances from the point to the sides of the object. Both ports agree on:

- an object's cells are those that its box touches with its sides shrunk to a fifth, at least one per level;
- of several objects that want a point, the smallest keeps it;
- eta is 1, without a root; lambda is .1; points are cells' centres; distances are in units of 4 strides;
- a network predicts the weights of the levels, by a softmax, from the object's RoI features on all of them;
- its target is the level of least mean FL + IoU loss over all cells of the object, even cells that it loses.

Choices of this file, where the ports contradict each other or the paper, or say nothing:

- Points on levels that an object does not use are negatives, as in FSAF, on which the paper builds; in the
  ports they are out of the loss. Hence only objects that use a level compete for its points; in the ports the
  smallest object keeps a point also where it does not use it.
- A point outside of the object is none of its positives, as in mmdet's FSAF: a small object may have its
  cell's centre beside it. The ports clamp its distances at 0; it has no weight there and takes part in the
  choice of the level. An object without any positive trains nothing, the selection network included.
- Two stages, as in the second port: in the first half of the training each object uses the level of least
  loss alone, with weight 1; in the second, the three levels of largest predicted weight, without scaling
  these to a sum of 1. The first port has either for the whole training, and all levels in the second.
- No gradient flows through w, unlike in both ports: lower weights would lower the loss. The network learns
  from its cross entropy alone, in both stages, and that has a gradient into the pyramid, as in both ports.
- The network is the first port's: three convolutions without padding, from 7 x 7 cells to one, and a linear
  layer. The second port pads, normalises and pools.
- RoI features come from an aligned RoIAlign with 2 x 2 samples per cell. The ports crop and resize, with one.
- The IoU loss is -ln IoU, and the towers have no normalisation, as in FSAF and the first port. The second
  port's setting is GIoU, and group normalisation.
- CE is a mean over the objects of the batch, as in the second port. The sum of w is over the batch, and at
  least 1.
"""

from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads.anchor_free_head import AnchorFreeHead
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.models.losses.utils import weight_reduce_loss
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures.bbox import distance2bbox
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import box_area

from tood.models.baselines.sapd_levels import (
    LevelSelection,
    hard_level_weights,
    least_level,
    level_losses,
    soft_level_weights,
)
from tood.models.common.dense_level import DenseLevel, grid_of
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.models.common.losses import one_hot
from tood.models.common.pairs import objects_of, objects_of_points
from tood.models.common.positives import Positives
from tood.models.common.registry import MODELS


class PointPairs(NamedTuple):
    """Objects of an image with their positive points, on whatever levels."""

    objects: Tensor  # [P]
    points: Tensor  # [P]
    weights: Tensor  # [P] centrality in (0, 1]


class SAPDTargets(NamedTuple):
    """The assignment of the points of an image."""

    gt_index: Tensor  # [A] object of each point, -1 for negatives
    weights: Tensor  # [A] w of positives, 0 for negatives
    levels: Tensor  # [G] of least loss, -1 for objects without any positive


def shrunk_cells(gt_boxes: Tensor, grid: tuple[int, int], stride: int, shrink: float) -> Tensor:
    """Cells of a level that the shrunk objects touch, at least one for each.

    Args:
        gt_boxes: [G, 4] pixels.
        grid: (H, W) of the level.
        stride: side of a cell, pixels.
        shrink: share of its sides that an object keeps around its centre.

    Returns:
        [G, H * W] bool
    """
    inside = []
    for axis, cells in ((1, grid[0]), (0, grid[1])):
        start, end = gt_boxes[:, axis], gt_boxes[:, axis + 2]
        centre, half = (start + end) / 2, (end - start) * shrink / 2
        last = ((centre + half) / stride).ceil().clamp(1, cells)  # the first cell beyond
        first = torch.minimum(((centre - half) / stride).floor().clamp(min=0), last - 1)
        cell = torch.arange(cells, device=gt_boxes.device)
        inside.append((cell >= first[:, None]) & (cell < last[:, None]))  # [G, H], [G, W]
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None]).flatten(1)


def centrality(points: Tensor, boxes: Tensor, eta: float) -> Tensor:
    """Weight of points in boxes: 1 at the centre, falling to 0 at the sides, and 0 outside.

    Args:
        points: [P, 2].
        boxes: [P, 4] of each point.
        eta: exponent; 0 makes all points inside equal.

    Returns:
        [P]
    """
    before, after = points - boxes[:, :2], boxes[:, 2:] - points  # [P, 2]
    inside = torch.minimum(before, after).amin(1) > 0
    ratio = torch.minimum(before, after) / torch.maximum(before, after)  # [P, 2]
    return ratio.prod(1).pow(eta).where(inside, 0.0)


def positive_pairs(
    priors: list[Tensor],
    grids: list[tuple[int, int]],
    strides: list[int],
    gt_boxes: Tensor,
    shrink: float,
    eta: float,
) -> PointPairs:
    """Which points of all levels could be positives of which objects.

    Args:
        priors: points of each level, [H * W, 2] pixels, row by row.
        grids: (H, W) of each level.
        strides: of each level, pixels.
        gt_boxes: [G, 4] pixels.
        shrink: see `shrunk_cells`.
        eta: see `centrality`.
    """
    cells = torch.cat(
        [shrunk_cells(gt_boxes, grid, stride, shrink) for grid, stride in zip(grids, strides, strict=True)], 1
    )
    objects, points = cells.nonzero(as_tuple=True)
    weights = centrality(torch.cat(priors)[points], gt_boxes[objects], eta)
    inside = (weights > 0).nonzero().squeeze(1)  # one selection for all three
    return PointPairs(objects[inside], points[inside], weights[inside])


def smallest_owner(pairs: PointPairs, areas: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Give each point to the smallest object that has it; of equal ones, to the first.

    Args:
        pairs: of any images; one of weight 0 takes no part.
        areas: [G] of the objects.
        points: number A of points.

    Returns:
        object of each point [A], -1 for none, and weight of that pair [A], 0 for none
    """
    order = areas.argsort(stable=True)  # [G]
    rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
    ranks = rank[pairs.objects].where(pairs.weights > 0, len(order))  # [P]
    least = torch.full((points,), len(order), device=order.device)
    least = least.scatter_reduce(0, pairs.points, ranks, "amin")  # [A]
    gt_index = torch.cat([order, order.new_full((1,), -1)])[least]
    kept = pairs.weights.where(ranks == least[pairs.points], 0.0)  # at most one of a point's pairs
    return gt_index, pairs.weights.new_zeros(points).index_add(0, pairs.points, kept)


@MODELS.register_module()
class SAPDHead(DensePredictionMixin, AnchorFreeHead):
    """Two towers on anchor points, with soft weights of positives; the module names the sources.

    `forward` also returns the features, by which the loss selects levels; detection does not use them.
    The training loop tells the head its progress with `set_progress`.

    Args:
        normaliser: strides that a predicted distance of 1 stands for.
        loss_selection: cross entropy of the selection network; its `loss_weight` is lambda.
        train_cfg: `shrink` (see `shrunk_cells`), `eta` (see `centrality`), `first_stage` (share of the
            training in which each object uses one level) and `top_levels` (number of levels it uses then).
        others: as mmdet's `AnchorFreeHead`; `loss_bbox` on decoded boxes.
    """

    assigns_by_prediction = True
    progress: float | None = None

    def __init__(
        self,
        *args: Any,
        loss_selection: dict,
        normaliser: float = 4.0,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        init_cfg = init_cfg or dict(
            type="Normal",
            layer=["Conv2d", "Linear"],
            std=0.01,
            override=[
                dict(type="Normal", name="conv_cls", std=0.01, bias_prob=0.01),
                dict(type="Normal", name="conv_reg", std=0.01, bias=0.1),  # distances pass a relu
            ],
        )
        super().__init__(*args, init_cfg=init_cfg, **kwargs)
        self.units = [normaliser * stride for stride in self.strides]  # pixels
        self.loss_selection = MMDET_MODELS.build(loss_selection)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.selection = LevelSelection(self.in_channels, self.feat_channels, self.strides)

    def set_progress(self, epoch: int, progress: float) -> None:
        """The progress of the training decides the stage."""
        self.progress = progress

    @property
    def in_first_stage(self) -> bool:
        """Whether each object uses the level of least loss alone.

        Raises:
            RuntimeError: the progress was never set.
        """
        if self.progress is None:
            raise RuntimeError("the head does not know the training's progress: call set_progress")
        return self.progress < self.train_cfg["first_stage"]

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Logits [B, C, H, W], distances [B, 4, H, W] in units of the level, and features of each level.

        Args:
            feats: levels of [B, in_channels, H, W].
        """
        logits, distances = super().forward(feats)
        return list(logits), [maps.relu() for maps in distances], list(feats)

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        features: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox` and `loss_selection` of a batch.

        Raises:
            RuntimeError: the progress was never set.
        """
        logits, boxes = self._rows_of_images(cls_scores, bbox_preds)  # [B, A, C], [B, A, 4]
        selection = self.selection(features, [gt.bboxes.to(boxes) for gt in batch_gt_instances])  # [N, L]
        targets = self.get_targets(
            logits, boxes, selection, batch_gt_instances, [grid_of(x) for x in cls_scores]
        )
        gt_index = torch.stack([image.gt_index for image in targets])  # [B, A]
        weights = torch.stack([image.weights for image in targets])  # [B, A]
        level = torch.cat([image.levels for image in targets])  # [N]
        labels, gt_boxes = objects_of_points(batch_gt_instances, gt_index, self.num_classes, boxes)
        positive = (gt_index >= 0).flatten()  # [B*A]
        divisors = reduce_mean(torch.stack([weights.sum(), (level >= 0).sum().to(weights)])).clamp(min=1)
        # All points go through the losses, because a selection would wait for the device. Boxes without an
        # object are unbounded, and an infinite loss times 0 would be nan.
        of_boxes = self.loss_bbox(
            boxes.flatten(0, 1).where(positive[:, None], gt_boxes), gt_boxes, reduction_override="none"
        )
        return {
            "loss_cls": self.loss_cls(
                logits.flatten(0, 1), labels, weights.flatten().where(positive, 1.0), avg_factor=divisors[0]
            ),
            "loss_bbox": weight_reduce_loss(of_boxes, weights.flatten(), avg_factor=divisors[0]),
            "loss_selection": self.loss_selection(selection, level, avg_factor=divisors[1]),
        }

    @torch.no_grad()
    def positives_by_feat(
        self, *outs: list[Tensor], batch_gt_instances: list[InstanceData], batch_img_metas: list[dict]
    ) -> list[Positives]:
        """Weighted as in the loss of the present stage; see `DensePredictionMixin`."""
        cls_scores, bbox_preds, features = outs
        logits, boxes = self._rows_of_images(cls_scores, bbox_preds)
        selection = self.selection(features, [gt.bboxes.to(boxes) for gt in batch_gt_instances])
        positives = []
        for image in self.get_targets(
            logits, boxes, selection, batch_gt_instances, [grid_of(x) for x in cls_scores]
        ):
            points = (image.gt_index >= 0).nonzero().squeeze(1)
            positives.append(Positives(points, image.gt_index[points], image.weights[points]))
        return positives

    @torch.no_grad()
    def get_targets(
        self,
        logits: Tensor,
        boxes: Tensor,
        selection: Tensor,
        batch_gt_instances: list[InstanceData],
        grids: list[tuple[int, int]],
    ) -> list[SAPDTargets]:
        """Targets of each image.

        Args:
            logits: [B, A, C].
            boxes: [B, A, 4] predicted, pixels.
            selection: [N, L] logits of the levels for the objects of all images.
            batch_gt_instances: `bboxes` [G, 4] and `labels` [G] of each image.
            grids: (H, W) of each level.
        """
        A, L, cfg = boxes.shape[1], len(grids), self.train_cfg
        priors = self.prior_generator.grid_priors(grids, dtype=boxes.dtype, device=boxes.device)
        objects = objects_of(batch_gt_instances, boxes)
        N = len(objects.boxes)
        pairs = positive_pairs(priors, grids, self.strides, objects.boxes, cfg["shrink"], cfg["eta"])
        levels = torch.cat(
            [torch.full((len(points),), i, device=boxes.device) for i, points in enumerate(priors)]
        )[pairs.points]  # [P]
        pairs = pairs._replace(points=pairs.points + A * objects.images[pairs.objects])  # of the batch
        losses = self._focal_loss(logits.flatten(0, 1)[pairs.points], objects.labels[pairs.objects])
        losses = losses + self.loss_bbox(
            boxes.flatten(0, 1)[pairs.points], objects.boxes[pairs.objects], reduction_override="none"
        )
        least = least_level(level_losses(losses, pairs.objects, levels, (N, L)))  # [N]
        if self.in_first_stage:
            level_weights = hard_level_weights(least, L)
        else:
            level_weights = soft_level_weights(selection.softmax(1), cfg["top_levels"])
        used = level_weights.to(boxes)[pairs.objects, levels]  # [P]
        pairs = pairs._replace(weights=pairs.weights * used)
        gt_index, weights = smallest_owner(pairs, box_area(objects.boxes), len(boxes) * A)
        numbers = [len(gt) for gt in batch_gt_instances]
        images = zip(gt_index.view(-1, A), weights.view(-1, A), least.split(numbers), strict=True)
        return [
            SAPDTargets((owner - sum(numbers[:b])).clamp(min=-1), weight, level)
            for b, (owner, weight, level) in enumerate(images)
        ]

    def _focal_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[P] of logits [P, C], summed over classes."""
        target = one_hot(labels, self.num_classes)
        loss = py_sigmoid_focal_loss(
            logits, target, gamma=self.loss_cls.gamma, alpha=self.loss_cls.alpha, reduction="none"
        )
        return loss.sum(1) * self.loss_cls.loss_weight

    def _rows_of_images(self, cls_scores: list[Tensor], bbox_preds: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, A, C] and boxes [B, A, 4], pixels, of all points."""
        logits = torch.cat([maps.flatten(2) for maps in cls_scores], 2).transpose(1, 2)
        distances = torch.cat(
            [maps.flatten(2) * unit for maps, unit in zip(bbox_preds, self.units, strict=True)], 2
        ).transpose(1, 2)
        return logits, distance2bbox(torch.cat(self._priors((bbox_preds,))), distances)

    def _dense_level(self, level: int, outs: tuple[Tensor, ...], priors: Tensor) -> DenseLevel:
        cls_logits, distances = outs[:2]
        scores = cls_logits.flatten(1).T.sigmoid()  # [H*W, C]
        return DenseLevel(
            scores,
            scores,
            distance2bbox(priors, distances.flatten(1).T * self.units[level]),  # [H*W, 4]
            priors,
            grid_of(cls_logits),
            self.strides[level],
        )
