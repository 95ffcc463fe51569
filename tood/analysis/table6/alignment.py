"""How well classification and localisation agree before NMS: PCC and IoU of Table 6 (section 4.3).

The paper compares "the rankings of classification and localization by selecting top-50 confident
predictions for each instance" and takes "a mean IoU of the top-10 confident predictions, averaged
over instances". It does not say which predictions belong to an instance. Here every anchor of every
level competes, without score threshold, and an anchor belongs to the instance its box overlaps most.
The other readings are options, so that the table can be computed under each of them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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

    Whether confidence includes centerness is not an option: the caller passes one tensor or the other.

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


class InstancePools(NamedTuple):
    """Which anchors of one image belong to which of its G instances."""

    labels: Tensor  # [G]
    ious: Tensor  # [G, A] of each instance and each anchor's predicted box
    of: Callable[[AlignmentOptions], Tensor]  # membership under a reading, boolean [G, A]


def instance_pools(boxes: Tensor, points: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> InstancePools:
    """Which anchors belong to which instance; values that readings share are computed once, on demand.

    If an anchor's box overlaps several instances equally, the first owns it.

    Args:
        boxes: [A, 4] predicted boxes (x1, y1, x2, y2), clipped to the image, pixels.
        points: [A, 2] anchor centres (x, y), in the same pixels.
        gt_boxes: [G, 4] instances without crowds, in the same pixels; G may be 0.
        gt_labels: [G] instances with equal labels compete for anchors.
    """
    # A pair without any area has no IoU; nan would win every argmax.
    ious = box_iou(gt_boxes, boxes).nan_to_num()  # [G, A]

    @functools.cache
    def rights(ownership: str, class_aware: bool) -> Tensor:
        rivals = gt_labels if class_aware else torch.zeros_like(gt_labels)
        return _rights(ious, points, gt_boxes, rivals, ownership)

    @functools.cache
    def pools(ownership: str, class_aware: bool, floor: float) -> Tensor:
        overlapping = ious >= floor if floor == 0.5 else ious > floor  # [G, A]
        return rights(ownership, class_aware) & overlapping

    return InstancePools(
        gt_labels,
        ious,
        lambda options: pools(options.ownership, options.class_aware, options.iou_floor),
    )


def instance_alignment(
    confidence: Tensor, pools: InstancePools, readings: Mapping[str, AlignmentOptions]
) -> dict[str, InstanceAlignment]:
    """Measure every instance of one image (Table 6, columns PCC and IoU) under each reading.

    An instance's anchors are ranked by confidence in its class, equal ones by anchor index. PCC is
    Pearson's correlation of the ranks of confidence and of IoU over the first `top_pcc` (ties share
    their mean rank); IoU is the mean over the first `top_iou`. Smaller pools use all their anchors.

    Args:
        confidence: [A, C] by which anchors are ranked for a class; on any monotone scale.
        pools: of the image.
        readings: of the paper, by name; values that they share are computed once.

    Raises:
        IndexError: a label is not a column of `confidence`.
    """

    @functools.cache
    def ranks_by(class_aware: bool) -> Tensor:
        """[G, A] confidence in each instance's class, or in the best one."""
        if class_aware:
            return confidence[:, pools.labels].T
        return confidence.amax(dim=1).expand(len(pools.labels), -1)

    @functools.cache
    def ranked(options: AlignmentOptions) -> _Ranked:
        own = ranks_by(options.class_aware)
        return _most_confident(own, pools.ious, pools.of(options), max(options.top_pcc, options.top_iou))

    @functools.cache
    def measured(options: AlignmentOptions) -> InstanceAlignment:
        best = ranked(replace(options, correlation="rank"))  # which does not matter there
        return InstanceAlignment(
            _correlation(best, options), _mean_iou(best, options.top_iou), best.pool_size
        )

    # `summarise` decides how empty pools count.
    return {name: measured(replace(options, empty_pools="zero")) for name, options in readings.items()}


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


class _Ranked(NamedTuple):
    """The most confident anchors of each of G instances, falling; nan after the last of a small pool."""

    scores: np.ndarray  # [G, K]
    ious: np.ndarray  # [G, K]
    pool_size: np.ndarray  # [G]


def _rights(ious: Tensor, points: Tensor, gt_boxes: Tensor, gt_labels: Tensor, ownership: str) -> Tensor:
    """Which anchors an instance may have, boolean [G, A], with any overlap."""
    if ownership == "centre":
        corners = gt_boxes[:, None]  # [G, 1, 4]
        return ((points > corners[..., :2]) & (points < corners[..., 2:])).all(dim=2)  # [G, A]
    rights = torch.ones_like(ious, dtype=torch.bool)
    if ownership == "iou":
        for label in gt_labels.unique():
            rivals = (gt_labels == label).nonzero().squeeze(1)  # [R]
            if len(rivals) > 1:
                best = ious[rivals] == ious[rivals].amax(dim=0)  # [R, A]
                first = best.cumsum(dim=0, dtype=torch.int32) == 1  # of equal ones
                rights[rivals] = best & first
    return rights


def _most_confident(confidence: Tensor, ious: Tensor, pools: Tensor, k: int) -> _Ranked:
    """The first k anchors of each pool by falling confidence, equal ones by index.

    Args:
        confidence: [G, A] of each anchor in each instance's class.
        ious: [G, A].
        pools: [G, A], boolean.
        k: number of anchors.
    """
    pool_size = pools.sum(dim=1).cpu().numpy()
    scores, overlaps = (np.full((len(pools), k), np.nan) for _ in range(2))
    if pools.any():
        within = confidence.where(pools, -torch.inf)  # [G, A]
        # topk may return any of several equal scores; only its last value is used, as a bound for the sort.
        least = within.topk(min(k, within.shape[1])).values[:, -1:]  # [G, 1]
        instance, anchor = (pools & (within >= least)).nonzero(as_tuple=True)
        s, u = (values[instance, anchor].double().cpu().numpy() for values in (confidence, ious))
        row = instance.cpu().numpy()
        order = np.lexsort((-s, row))  # stable, and anchors are in order
        s, u, row = s[order], u[order], row[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)  # within the instance
        kept = place < k
        scores[row[kept], place[kept]], overlaps[row[kept], place[kept]] = s[kept], u[kept]
    return _Ranked(scores, overlaps, pool_size)


def _correlation(best: _Ranked, options: AlignmentOptions) -> np.ndarray:
    """[G] Pearson's correlation of scores and IoUs; nan where it is undefined."""
    correlations = np.full(len(best.scores), np.nan)
    sizes = np.minimum(best.pool_size, options.top_pcc)
    for size in np.unique(sizes[sizes > 1]):  # most have the largest
        rows = np.flatnonzero(sizes == size)
        x, y = best.scores[rows, :size], best.ious[rows, :size]
        varied = (np.ptp(x, axis=1) > 0) & (np.ptp(y, axis=1) > 0)
        x, y = x[varied], y[varied]
        if options.correlation == "rank":
            x, y = rankdata(x, axis=1), rankdata(y, axis=1)
        correlations[rows[varied]] = _pearson(x, y)
    return correlations


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[N] Pearson's correlation of the rows of [N, K]; SciPy's function would take most of the time."""
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (x, y))
    r = (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return r.clip(-1, 1)


def _mean_iou(best: _Ranked, top: int) -> np.ndarray:
    """[G] mean IoU of the first anchors; nan where there is none."""
    ious = best.ious[:, :top]
    count = np.minimum(best.pool_size, top)
    return np.divide(np.nansum(ious, axis=1), count, out=np.full(len(ious), np.nan), where=count > 0)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
