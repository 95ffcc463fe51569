"""IQDet (Table 5), a reconstruction: positives are drawn from a predicted distribution of their quality.

Paper: Ma et al., "IQDet: Instance-wise Quality Distribution Sampling for Object Detection", CVPR 2021
(arXiv:2104.06936). Its authors published no code. `docs/iqdet.md` lists what is known of the paper, and each
choice that was free, with its alternatives. In short, for each object of an image:

1. an encoder predicts a mixture of Gaussians over the object's box on each level (`iqdet_quality.py`). It
   learns the IoU of the boxes that are predicted inside of the object;
2. 12 positions are drawn in proportion to the mixtures, over all levels, between the points of the grids;
3. scores and boxes are read there by bilinear interpolation, so that four points learn from each position.
   The label of the class is the mixture's value.

Encoder and drawing are absent in testing. The rest is OTA's head, losses and recipe.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.baselines.iqdet_quality import (
    Mixture,
    QualityEncoder,
    log_quality_at,
    mixture_of,
    offsets_in_boxes,
    quality_loss,
)
from tood.models.baselines.iqdet_sampling import (
    CandidatePairs,
    Pyramid,
    Samples,
    bilinear_cells,
    candidate_pairs,
    draws,
    pairs_of,
    read,
    sample,
    touching,
)
from tood.models.baselines.ota import OTAHead, inside
from tood.models.common.dense_level import grid_of
from tood.models.common.losses import one_hot
from tood.models.common.pairs import Objects, objects_of, paired_iou
from tood.models.common.positives import Positives
from tood.models.common.registry import MODELS


class IQDetTargets(NamedTuple):
    """The samples of the objects of a batch, and the training data of the encoder.

    Points are those of the grid, which all images share; `Objects.images` says whose they are.
    """

    objects: Objects
    pairs: CandidatePairs
    log_quality: Tensor  # [P] of the mixtures at the pairs, with a graph
    samples: Samples
    labels: Tensor  # [S] quality of the samples, without a graph
    cells: Tensor  # [S, 4] points around each sample
    cell_weights: Tensor  # [S, 4]

    @property
    def sampled_images(self) -> Tensor:
        """[S] image of each sample."""
        return self.objects.images[self.samples.objects]


def soft_focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of soft labels. At labels of 0 and 1 it is the plain one; it is 0 where p is the label.

        (alpha t + (1 - alpha) (1 - t)) |t - p|^gamma BCE(p, t)

    Args:
        logits: [A, C] of the p.
        targets: [A, C] the t.
        gamma: exponent of the focus.
        alpha: weight of a label of 1.

    Returns:
        [A, C]
    """
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    focus = (targets - logits.sigmoid()).abs().pow(gamma)
    return balance * focus * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


@MODELS.register_module()
class IQDetHead(OTAHead):
    """OTA's head, trained on positions that are drawn from each object's quality distribution.

    `forward` also returns the features, by which the loss encodes objects; detection does not use them.
    The training loop tells the head its progress with `set_progress`.

    Args:
        gaussians: of the mixture of an object on a level.
        quality_channels: width of the encoder's hidden layers.
        quality_weight: of the encoder's loss.
        train_cfg: `samples`, the number of positions that are drawn for each object.
        others: as `OTAHead`; the soft focal loss has the constants of `loss_cls`.
    """

    progress: float | None = None

    def __init__(
        self, *args: Any, gaussians: int, quality_channels: int, quality_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.quality_weight = quality_weight
        self.encoder = QualityEncoder(self.in_channels, quality_channels, gaussians, self.strides)

    def set_progress(self, epoch: int, progress: float) -> None:
        """The progress of the training is part of the seed of the random numbers."""
        self.progress = progress

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], ...]:
        """As `OTAHead.forward`, and the features of each level.

        Args:
            x: levels of [B, in_channels, H, W].
        """
        return (*super().forward(x), list(x))

    def loss_by_feat(  # type: ignore[override]  # as the forward, which has one more kind of maps
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: list[Tensor],
        features: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls`, `loss_bbox`, `loss_iou` and `loss_quality` of a batch.

        Raises:
            RuntimeError: the progress was never set.
        """
        logits, boxes = self._rows_of_images(cls_scores, bbox_preds)  # [B, A, C], [B, A, 4]
        iou_logits = torch.cat([maps.flatten(1) for maps in iou_preds], 1)  # [B, A]
        pyramid = self._pyramid(cls_scores)
        targets = self.get_targets(pyramid, features, batch_gt_instances, batch_img_metas)
        objects, pairs, A = targets.objects, targets.pairs, len(pyramid.points)
        free = torch.stack([~inside(pyramid.points, gt.bboxes.to(boxes)).any(0) for gt in batch_gt_instances])
        paired = boxes.detach().flatten(0, 1)[pairs.points + A * objects.images[pairs.objects]]  # [P, 4]
        ious = paired_iou(paired, objects.boxes[pairs.objects])
        number = len(objects.boxes)
        of_quality = quality_loss(targets.log_quality, ious, pairs.objects, number)  # [G]
        encoded = (pairs_of(pairs.objects, number) > 0).sum().to(boxes)

        where = targets.cells + A * targets.sampled_images[:, None], targets.cell_weights
        sampled = read(logits.flatten(0, 1), *where)
        drawn = targets.samples.objects
        labels = one_hot(objects.labels[drawn], self.num_classes) * targets.labels[:, None]
        divisors = reduce_mean(torch.stack([boxes.new_full((), len(sampled)), encoded])).clamp(min=1)
        constants = self.loss_cls.gamma, self.loss_cls.alpha
        positive = soft_focal_loss(sampled, labels, *constants)
        negative = soft_focal_loss(logits, torch.zeros_like(logits), *constants)
        focal = positive.sum() + (negative * free[..., None]).sum()
        return {
            "loss_cls": self.loss_cls.loss_weight * focal / divisors[0],
            # The mean of the points' boxes is the box of the points' mean distances, at the position.
            **self._box_losses(
                read(boxes.flatten(0, 1), *where),
                objects.boxes[drawn],
                read(iou_logits.flatten()[:, None], *where).squeeze(1),
                torch.ones_like(sampled[:, 0]),
                divisors[0],
            ),
            "loss_quality": self.quality_weight * of_quality.sum() / divisors[1],
        }

    @torch.no_grad()
    def positives_by_feat(
        self, *outs: list[Tensor], batch_gt_instances: list[InstanceData], batch_img_metas: list[dict]
    ) -> list[Positives]:
        """The points that samples read, weighted by their share of the object's samples.

        As in the loss at the present progress; see `DensePredictionMixin`.
        """
        cls_scores, _, _, features = outs
        pyramid, positives = self._pyramid(cls_scores), []
        targets = self.get_targets(pyramid, features, batch_gt_instances, batch_img_metas)
        A, first = len(pyramid.points), 0  # object of the image
        for b, gt in enumerate(batch_gt_instances):
            mine = targets.sampled_images == b
            keys = ((targets.samples.objects[mine, None] - first) * A + targets.cells[mine]).flatten()
            keys, place = keys.unique(return_inverse=True)
            shares = targets.cell_weights[mine].flatten()
            weights = shares.new_zeros(len(keys)).index_add(0, place, shares)
            read_at = weights > 0  # a position on the line of two points has two points of weight 0
            weights = (weights[read_at] / self.train_cfg["samples"]).clamp(max=1)  # rounding
            positives.append(Positives(keys[read_at] % A, keys[read_at] // A, weights))
            first += len(gt)
        return positives

    def get_targets(
        self,
        pyramid: Pyramid,
        features: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
    ) -> IQDetTargets:
        """Targets of the batch; only the encoder's values have a graph.

        Args:
            pyramid: of the batch.
            features: levels of [B, in_channels, H, W].
            batch_gt_instances: `bboxes` [G, 4] and `labels` [G] of each image.
            batch_img_metas: with `img_id` of each image.

        Raises:
            RuntimeError: the progress was never set.
        """
        if self.progress is None:
            raise RuntimeError("the head does not know the training's progress: call set_progress")
        objects = objects_of(batch_gt_instances, features[0])
        numbers = [len(gt) for gt in batch_gt_instances]
        mixtures = mixture_of(self.encoder(features, list(objects.boxes.split(numbers))))  # of [G, L]
        drawn = torch.cat(
            [
                draws(meta["img_id"], self.progress, number, self.train_cfg["samples"])
                for meta, number in zip(batch_img_metas, numbers, strict=True)
            ]
        )

        def log_quality(owners: Tensor, levels: Tensor, positions: Tensor) -> Tensor:
            of_positions = Mixture(*(part[owners, levels] for part in mixtures))
            return log_quality_at(of_positions, offsets_in_boxes(positions, objects.boxes[owners]))

        pairs = touching(candidate_pairs(pyramid.points, objects.boxes), pyramid, objects.boxes)
        of_pairs = log_quality(pairs.objects, pyramid.levels[pairs.points], pyramid.points[pairs.points])
        with torch.no_grad():
            samples = sample(pairs, of_pairs.exp(), pyramid, objects.boxes, drawn)
            labels = log_quality(*samples).exp()
            cells = bilinear_cells(samples.positions, samples.levels, pyramid)
        return IQDetTargets(objects, pairs, of_pairs, samples, labels, *cells)

    def _pyramid(self, cls_scores: list[Tensor]) -> Pyramid:
        points = self._priors((cls_scores,))
        device = points[0].device
        levels = [torch.full((len(level),), index, device=device) for index, level in enumerate(points)]
        return Pyramid(
            torch.cat(points),
            torch.cat(levels),
            torch.cat([points[0].new_full((1,), stride) for stride in self.strides]),
            torch.stack(
                [
                    torch.stack([torch.full((), side, device=device) for side in grid_of(maps)])
                    for maps in cls_scores
                ]
            ),
        )
