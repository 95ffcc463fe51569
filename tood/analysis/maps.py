"""Where an instance is classified best and where it is located best: Figure 1 (and 4) of the paper.

For one instance, the score map holds every anchor's score for its class and the IoU map every
anchor's IoU with its box, on each level. The figure shows the two best anchors, red and green, on
the image and the two maps of the level that classifies best.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from torch import Tensor

from tood.analysis.alignment import AlignmentOptions, instance_pools
from tood.models.common.dense_level import DenseLevel

TRUTH, CLASSIFICATION, LOCALISATION = "yellow", "red", "lime"


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

        Pixels, not object sizes or strides: inputs are about equally large, and the disagreement is
        to be seen in a figure, which those units would award to the smallest objects.
        """
        return math.dist(self.classification.point, self.localisation.point)


class Candidate(NamedTuple):
    """An instance that Figure 1 could show."""

    image_id: int
    annotation_id: int
    distance: float  # InstanceMaps.distance under the baseline detector


@dataclass(frozen=True)
class FigureRow:
    """One detector's row of Figure 1."""

    detector: str
    image: np.ndarray  # [H, W, 3] uint8, RGB, at the network's input resolution, unpadded
    maps: InstanceMaps
    gt_boxes: np.ndarray  # [G, 4] (x1, y1, x2, y2), pixels of `image`
    instance: int  # index in gt_boxes
    class_name: str


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
        offset = anchor - int(ends[level] - sizes[level])
        return BestAnchor(
            level,
            *divmod(offset, levels[level].grid[1]),
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


def choose_instance(
    candidates: Iterable[Candidate],
    classes: Mapping[int, Collection[int]] | None = None,
    prefer: Collection[int] = (),
) -> Candidate:
    """Choose what Figure 1 shows by rule, as the paper does not name its image.

    The rule: among images that have all classes of `prefer` (all images, if none has), the instance
    whose two best anchors are farthest apart under the baseline detector; of equals, the one of the
    lowest image id, then annotation id. Leave out instances that the baseline misses (a
    classification score below the test threshold), whose best anchor is anywhere.

    Args:
        candidates: the instances to choose from.
        classes: the category ids on each image id; needed with `prefer`.
        prefer: category ids wanted together on the image; the paper shows dining table and pizza.

    Raises:
        ValueError: there is no candidate.
    """

    def order(candidate: Candidate) -> tuple:
        lacks = not set(prefer) <= set((classes or {}).get(candidate.image_id, ()))
        return lacks, -candidate.distance, candidate.image_id, candidate.annotation_id

    return min(candidates, key=order)


def draw_figure1(rows: Sequence[FigureRow], path_png: Path, path_pdf: Path) -> None:
    """Draw Figure 1: a row for each detector, the columns Result, Score and IoU.

    Both maps are of the level with the best classification anchor; the title of IoU says so where
    the best localisation anchor is on another. White arrows lead from the instance's centre to the
    best anchor. Score ranges over what the map holds, IoU over [0, 1].

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("Figure 1 needs a detector")
    aspects = [row.image.shape[0] / row.image.shape[1] for row in rows]
    # 3.4 inches is a panel's width once labels and colorbars have theirs.
    figure = Figure(figsize=(12, sum(3.4 * a + 0.75 for a in aspects)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, height_ratios=aspects)
    for row, (result, score, iou) in zip(rows, axes, strict=True):
        red, green = row.maps.classification, row.maps.localisation
        level = row.maps.levels[red.level]
        away = "" if green.level == red.level else f", best on {row.maps.levels[green.level].stride}"
        _draw_result(result, row)
        _draw_map(score, row, level, level.scores, red, f"Score (stride {level.stride})", None)
        _draw_map(iou, row, level, level.ious, green, f"IoU (stride {level.stride}{away})", 1.0)
    figure.savefig(path_png, dpi=200)
    figure.savefig(path_pdf, dpi=200, metadata={"CreationDate": None})  # equal rows, equal file


def _crop(level: DenseLevel, scores: Tensor, ious: Tensor, visible: Tensor) -> LevelMaps:
    """Put [H*W] values on their grid and keep the anchors on the image, its top left part."""
    visible = visible.reshape(level.grid)  # [H, W]
    rows, columns = int(visible.any(dim=1).sum()), int(visible.any(dim=0).sum())
    return LevelMaps(
        scores.reshape(level.grid)[:rows, :columns].cpu().numpy(),  # [rows, columns]
        ious.reshape(level.grid)[:rows, :columns].cpu().numpy(),  # [rows, columns]
        level.stride,
        tuple(level.points[0].tolist()),
    )


def _draw_result(axes: Axes, row: FigureRow) -> None:
    """Draw the image, both best anchors with their boxes, and the true boxes."""
    red, green = row.maps.classification, row.maps.localisation
    height, width = row.image.shape[:2]
    axes.imshow(row.image, extent=(0, width, height, 0))  # boxes count from pixels' edges
    marks = [(green, LOCALISATION), (red, CLASSIFICATION)] if green != red else [(red, CLASSIFICATION)]
    for anchor, color in marks:
        _outline(axes, anchor.box, color, linewidth=2.5)
        x, y = anchor.point
        stride = row.maps.levels[anchor.level].stride
        cell = (x - stride / 2, y - stride / 2)
        axes.add_patch(Rectangle(cell, stride, stride, fc=to_rgba(color, 0.6), ec="black", lw=0.5))
    for index, box in enumerate(row.gt_boxes):
        if index != row.instance:
            _outline(axes, box, TRUTH, linewidth=1, linestyle=":")
    # Dashed and last: a good prediction lies under it and shows through.
    _outline(axes, row.gt_boxes[row.instance], TRUTH, linewidth=2, linestyle=(0, (5, 5)))
    _arrows(axes, row, [anchor for anchor, _ in marks])
    _frame(axes, row.image, "Result")
    axes.set_ylabel(row.detector, fontsize=15, fontweight="bold")
    names = ("green", "red") if green != red else ("both",)
    captions = [
        f"{name}: score {anchor.score:.2f}, IoU {anchor.iou:.2f}"
        for name, (anchor, _) in zip(names, marks, strict=True)
    ]
    axes.set_xlabel(f"{row.class_name}\n" + "; ".join(reversed(captions)), fontsize=10)


def _draw_map(
    axes: Axes,
    row: FigureRow,
    level: LevelMaps,
    values: np.ndarray,
    best: BestAnchor,
    title: str,
    top: float | None,
) -> None:
    """Draw one map, each pixel its nearest anchor, in colours from 0 to `top` (default: maximum)."""
    # The last cells may end before the image does; the frame cuts off what is too much.
    values = np.pad(values, ((0, 1), (0, 1)), mode="edge")
    left, upper = (centre - level.stride / 2 for centre in level.origin)
    right, lower = left + values.shape[1] * level.stride, upper + values.shape[0] * level.stride
    shown = axes.imshow(values, cmap="jet", vmin=0, vmax=top, extent=(left, right, lower, upper))
    _outline(axes, row.gt_boxes[row.instance], TRUTH, linewidth=2, linestyle=(0, (5, 5)))
    _arrows(axes, row, [best])
    _frame(axes, row.image, title)
    axes.figure.colorbar(shown, cax=axes.inset_axes((1.02, 0, 0.04, 1)))


def _outline(axes: Axes, box: Sequence[float], color: str, linewidth: float, **style: Any) -> None:
    """Draw the outline of a box (x1, y1, x2, y2), with a dark rim to stand on any background."""
    x1, y1, x2, y2 = (float(side) for side in box)
    rim: list[AbstractPathEffect] = [withStroke(linewidth=linewidth + 1, foreground="black")]
    outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=linewidth, **style)
    axes.add_patch(outline).set_path_effects(rim)


def _arrows(axes: Axes, row: FigureRow, anchors: Sequence[BestAnchor]) -> None:
    """Mark the instance's centre and point from it to anchors that are not beside it."""
    x1, y1, x2, y2 = (float(side) for side in row.gt_boxes[row.instance])
    centre = ((x1 + x2) / 2, (y1 + y2) / 2)
    rim = [withStroke(linewidth=3.5, foreground="black")]
    look = {"color": "white", "linewidth": 2, "path_effects": rim}
    for anchor in anchors:
        if math.dist(anchor.point, centre) > row.maps.levels[anchor.level].stride:
            style = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 0, "shrinkB": 7}
            axes.annotate("", anchor.point, centre, arrowprops={**look, **style})
    axes.plot(*centre, "o", color="white", markersize=5, markeredgecolor="black", zorder=5)


def _frame(axes: Axes, image: np.ndarray, title: str) -> None:
    """Show exactly the image's extent, without ticks."""
    height, width = image.shape[:2]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], title=title)
