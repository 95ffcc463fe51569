"""NoisyAnchor (Table 2): soft labels and weights from how clean a positive anchor is.

Paper: Li et al., "Learning from Noisy Anchors for One-stage Object Detection", CVPR 2020. The paper's
cleanliness of a positive is `alpha * loc + (1 - alpha) * cls`, its weight
`alpha * f(loc) + (1 - alpha) * f(cls)` with `f(x) = 1 / (1 - x)`; loc is the IoU of the regressed box
with its object, cls the score of the object's class. The normalisations below are those of the authors'
code (henrylee2570/NoisyAnchor, `detectron2/modeling/meta_arch/retinanet_noisy.py` and `matcher.py`).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models.task_modules.assigners import AssignResult, BaseAssigner
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.baselines.retinanet import RetinaHead
from tood.models.common.anchor_boxes import rows_of_batch
from tood.models.common.dense_level import grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.pairs import box_rows_iou, objects_of_points, of_owners, paired_iou
from tood.models.common.registry import MODELS, TASK_UTILS

EPS = 1e-7


class Chosen(NamedTuple):
    """The assignment of the anchors of an image."""

    gt_index: Tensor  # [A] object of each anchor, -1 for negatives
    times: Tensor  # [A] how many objects chose the anchor


def top_n_assign(ious: Tensor, top_n: int) -> Chosen:
    """Make the anchors of largest IoU with each object positive.

    As in the authors' code, a positive belongs to the object that it overlaps most, which may not be the
    object that chose it. Unlike there, an anchor that touches no object is never positive: it would go to the
    first object.

    Args:
        ious: [G, A] of objects with anchors.
        top_n: number of anchors that each object chooses.
    """
    G, A = ious.shape
    times = torch.zeros(A, dtype=torch.long, device=ious.device)
    if G == 0:
        return Chosen(torch.full_like(times, -1), times)
    best, owner = ious.max(0)  # [A], [A]
    choices = ious.topk(min(top_n, A), dim=1).indices.flatten()  # [G * N]
    times = times.index_add(0, choices, torch.ones_like(choices)) * (best > 0)
    return Chosen(owner.where(times > 0, -1), times)


def soft_labels(loc: Tensor, cls: Tensor, alpha: float, times: Tensor) -> Tensor:
    """Cleanliness of an image's positives as classification targets.

    Both parts are divided by their mean, then the mixture is stretched to [mean(loc), 1].

    Args:
        loc: [P] IoU of the predicted boxes with their objects.
        cls: [P] scores of the objects' classes.
        alpha: share of loc.
        times: [P] how many objects chose the positive, which is its weight in means, as in the code.

    Returns:
        [P]; mean(loc) for all if the mixture has only one value
    """
    if len(loc) == 0:
        return loc
    mixture = alpha * _by_mean(loc, times) + (1 - alpha) * _by_mean(cls, times)
    low, high = mixture.aminmax()
    floor = _mean(loc, times)
    return floor + (mixture - low) * (1 - floor) / (high - low).clamp(min=EPS)


def sample_weights(loc: Tensor, cls: Tensor, alpha: float, times: Tensor) -> Tensor:
    """Weights of an image's positives, before `keep_sum`; arguments as `soft_labels`."""
    if len(loc) == 0:
        return loc
    inverse = [1 / (1 - x).clamp(min=EPS) for x in (loc, cls)]
    return alpha * _by_mean(inverse[0], times) + (1 - alpha) * _by_mean(inverse[1], times)


def keep_sum(loss: Tensor, weights: Tensor) -> Tensor:
    """Weight the elements of a loss and keep their sum.

    Args:
        loss: elements, of any shape.
        weights: broadcastable to it, without gradient.
    """
    weighted = loss * weights
    scale = loss.detach().sum() / weighted.detach().sum().clamp(min=torch.finfo(loss.dtype).tiny)
    return weighted * scale


def soft_focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss for soft targets, elementwise.

    `-t a (1 - p)^gamma log p - (1 - t)(1 - a) p^gamma log(1 - p)`: each term keeps the modulation it has
    in the focal loss, so the minimum over p is not at t, unlike QFL's.

    Args:
        logits: any shape; p is their sigmoid.
        target: t, same shape, in [0, 1].
        gamma: focusing parameter.
        alpha: weight a of the first term.
    """
    p = logits.sigmoid()
    positive = -alpha * target * (1 - p).pow(gamma) * F.logsigmoid(logits)
    negative = -(1 - alpha) * (1 - target) * p.pow(gamma) * F.logsigmoid(-logits)
    return positive + negative


def _mean(x: Tensor, times: Tensor) -> Tensor:
    return (x * times).sum() / times.sum()


def _by_mean(x: Tensor, times: Tensor) -> Tensor:
    return x / _mean(x, times).clamp(min=EPS)


@TASK_UTILS.register_module()
class TopNAssigner(BaseAssigner):
    """`top_n_assign` as mmdet's heads call it.

    Args:
        top_n: anchors an object chooses.
    """

    def __init__(self, top_n: int) -> None:
        self.top_n = top_n

    def assign(
        self,
        pred_instances: InstanceData,
        gt_instances: InstanceData,
        gt_instances_ignore: InstanceData | None = None,
    ) -> AssignResult:
        """Assign `pred_instances.priors` [A, 4] to `gt_instances.bboxes` [G, 4]."""
        priors = pred_instances.priors
        ious = box_rows_iou(priors.T[None], gt_instances.bboxes.to(priors))  # [G, A]
        gt_index, times = top_n_assign(ious, self.top_n)
        labels = of_owners(gt_instances.labels, gt_index).where(gt_index >= 0, -1)
        result = AssignResult(len(gt_instances), gt_index + 1, max_overlaps=None, labels=labels)
        result.set_extra_property("times", times)
        return result


@MODELS.register_module()
class NoisyAnchorHead(RetinaHead):
    """RetinaNet with soft labels and weights by the cleanliness of its positives.

    Both losses are divided by a running mean of the number of positives on a GPU. In the authors' code each
    GPU has its own running mean; here there is one, of the mean over GPUs.

    Args:
        loss_cls: its `gamma`, `alpha` and `loss_weight` are `soft_focal_loss`'s.
        train_cfg: `assigner`, `allowed_border`, `alpha` (share of localisation in the cleanliness) and
            `momentum` of the running mean.
        others: as mmdet's `RetinaHead`; `loss_bbox` on encoded boxes.
    """

    divisors = Divisors.PREDICTIONS
    progress: float | None = None
    _counted_at: float | None = None  # progress at the last update of the running mean

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A reasonable first value; in a buffer, because a resumed training needs it.
        self.register_buffer("mean_positives", torch.tensor(100.0))

    def set_progress(self, epoch: int, progress: float) -> None:
        """The running mean is updated once per iteration, however many replicas the batch has."""
        self.progress = progress

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData] | None = None,
    ) -> dict[str, Tensor]:
        """`loss_cls` and `loss_bbox` of a batch; it moves the running mean of the number of positives."""
        logits = rows_of_batch(cls_scores, self.cls_out_channels)  # [B*A, C]
        deltas = rows_of_batch(bbox_preds, 4)  # [B*A, 4]
        priors = self._priors((cls_scores,))
        anchors = torch.cat(priors)  # [A, 4]
        grids = [grid_of(maps) for maps in cls_scores]
        inside = self._inside_rows(grids, priors, batch_img_metas)
        images = zip(inside, batch_gt_instances, strict=True)
        owners, times = (
            torch.stack(part)  # [B, A]
            for part in zip(*(self._chosen(anchors, *image) for image in images), strict=True)
        )
        labels, boxes = objects_of_points(batch_gt_instances, owners, self.num_classes, anchors)
        # The only waits of the host: for the positives, and for their number in each image
        positives = (owners.flatten() >= 0).nonzero().squeeze(1)  # [P]
        numbers = (owners >= 0).sum(1).tolist()
        prior = anchors[positives % len(anchors)]
        gt_boxes, gt_labels = boxes[positives], labels[positives]
        decoded = self.bbox_coder.decode(prior, deltas[positives].detach())
        loc = paired_iou(decoded, gt_boxes)
        cls = logits[positives, gt_labels].detach().sigmoid()
        quality = zip(*(part.split(numbers) for part in (loc, cls, times.flatten()[positives])), strict=True)
        alpha, cfg = self.train_cfg["alpha"], self.loss_cls
        soft, weights = zip(
            *(
                (soft_labels(loc, cls, alpha, chosen), sample_weights(loc, cls, alpha, chosen))
                for loc, cls, chosen in quality
            ),
            strict=True,
        )
        positive_weights = torch.cat(weights).to(logits)  # [P]
        target = torch.zeros_like(logits).index_put((positives, gt_labels), torch.cat(soft).to(logits))
        weight = torch.ones_like(logits[:, 0]).index_put((positives,), positive_weights)  # [B*A]

        number = reduce_mean(positive_weights.new_full((), len(positives)))
        if self.progress is None or self.progress != self._counted_at:
            momentum = self.train_cfg["momentum"]
            self.mean_positives.mul_(momentum).add_((1 - momentum) * number)
            self._counted_at = self.progress
        divisor = self.mean_positives.clamp(min=1)

        # The sum that `keep_sum` keeps does not include the padding
        kept = torch.cat([rows + b * len(anchors) for b, rows in enumerate(inside)])
        cls_loss = soft_focal_loss(logits[kept], target[kept], cfg.gamma, cfg.alpha)
        box_targets = self.bbox_coder.encode(prior, gt_boxes)
        box_loss = self.loss_bbox(deltas[positives], box_targets, reduction_override="none")
        return {
            "loss_cls": keep_sum(cls_loss, weight[kept, None]).sum() * cfg.loss_weight / divisor,
            "loss_bbox": keep_sum(box_loss, positive_weights[:, None]).sum() / divisor,
        }

    def _owners(self, anchors: Tensor, gt: InstanceData) -> Tensor:
        return self.assigner.assign(InstanceData(priors=anchors), gt).gt_inds - 1

    def _chosen(self, anchors: Tensor, inside: Tensor, gt: InstanceData) -> tuple[Tensor, Tensor]:
        """[A] and [A] of an image: object of each anchor, and how many objects chose it; see `Chosen`."""
        assigned = self.assigner.assign(InstanceData(priors=anchors[inside]), gt)
        owner = torch.full((len(anchors),), -1, device=anchors.device).index_put(
            (inside,), assigned.gt_inds - 1
        )
        return owner, torch.zeros_like(owner).index_put((inside,), assigned.get_extra_property("times"))
