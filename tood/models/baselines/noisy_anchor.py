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
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from torch import Tensor

from tood.models.baselines.retinanet import RetinaHead
from tood.models.common.dense_level import grid_of
from tood.models.common.divisors import Divisors
from tood.models.common.registry import MODELS, TASK_UTILS

EPS = 1e-7


class Chosen(NamedTuple):
    """What the objects of an image make of its anchors."""

    gt_index: Tensor  # [A] object of each anchor, -1 for negatives
    times: Tensor  # [A] how many objects chose the anchor


def top_n_assign(ious: Tensor, top_n: int) -> Chosen:
    """Make the anchors of largest IoU with each object positive.

    A positive belongs to the object it overlaps most, not always the one that chose it, as in the code.
    Unlike there, an anchor that touches no object is never positive: it would go to the first object.

    Args:
        ious: [G, A] of objects with anchors.
        top_n: number of anchors that each object chooses.
    """
    G, A = ious.shape
    gt_index = torch.full((A,), -1, device=ious.device)
    if G == 0:
        return Chosen(gt_index, torch.zeros_like(gt_index))
    best, owner = ious.max(0)  # [A], [A]
    choices = ious.topk(min(top_n, A), dim=1).indices.flatten()  # [G * N]
    times = choices.bincount(minlength=A) * (best > 0)
    chosen = times > 0
    gt_index[chosen] = owner[chosen]
    return Chosen(gt_index, times)


def soft_labels(loc: Tensor, cls: Tensor, alpha: float, times: Tensor) -> Tensor:
    """Cleanliness of an image's positives as classification targets.

    Both parts are divided by their mean, then the mixture is stretched to [mean(loc), 1].

    Args:
        loc: [P] IoU of the predicted boxes with their objects.
        cls: [P] scores of the objects' classes.
        alpha: share of loc.
        times: [P] how many objects chose the positive; in means it counts that often, as in the code.

    Returns:
        [P]; mean(loc) for all where the mixture has one value only
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
    """Weight elements of a loss such that their sum stays what it was.

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
        ious = bbox_overlaps(gt_instances.bboxes.to(priors), priors)  # [G, A]
        gt_index, times = top_n_assign(ious, self.top_n)
        positive = gt_index >= 0
        labels = torch.full_like(gt_index, -1)
        labels[positive] = gt_instances.labels[gt_index[positive]]
        result = AssignResult(len(gt_instances), gt_index + 1, max_overlaps=None, labels=labels)
        result.set_extra_property("times", times)
        return result


@MODELS.register_module()
class NoisyAnchorHead(RetinaHead):
    """RetinaNet with soft labels and weights by the cleanliness of its positives.

    Both losses are divided by a running mean of the number of positives on a GPU. In the authors' code each
    GPU keeps one of its own; here there is one, of the mean over GPUs.

    Args:
        loss_cls: its `gamma`, `alpha` and `loss_weight` are `soft_focal_loss`'s.
        train_cfg: `assigner`, `allowed_border`, `alpha` (share of localisation in the cleanliness) and
            `momentum` of the running mean.
        others: as mmdet's `RetinaHead`; `loss_bbox` on encoded boxes.
    """

    divisors = Divisors.PREDICTIONS
    progress: float | None = None
    _counted_at: float | None = None  # progress at which the running mean moved last

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A reasonable number to begin with; in a buffer, as a resumed training needs it.
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
        logits, deltas = (  # [B, A, C], [B, A, 4]
            torch.cat([maps.permute(0, 2, 3, 1).reshape(len(maps), -1, K) for maps in levels], 1)
            for levels, K in ((cls_scores, self.cls_out_channels), (bbox_preds, 4))
        )
        priors = self._priors((cls_scores,))
        grids = [grid_of(maps) for maps in cls_scores]
        anchors = torch.cat(priors)  # [A, 4]
        insides, targets, weights = [], [], []
        box_deltas, box_targets, box_weights = [], [], []
        for b, (gt, meta) in enumerate(zip(batch_gt_instances, batch_img_metas, strict=True)):
            inside = self._inside(grids, priors, meta)
            found = self.assigner.assign(InstanceData(priors=anchors[inside]), gt)
            gt_index = torch.full_like(inside, -1, dtype=torch.long)
            gt_index[inside] = found.gt_inds - 1
            positive = gt_index >= 0
            times = found.get_extra_property("times")
            times = times[times > 0]  # [P]
            owner = gt_index[positive]
            gt_boxes, gt_labels = gt.bboxes[owner].to(anchors), gt.labels[owner]
            boxes = self.bbox_coder.decode(anchors[positive], deltas[b, positive].detach())
            loc = bbox_overlaps(boxes, gt_boxes, is_aligned=True)
            cls = logits[b, positive, gt_labels].detach().sigmoid()
            alpha = self.train_cfg["alpha"]
            target = torch.zeros_like(logits[b])
            target[positive, gt_labels] = soft_labels(loc, cls, alpha, times).to(target)
            weight = torch.ones_like(inside, dtype=logits.dtype)
            weight[positive] = sample_weights(loc, cls, alpha, times).to(weight)
            insides.append(inside)
            targets.append(target)
            weights.append(weight)
            box_deltas.append(deltas[b, positive])
            box_targets.append(self.bbox_coder.encode(anchors[positive], gt_boxes))
            box_weights.append(weight[positive])
        positive_weights = torch.cat(box_weights)[:, None]  # [P, 1]
        number = reduce_mean(positive_weights.new_tensor(len(positive_weights)))
        if self.progress is None or self.progress != self._counted_at:
            momentum = self.train_cfg["momentum"]
            self.mean_positives.mul_(momentum).add_((1 - momentum) * number)
            self._counted_at = self.progress
        divisor = self.mean_positives.clamp(min=1)
        cfg = self.loss_cls
        inside = torch.stack(insides)  # [B, A]; the sum that the weights keep is without the padding
        cls_loss = soft_focal_loss(logits[inside], torch.stack(targets)[inside], cfg.gamma, cfg.alpha)
        cls_weights = torch.stack(weights)[inside][:, None]
        box_loss = self.loss_bbox(torch.cat(box_deltas), torch.cat(box_targets), reduction_override="none")
        return {
            "loss_cls": keep_sum(cls_loss, cls_weights).sum() * cfg.loss_weight / divisor,
            "loss_bbox": keep_sum(box_loss, positive_weights).sum() / divisor,
        }
