"""Where an object is classified best and where it is localised best: the numbers of Figures 1 and 4.

For one object, the score map holds every anchor's score for its class and the IoU map every anchor's IoU with
its box, on each level. `tood.analysis.map_figures` draws them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tood.analysis.alignment import AlignmentOptions, instance_pools
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
        """Pixels of the input image between the two best anchors, 0 if they are one.

        `tood.analysis.best_anchors` gives it in units of the object's size.
        """
        return math.dist(self.classification.point, self.localisation.point)


def instance_maps(
    levels: Sequence[DenseLevel],
    gt_boxes: Tensor,
    gt_labels: Tensor,
    instance: int,
    image_size: tuple[int, int],
    use_confidence: bool = False,
) -> InstanceMaps | None:
    """Map the score and the IoU of one instance over all anchors of an image (Figure 1).

    The best anchor for classification has the highest score of those that belong to the instance as
    in Table 6 (no other instance of the class overlaps their box more; IoU > 0): a score alone does
    not say which instance of the class it means. The best for localisation has the highest IoU of
    all. The first anchor, from the finest level on, wins ties.

    Args:
        levels: the head's predictions for the image, on its padded input.
        gt_boxes: [G, 4] instances of the image without crowds, (x1, y1, x2, y2) in input pixels.
        gt_labels: [G] integer classes.
        instance: index in gt_boxes.
        image_size: (height, width) of the input without padding; anchors beyond are left out.
        use_confidence: map what NMS ranks by instead of the classification score.

    Returns:
        The maps, or None where no anchor belongs to the instance.
    """
    boxes = torch.cat([level.boxes for level in levels])  # [A, 4]
    points = torch.cat([level.points for level in levels])  # [A, 2]
    label = int(gt_labels[instance])
    scores = torch.cat(
        [(level.confidence if use_confidence else level.scores)[:, label] for level in levels]
    )  # [A]
    all_ious, pools = instance_pools(boxes, points, gt_boxes, gt_labels, AlignmentOptions())
    ious = all_ious[instance]  # [A]
    height, width = image_size
    visible = (points < points.new_tensor([width, height])).all(dim=1)  # [A]
    pool = pools[instance] & visible  # [A]
    if not pool.any():
        return None

    sizes = [len(level.points) for level in levels]
    ends = np.cumsum(sizes)

    def best(values: Tensor, eligible: Tensor) -> BestAnchor:
        anchor = int(values.masked_fill(~eligible, -torch.inf).argmax())
        level = int(np.searchsorted(ends, anchor, side="right"))
        rows, columns = levels[level].grid
        # A location may have several anchors, which follow each other.
        place = (anchor - int(ends[level] - sizes[level])) // (sizes[level] // (rows * columns))
        return BestAnchor(
            level,
            *divmod(place, columns),
            tuple(points[anchor].tolist()),
            tuple(boxes[anchor].tolist()),
            float(scores[anchor]),
            float(ious[anchor]),
        )

    return InstanceMaps(
        [
            _crop(*maps)
            for maps in zip(levels, scores.split(sizes), ious.split(sizes), visible.split(sizes), strict=True)
        ],
        classification=best(scores, pool),
        localisation=best(ious, visible),
    )


def _crop(level: DenseLevel, scores: Tensor, ious: Tensor, visible: Tensor) -> LevelMaps:
    """Put the values of all anchors on their grid and keep the locations on the image, its top left part.

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
