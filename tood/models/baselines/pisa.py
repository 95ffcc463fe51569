"""PISA (Table 2): RetinaNet's positives weighted by their rank, as mmdet's `PISARetinaHead` has it."""

import torch
from torch import Tensor

from tood.models.baselines.retinanet import AnchorTargets, RetinaHead
from tood.models.common.pairs import paired_iou
from tood.models.common.registry import MODELS


def rank_within(values: Tensor, groups: Tensor) -> Tensor:
    """[P] how many values [P] of the same group [P] are larger, or are equal and stand before it."""
    order = values.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    places = torch.arange(len(values), device=values.device)
    return torch.empty_like(order).scatter_(0, order, places - torch.searchsorted(ordered, ordered))


def rank_weights(ious: Tensor, labels: Tensor, objects: Tensor, classes: int) -> Tensor:
    """Weights of positives by their hierarchical local rank.

    First the positives of an object are ranked by their IoU. Then those of a class are ranked: all firsts
    of their object before all seconds, and so on.

    Args:
        ious: [P] of the predicted boxes with their objects.
        labels: [P] classes.
        objects: [P].
        classes: C.

    Returns:
        [P] in (0, 1], falling linearly with the rank in the class, by 1 / number of the largest class
    """
    most = labels.new_zeros(classes).index_add(0, labels, torch.ones_like(labels)).amax()
    ious = ious + (most - rank_within(ious, objects * classes + labels))
    return (most - rank_within(ious, labels)).to(ious) / most


def numbers_in_batch(owners: Tensor) -> Tensor:
    """[B, A] objects as mmdet numbers them over the images of a batch.

    An image's numbers begin after those of the image before it, but they do not add up. So the third image
    may have numbers of the first, and then the positives of two objects are ranked as if they had one object.

    Args:
        owners: [B, A] object of each anchor of each image, negative for none.
    """
    start, starts = owners.new_zeros(()), []
    for last in owners.amax(1):
        starts.append(start)
        start = (last + 1).where(last >= 0, start)
    return owners + torch.stack(starts)[:, None]


@MODELS.register_module()
class PISARetinaHead(RetinaHead):
    """RetinaNet's positives, weighted by their rank (PISA); configuration as mmdet's.

    Args:
        train_cfg: beside RetinaNet's `isr`, of the weights by rank, and `carl`, of the loss that makes a
            score follow its box; each with `k` and `bias`.
    """

    def _losses(self, logits: Tensor, deltas: Tensor, targets: AnchorTargets) -> dict[str, Tensor]:
        positives = (targets.owners.flatten() >= 0).nonzero().squeeze(1)  # [P]; the only wait
        if len(positives) == 0:
            return super()._losses(logits, deltas, targets) | {"loss_carl": logits.sum()[None] * 0}
        weights = targets.label_weights.index_put(
            (positives,), self._importance(logits, deltas, targets, positives)
        )
        losses = super()._losses(logits, deltas, targets._replace(label_weights=weights))
        return losses | {"loss_carl": self._carl(logits, deltas, targets, positives)[None]}

    @torch.no_grad()
    def _importance(
        self, logits: Tensor, deltas: Tensor, targets: AnchorTargets, positives: Tensor
    ) -> Tensor:
        """[P] label weights of the positives, which do not change the sum of their class loss."""
        anchors, labels = targets.anchors[positives], targets.labels[positives]
        weights = targets.label_weights[positives]
        ious = paired_iou(
            self.bbox_coder.decode(anchors, deltas[positives]),
            self.bbox_coder.decode(anchors, targets.deltas[positives]),
        )
        objects = numbers_in_batch(targets.owners).flatten()
        bias, k = self.train_cfg["isr"]["bias"], self.train_cfg["isr"]["k"]
        ranked = weights * rank_weights(ious, labels, objects[positives], self.num_classes)
        ranked = (bias + ranked * (1 - bias)).pow(k)
        loss = self.loss_cls(logits[positives], labels, reduction_override="none")  # [P, C]
        return ranked * ((loss * weights[:, None]).sum() / (loss * ranked[:, None]).sum())

    def _carl(self, logits: Tensor, deltas: Tensor, targets: AnchorTargets, positives: Tensor) -> Tensor:
        """The box loss of the positives, weighted by their scores; it has a gradient into the scores."""
        bias, k = self.train_cfg["carl"]["bias"], self.train_cfg["carl"]["k"]
        scores = logits[positives, targets.labels[positives]].sigmoid()
        weights = (bias + (1 - bias) * scores).pow(k)
        weights = weights * (len(positives) / weights.sum())
        loss = self.loss_bbox(
            deltas[positives], targets.deltas[positives], reduction_override="none"
        )  # [P, 4]
        return (loss / targets.number * weights[:, None]).sum()
