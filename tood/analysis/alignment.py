"""How well classification and localisation agree before NMS: PCC and IoU of Table 6 (section 4.3).

The paper compares "the rankings of classification and localization by selecting top-50 confident
predictions for each instance" and takes "a mean IoU of the top-10 confident predictions, averaged
over instances". It does not say which predictions belong to an instance. Here every anchor of every
level competes, without score threshold, and an anchor belongs to the instance its box overlaps most.
The other readings are options, so that the table can be given under each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torchvision.ops import box_iou

_CHOICES = {
    "ownership": ("iou", "centre", "any"),
    "iou_floor": (0.0, 0.1, 0.5),
    "correlation": ("rank", "value"),
    "empty_pools": ("zero", "drop"),
}


@dataclass(frozen=True)
class AlignmentOptions:
    """Which reading of section 4.3 is measured; the defaults are this project's definition.

    Whether confidence includes centerness is no option: the caller passes one tensor or the other.

    Raises:
        ValueError: an option is none of the readings listed here.
    """

    # Anchors of an instance: those whose box overlaps it more than any instance of its class ('iou');
    # those whose centre lies inside it ('centre'); all of the image ('any'). The last two let
    # instances share anchors.
    ownership: Literal["iou", "centre", "any"] = "iou"
    iou_floor: float = 0.0  # IoU > 0, IoU > 0.1 or IoU >= 0.5 with the instance
    correlation: Literal["rank", "value"] = "rank"
    class_aware: bool = True  # False: all instances compete, by each anchor's best class
    empty_pools: Literal["zero", "drop"] = "zero"  # IoU of an instance that no anchor belongs to
    top_pcc: int = 50
    top_iou: int = 10

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {allowed}")


class InstanceAlignment(NamedTuple):
    """Alignment of the G instances of one image."""

    pcc: np.ndarray  # [G] in [-1, 1]; nan with under 2 anchors, or all equal in score or in IoU
    iou: np.ndarray  # [G] mean over the most confident; nan where the pool is empty
    pool_size: np.ndarray  # [G] anchors that belong to the instance


def instance_pools(
    boxes: Tensor, points: Tensor, gt_boxes: Tensor, gt_labels: Tensor, options: AlignmentOptions
) -> tuple[Tensor, Tensor]:
    """Say which anchors belong to which instance.

    Args:
        boxes: [A, 4] predicted boxes (x1, y1, x2, y2), in the pixels of gt_boxes.
        points: [A, 2] anchor centres (x, y), in the same pixels.
        gt_boxes: [G, 4] instances without crowds.
        gt_labels: [G] instances with equal labels compete for anchors.
        options: its ownership and iou_floor are read.

    Returns:
        IoU of every instance and box [G, A], and membership, boolean [G, A]. Of instances that an
        anchor's box overlaps equally, the first owns it.
    """
    # A pair without any area has no IoU; nan would win every argmax below.
    ious = box_iou(gt_boxes, boxes).nan_to_num()  # [G, A]
    pools = ious >= 0.5 if options.iou_floor == 0.5 else ious > options.iou_floor  # [G, A]
    if options.ownership == "iou":
        for label in gt_labels.unique():
            rivals = (gt_labels == label).nonzero().squeeze(1)  # [R]
            owner = ious[rivals].argmax(dim=0)  # [A]
            pools[rivals] &= owner == torch.arange(len(rivals), device=owner.device)[:, None]
    elif options.ownership == "centre":
        corners = gt_boxes[:, None]  # [G, 1, 4]
        pools &= ((points > corners[..., :2]) & (points < corners[..., 2:])).all(dim=2)
    return ious, pools


def instance_alignment(
    confidence: Tensor,
    boxes: Tensor,
    points: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
    options: AlignmentOptions,
) -> InstanceAlignment:
    """Measure every instance of one image (Table 6, columns PCC and IoU).

    An instance's anchors are ranked by confidence in its class, equal ones by anchor index. PCC is
    Pearson's correlation of the ranks of confidence and of IoU over the first `top_pcc` (ties share
    their mean rank); IoU is the mean over the first `top_iou`. Smaller pools use what they have.

    Args:
        confidence: [A, C] what ranks an anchor for a class; any monotone scale.
        boxes: [A, 4] predicted boxes (x1, y1, x2, y2), clipped to the image, pixels.
        points: [A, 2] anchor centres (x, y), pixels.
        gt_boxes: [G, 4] instances without crowds, pixels; G may be 0.
        gt_labels: [G] integer columns of `confidence`.
        options: the reading of the paper.

    Raises:
        IndexError: a label is no column of `confidence`.
    """
    if not options.class_aware:
        confidence = confidence.amax(dim=1, keepdim=True)  # [A, 1]
        gt_labels = torch.zeros_like(gt_labels)
    ious, pools = instance_pools(boxes, points, gt_boxes, gt_labels, options)
    pcc = np.full(len(gt_boxes), np.nan)
    iou = np.full(len(gt_boxes), np.nan)
    for g, label in enumerate(gt_labels.tolist()):
        pool = pools[g].nonzero().squeeze(1)  # [P]
        scores = confidence[pool, label]  # [P]
        top = _most_confident(scores, max(options.top_pcc, options.top_iou))
        s = scores[top].double().cpu().numpy()
        u = ious[g, pool[top]].double().cpu().numpy()
        pcc[g] = _pearson(s[: options.top_pcc], u[: options.top_pcc], options.correlation)
        if len(u):
            iou[g] = u[: options.top_iou].mean()
    return InstanceAlignment(pcc, iou, pools.sum(dim=1).cpu().numpy())


def summarise(images: Sequence[InstanceAlignment], options: AlignmentOptions) -> dict[str, float]:
    """Average over instances: not over images, not over classes.

    Returns:
        `pcc` and `iou`, the cells of Table 6, nan when no instance defines them; `instances`;
        `pcc_excluded`, instances whose PCC is undefined; `empty_pools`; and the mean IoU under both
        treatments of empty pools, `iou_empty_zero` and `iou_empty_drop`, of which `iou` is the one
        that `options.empty_pools` names.
    """
    pcc, iou = (
        np.concatenate([np.empty(0), *(getattr(image, name) for image in images)]) for name in ("pcc", "iou")
    )  # [instances]
    means = {"zero": _mean(np.nan_to_num(iou)), "drop": _mean(iou[~np.isnan(iou)])}
    return {
        "pcc": _mean(pcc[~np.isnan(pcc)]),
        "iou": means[options.empty_pools],
        "instances": len(pcc),
        "pcc_excluded": int(np.isnan(pcc).sum()),
        "empty_pools": int(np.isnan(iou).sum()),
        "iou_empty_zero": means["zero"],
        "iou_empty_drop": means["drop"],
    }


def _most_confident(scores: Tensor, k: int) -> Tensor:
    """Indices [min(k, P)] of the highest of [P] scores, falling, equal ones by index."""
    candidates = torch.arange(len(scores), device=scores.device)
    if len(scores) > k:
        # topk alone may return any of several equal scores; its last value only bounds the sort.
        candidates = candidates[scores >= scores.topk(k).values[-1]]
    order = scores[candidates].sort(descending=True, stable=True).indices[:k]
    return candidates[order]


def _pearson(x: np.ndarray, y: np.ndarray, correlation: str) -> float:
    """Correlate two vectors; nan where it is undefined."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    if correlation == "rank":
        x, y = rankdata(x), rankdata(y)
    return np.corrcoef(x, y)[0, 1]


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
