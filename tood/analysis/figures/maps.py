"""Where an object is classified best and where it is localised best: the numbers of Figures 1 and 4.

For one object, the score map holds every anchor's score for its class and the IoU map every anchor's IoU with
its box, on each level. `tood.analysis.figures.map_figures` draws them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tood.analysis.table6.alignment import AlignmentOptions
from tood.analysis.table6.anchors import Anchors, anchors_of
from tood.models.common.dense_level import DenseLevel


class LevelMaps(NamedTuple):
    """One instance on one level, without the anchors on the input's padding."""

    scores: np.ndarray  # [H, W] in [0, 1]
    ious: np.ndarray  # [H, W] in [0, 1]
    stride: int  # pixels
    origin: tuple[float, float]  # centre (x, y) of the top left anchor, pixels


class BestAnchor(NamedTuple):
    """An anchor of one level and its prediction for the instance; pixels of the input image."""

    level: int
    row: int
    column: int
    point: tuple[float, float]  # (x, y)
    box: tuple[float, float, float, float]  # (x1, y1, x2, y2)
    score: float
    iou: float


@dataclass(frozen=True)
class InstanceMaps:
    """Everything Figure 1 shows of one instance under one detector."""

    levels: list[LevelMaps]
    classification: BestAnchor
    localisation: BestAnchor

    @property
    def distance(self) -> float:
        """Between the two best anchors, as the function of this name."""
        return distance(self.classification, self.localisation)


def distance(anchor: BestAnchor, other: BestAnchor) -> float:
    """Pixels of the input image between two anchors, 0 if they are one.

    `tood.analysis.table6.best_anchors` gives it in units of the object's size.
    """
    return math.dist(anchor.point, other.point)


class ImageAnchors:
    """Where the objects of an image are classified best and localised best.

    Args:
        anchors: of the image, on its padded input.
        image_size: (height, width) of the input without padding; anchors beyond are left out.
        use_confidence: map the confidence, by which NMS ranks, instead of the classification score.
    """

    def __init__(self, anchors: Anchors, image_size: tuple[int, int], use_confidence: bool = False) -> None:
        self.levels, self._boxes, self._points, instances = anchors
        self._scores = torch.cat(
            [
                (level.confidence if use_confidence else level.scores)[:, instances.labels.long()]
                for level in self.levels
            ]
        ).T  # [G, A]
        self._ious = instances.ious  # [G, A]
        height, width = image_size
        self._visible = (self._points < self._points.new_tensor([width, height])).all(dim=1)  # [A]
        self._pools = instances.of(AlignmentOptions()) & self._visible  # [G, A]
        self._sizes = [len(level.points) for level in self.levels]
        self._ends = np.cumsum(self._sizes)

    def best(self, instance: int) -> tuple[BestAnchor, BestAnchor] | None:
        """Where an instance is classified best and localised best; None if no anchor belongs to it.

        The best anchor for classification has the highest score of those that belong to the instance as in
        Table 6 (no other instance of the class overlaps their box more; IoU > 0): a score alone does not tell
        which instance of the class it is for. The best anchor for localisation has the highest IoU of all
        anchors. The first anchor, from the finest level on, wins ties.
        """
        pool = self._pools[instance]
        if not pool.any():
            return None
        return (
            self._highest(self._scores[instance], pool, instance),
            self._highest(self._ious[instance], self._visible, instance),
        )

    def maps(self, instance: int) -> InstanceMaps | None:
        """The score and the IoU of an instance over all anchors (Figure 1); None as for `best`."""
        if (best := self.best(instance)) is None:
            return None
        values = (self._scores[instance], self._ious[instance], self._visible)
        by_level = zip(self.levels, *(value.split(self._sizes) for value in values), strict=True)
        return InstanceMaps([_crop(*level) for level in by_level], *best)

    def _highest(self, values: Tensor, eligible: Tensor, instance: int) -> BestAnchor:
        anchor = int(values.masked_fill(~eligible, -torch.inf).argmax())
        level = int(np.searchsorted(self._ends, anchor, side="right"))
        rows, columns = self.levels[level].grid
        size = self._sizes[level]
        # A location may have several anchors, which follow each other.
        place = (anchor - int(self._ends[level] - size)) // (size // (rows * columns))
        return BestAnchor(
            level,
            *divmod(place, columns),
            tuple(self._points[anchor].tolist()),
            tuple(self._boxes[anchor].tolist()),
            float(self._scores[instance, anchor]),
            float(self._ious[instance, anchor]),
        )


def instance_maps(
    levels: Sequence[DenseLevel],
    gt_boxes: Tensor,
    gt_labels: Tensor,
    instance: int,
    image_size: tuple[int, int],
    use_confidence: bool = False,
) -> InstanceMaps | None:
    """The maps of only one instance, by its index in gt_boxes.

    Other arguments as for `anchors_of` and `ImageAnchors`.
    """
    return ImageAnchors(anchors_of(levels, gt_boxes, gt_labels), image_size, use_confidence).maps(instance)


def _crop(level: DenseLevel, scores: Tensor, ious: Tensor, visible: Tensor) -> LevelMaps:
    """Put the values of all anchors on their grid, and keep its top left part, which is on the image.

    Of several anchors per location, each map shows the highest value.
    """

    def on_grid(values: Tensor) -> Tensor:
        return values.reshape(*level.grid, -1).amax(2)  # [H*W*anchors] to [H, W]

    seen = on_grid(visible)
    rows, columns = int(seen.any(dim=1).sum()), int(seen.any(dim=0).sum())
    return LevelMaps(
        on_grid(scores)[:rows, :columns].cpu().numpy(),
        on_grid(ious)[:rows, :columns].cpu().numpy(),
        level.stride,
        tuple(level.points[0].tolist()),
    )
