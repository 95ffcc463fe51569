"""The training targets of heads that assign by ATSS; no shape depends on a value."""

from typing import Any, NamedTuple

import torch
from mmdet.models.task_modules.assigners import BaseAssigner
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.atss_assigner import match_batch, match_image
from tood.models.common.box_coders import anchor_centres, centerness_target
from tood.models.common.dense_level import DenseLevel
from tood.models.common.dense_prediction import DensePredictionMixin
from tood.models.common.pairs import objects_of


class ATSSTargets(NamedTuple):
    """The training targets of B images with A anchors each; P pairs of an anchor and an object."""

    labels: Tensor  # [B * A], the number of classes for the background
    label_weights: Tensor  # [B * A] of the classification loss; 0 in the padding outside an image
    anchors: Tensor  # [P] int64, b * A + a for anchor a of image b
    priors: Tensor  # [P, 4] the same as boxes, pixels
    boxes: Tensor  # [P, 4] of the objects, pixels
    positive: Tensor  # [P]; pairs that are not positive are ignored
    centerness: Tensor  # [P], 0 where not positive
    number: Tensor  # of positives, at least one per image; mmdet divides by it

    def on_anchors(self, values: Tensor) -> Tensor:
        """The values [P] of positives at their anchors: [B * A], 0 for other anchors."""
        A = len(self.labels)
        on_anchors = values.new_zeros(A + 1)  # one more, for pairs that are not positive
        on_anchors[torch.where(self.positive, self.anchors, A)] = values
        return on_anchors[:-1]

    def of_positives(self, rows: Tensor) -> Tensor:
        """The rows [B * A, ...] of the pairs: [P, ...], zeros where not positive, whatever was predicted."""
        of_pairs = rows[self.anchors]
        return torch.where(self.positive.view(-1, *[1] * (rows.dim() - 1)), of_pairs, 0)


class ATSSTargetsMixin(DensePredictionMixin):
    """Targets of a head with an `assigner` of ATSS; with `tood.ATSSAssigner` nothing waits for a device.

    Raises:
        ValueError: the assigner is to ignore regions.
    """

    # Of the mmdet head
    assigner: BaseAssigner
    num_classes: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.train_cfg and getattr(self.assigner, "ignore_iof_thr", -1) > 0:
            raise ValueError(
                f"train_cfg.assigner.ignore_iof_thr is set; tood.{type(self).__name__} ignores no regions: "
                "remove it"
            )

    def _anchors(self, grids: list[tuple[int, int]], like: Tensor) -> list[Tensor]:
        """The boxes [.., 4] of each level that are matched with objects, in the type of `like`."""
        return self.prior_generator.grid_priors(grids, dtype=like.dtype, device=like.device)

    @torch.no_grad()
    def _targets(
        self, grids: list[tuple[int, int]], gts: list[InstanceData], metas: list[dict], like: Tensor
    ) -> ATSSTargets:
        """Targets; arguments as for `divisors_from_targets`."""
        B = len(metas)
        priors = self._anchors(grids, like)
        objects = objects_of(gts, like)
        rows = self._rows_inside(grids, priors, metas)
        anchors, owner, positive = match_batch(self.assigner, priors, rows, gts)  # [P] each
        everywhere = torch.cat(priors)  # [A, 4]
        A = len(everywhere)
        slot = torch.where(positive, anchors, B * A)  # one more, for entries that are not positive
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
        return ATSSTargets(labels[:-1], weights, anchors, own, boxes, positive, centerness, number)

    def _assign(self, levels: list[DenseLevel], priors: list[Tensor], gt: InstanceData, meta: dict) -> Tensor:
        grids = [level.grid for level in levels]
        anchors = self._anchors(grids, priors[0])
        (rows,) = self._rows_inside(grids, anchors, [meta])
        return match_image(self.assigner, anchors, rows, gt)
