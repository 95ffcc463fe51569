"""The assignment of ATSS, as mmdet's, without a table of all anchors and objects."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.models.task_modules.assigners import ATSSAssigner as MMDetATSSAssigner
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.common.box_coders import anchor_centres
from tood.models.common.pairs import objects_at_once, owners, paired_iou, without_conflicts
from tood.models.common.registry import TASK_UTILS

# As in mmdet: the least distance (pixels) of a positive's centre from each side of its object, inside it, and
# the IoU that a negative is given.
CENTRE_MARGIN = 0.01
NO_IOU = -100000000


@TASK_UTILS.register_module()
class ATSSAssigner(MMDetATSSAssigner):
    """mmdet's `ATSSAssigner`, with the same result in a fraction of the time and memory.

    Distances exist only for a few objects at a time, and IoUs only for candidates. With `alpha` (DDOD) or
    with regions to be ignored, mmdet's own code assigns.
    """

    def assign(
        self,
        pred_instances: InstanceData,
        num_level_priors: list[int],
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> AssignResult:
        """Assign anchors to the objects of one image; arguments and result as mmdet's."""
        priors, gt_boxes = pred_instances.priors[:, :4], gt_instances.bboxes  # [A, 4], [G, 4]
        A, G = len(priors), len(gt_boxes)
        if A * G == 0 or not self.matches:
            return super().assign(pred_instances, num_level_priors, gt_instances, gt_instances_ignore)
        anchors, positive, u = self.match(priors, num_level_priors, gt_boxes)  # [G, K] each

        gt_index = owners(anchors, positive, A)
        iou = u.new_full((A + 1,), NO_IOU)  # one more, for entries that are not positive
        iou[torch.where(positive, anchors, A)] = torch.where(positive, u, NO_IOU)
        labels = torch.where(gt_index < 0, -1, gt_instances.labels[gt_index])
        return AssignResult(G, gt_index + 1, iou[:A], labels=labels)

    @property
    def matches(self) -> bool:
        """Whether `match` can do the assignment: it supports neither `alpha` nor regions to be ignored."""
        return self.alpha is None and self.ignore_iof_thr <= 0

    def match(
        self, priors: Tensor, num_level_priors: Sequence[int], gt_boxes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates of each object and which of them are positive; no shape depends on a value.

        Args:
            priors: [A, 4] anchors of one image, level after level.
            num_level_priors: of each level.
            gt_boxes: [G, 4] its objects.

        Returns:
            anchors [G, K] in 0..A-1; positive [G, K], no anchor for two objects; IoU [G, K]
        """
        A = len(priors)
        centres = anchor_centres(priors)  # [A, 2]
        parts = gt_boxes.split(objects_at_once(A, priors.device))
        anchors = torch.cat([self._nearest(centres, num_level_priors, part) for part in parts])  # [G, K]
        candidates = priors[anchors]  # [G, K, 4]
        u = paired_iou(candidates, gt_boxes[:, None])  # [G, K]

        by_rank = u.T.contiguous()  # [K, G], summed in mmdet's order
        threshold = by_rank.mean(0) + by_rank.std(0)
        x1y1, x2y2 = gt_boxes[:, None].split(2, -1)  # [G, 1, 2] each
        inner = torch.cat([centres[anchors] - x1y1, x2y2 - centres[anchors]], -1).amin(-1)  # [G, K]
        positive = (u >= threshold[:, None]) & (inner > CENTRE_MARGIN)
        return anchors, without_conflicts(anchors, positive, u, A), u

    def _nearest(self, centres: Tensor, num_level_priors: Sequence[int], gt_boxes: Tensor) -> Tensor:
        """The `topk` anchors of each level that are nearest to each object: [G, K]."""
        x, y = anchor_centres(gt_boxes).T[..., None]  # [G, 1] each
        distance = ((centres[:, 0] - x) ** 2).add_((centres[:, 1] - y) ** 2).sqrt_()  # [G, A]
        nearest, start = [], 0
        for level in distance.split(num_level_priors, 1):
            k = min(self.topk, level.shape[1])
            nearest.append(level.topk(k, largest=False).indices + start)
            start += level.shape[1]
        return torch.cat(nearest, 1)


class BatchMatches(NamedTuple):
    """Candidates of the objects of a batch, one after another; A anchors per image."""

    anchors: Tensor  # [P] int64, b * A + a for anchor a of image b
    objects: Tensor  # [P] int64, index among the objects of the batch
    positive: Tensor  # [P] whether the anchor serves the object; no anchor serves two


def match_batch(
    assigner: BaseAssigner,
    priors: Sequence[Tensor],
    rows: Sequence[Sequence[Tensor]],
    gts: list[InstanceData],
) -> BatchMatches:
    """Match the anchors of each image with its objects.

    With this module's assigner no shape depends on a value, so nothing waits for a device. Any other assigner
    assigns by its own code, and each anchor that takes part is a candidate of one object.

    Args:
        assigner: takes the numbers of anchors of each level, as ATSS's does.
        priors: anchors of each level, [.., 4]; A in all.
        rows: of each image and level, the indices of the anchors that take part.
        gts: objects of each image.
    """
    anchors = torch.cat(list(priors))
    starts = [0, *accumulate(len(level) for level in priors)]
    none = torch.zeros(0, dtype=torch.long, device=anchors.device)
    matches = [(none, none, none.bool())]
    first = 0
    for b, (levels, gt) in enumerate(zip(rows, gts, strict=True)):
        numbers = [len(level) for level in levels]
        row = torch.cat([level + start for level, start in zip(levels, starts, strict=False)])  # [A']
        G = len(gt.labels)
        if G == 0:
            continue
        if isinstance(assigner, ATSSAssigner) and assigner.matches:
            a, positive, _ = assigner.match(anchors[row], numbers, gt.bboxes.to(anchors))  # [G, K] each
            owner = torch.arange(G, device=a.device)[:, None].expand_as(a)  # [G, K]
        else:
            index = assigner.assign(InstanceData(priors=anchors[row]), numbers, gt).gt_inds - 1  # [A']
            a, positive, owner = torch.arange(len(index), device=index.device), index >= 0, index.clamp(min=0)
        matches.append((row[a.flatten()] + b * len(anchors), owner.flatten() + first, positive.flatten()))
        first += G
    return BatchMatches(*map(torch.cat, zip(*matches, strict=True)))


def match_image(
    assigner: BaseAssigner, priors: Sequence[Tensor], rows: Sequence[Tensor], gt: InstanceData
) -> Tensor:
    """[A] the object of each anchor of one image, negative for none; arguments as of `match_batch`."""
    anchors, objects, positive = match_batch(assigner, priors, [rows], [gt])
    A = sum(len(level) for level in priors)
    gt_index = anchors.new_full((A + 1,), -1)  # one more, for entries that are not positive
    gt_index[torch.where(positive, anchors, A)] = torch.where(positive, objects, -1)
    return gt_index[:-1]
