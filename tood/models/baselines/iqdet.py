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
from mmdet.structures.bbox import bbox_overlaps
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
    Pairs,
    Pyramid,
    Samples,
    bilinear_cells,
    candidate_pairs,
    draws,
    read,
    sample,
    touching,
)
from tood.models.baselines.ota import OTAHead, inside
from tood.models.common.dense_level import grid_of
from tood.models.common.positives import Positives
from tood.models.common.registry import MODELS


class ImageTargets(NamedTuple):
    """What is drawn for one image, and what its encoder learns from."""

    pairs: Pairs
    log_quality: Tensor  # [P] of the mixtures at the pairs, with a graph
    samples: Samples
    labels: Tensor  # [S] quality of the samples, without a graph
    cells: Tensor  # [S, 4] points around each sample
    cell_weights: Tensor  # [S, 4]


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

    `forward` returns the features too, as the loss encodes objects by them; detection uses none of it.
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
        """The share of the training that is done is a part of the seed of the random numbers."""
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
        images = self.get_targets(pyramid, features, batch_gt_instances, batch_img_metas)
        free, cells, owners, labels, quality_losses, encoded = [], [], [], [], [], boxes.new_zeros(())
        for b, (image, gt) in enumerate(zip(images, batch_gt_instances, strict=True)):
            gt_boxes = gt.bboxes.to(boxes)
            free.append(~inside(pyramid.points, gt_boxes).any(0))
            cells.append(image.cells + b * len(pyramid.points))
            owners.append(gt_boxes[image.samples.objects])
            label = F.one_hot(gt.labels[image.samples.objects], self.num_classes)
            labels.append(label * image.labels[:, None])
            found = bbox_overlaps(
                boxes[b, image.pairs.points].detach(), gt_boxes[image.pairs.objects], is_aligned=True
            )
            quality_losses.append(quality_loss(image.log_quality, found, image.pairs.objects, len(gt)))
            encoded += len(image.pairs.objects.unique())
        where = torch.cat(cells), torch.cat([image.cell_weights for image in images])
        negatives = logits[torch.stack(free)]
        sampled = read(logits.flatten(0, 1), *where)
        divisors = reduce_mean(torch.stack([boxes.new_tensor(len(sampled)), encoded])).clamp(min=1)
        focal = soft_focal_loss(
            torch.cat([sampled, negatives]),
            torch.cat([torch.cat(labels), torch.zeros_like(negatives)]),
            self.loss_cls.gamma,
            self.loss_cls.alpha,
        )
        return {
            "loss_cls": self.loss_cls.loss_weight * focal.sum() / divisors[0],
            # The mean of the points' boxes is the box of the points' mean distances, at the position.
            **self._box_losses(
                read(boxes.flatten(0, 1), *where),
                torch.cat(owners),
                read(iou_logits.flatten()[:, None], *where).squeeze(1),
                divisors[0],
            ),
            "loss_quality": self.quality_weight * torch.cat(quality_losses).sum() / divisors[1],
        }

    @torch.no_grad()
    def positives_by_feat(
        self, *outs: list[Tensor], batch_gt_instances: list[InstanceData], batch_img_metas: list[dict]
    ) -> list[Positives]:
        """The points that samples read, weighed by their share of the object's samples.

        As in the loss at the present progress; see `DensePredictionMixin`.
        """
        cls_scores, _, _, features = outs
        pyramid, found = self._pyramid(cls_scores), []
        for image in self.get_targets(pyramid, features, batch_gt_instances, batch_img_metas):
            A = len(pyramid.points)
            keys = (image.samples.objects[:, None] * A + image.cells).flatten()
            keys, place = keys.unique(return_inverse=True)
            weights = image.cell_weights.new_zeros(len(keys)).index_add(
                0, place, image.cell_weights.flatten()
            )
            read_at = weights > 0  # a position on the line of two points has two points of weight 0
            weights = (weights[read_at] / self.train_cfg["samples"]).clamp(max=1)  # rounding
            found.append(Positives(keys[read_at] % A, keys[read_at] // A, weights))
        return found

    def get_targets(
        self,
        pyramid: Pyramid,
        features: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
    ) -> list[ImageTargets]:
        """Targets of each image; the encoder's values alone have a graph.

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
        gt_boxes = [gt.bboxes.to(features[0]) for gt in batch_gt_instances]
        outputs = self.encoder(features, gt_boxes).split([len(boxes) for boxes in gt_boxes])  # [G, L, 5 K]
        return [
            self._targets_of_image(
                pyramid,
                mixture_of(output),
                boxes,
                draws(meta["img_id"], self.progress, len(boxes), self.train_cfg["samples"]),
            )
            for output, boxes, meta in zip(outputs, gt_boxes, batch_img_metas, strict=True)
        ]

    def _targets_of_image(
        self, pyramid: Pyramid, mixtures: Mixture, gt_boxes: Tensor, numbers: Tensor
    ) -> ImageTargets:
        def log_quality(objects: Tensor, levels: Tensor, positions: Tensor) -> Tensor:
            of_positions = Mixture(*(part[objects, levels] for part in mixtures))
            return log_quality_at(of_positions, offsets_in_boxes(positions, gt_boxes[objects]))

        pairs = touching(candidate_pairs(pyramid.points, gt_boxes), pyramid, gt_boxes)
        of_pairs = log_quality(pairs.objects, pyramid.levels[pairs.points], pyramid.points[pairs.points])
        with torch.no_grad():
            samples = sample(pairs, of_pairs.exp(), pyramid, gt_boxes, numbers)
            labels = log_quality(*samples).exp()
            cells = bilinear_cells(samples.positions, samples.levels, pyramid)
        return ImageTargets(pairs, of_pairs, samples, labels, *cells)

    def _pyramid(self, cls_scores: list[Tensor]) -> Pyramid:
        points = self._priors((cls_scores,))
        device = points[0].device
        levels = [torch.full((len(level),), index, device=device) for index, level in enumerate(points)]
        return Pyramid(
            torch.cat(points),
            torch.cat(levels),
            points[0].new_tensor(self.strides),
            torch.tensor([grid_of(maps) for maps in cls_scores], device=device),
        )
