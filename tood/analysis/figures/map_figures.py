"""Figures 1 and 4 of the paper, drawn: results, score maps and IoU maps of detectors on one object."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from tood.analysis.figures.files import shown_name
from tood.analysis.figures.maps import BestAnchor, InstanceMaps, LevelMaps

TRUTH, CLASSIFICATION, LOCALISATION = "yellow", "red", "lime"


@dataclass(frozen=True)
class FigureRow:
    """One detector on one object."""

    detector: str
    image: np.ndarray  # [H, W, 3] uint8, RGB, at the network's input resolution, unpadded
    maps: InstanceMaps
    gt_boxes: np.ndarray  # [G, 4] (x1, y1, x2, y2), pixels of `image`
    instance: int  # index in gt_boxes
    class_name: str


def draw_figure1(
    rows: Sequence[FigureRow], colors: str = "jet", levels: Literal["best", "all"] = "best"
) -> Figure:
    """Figure 1: a row for each detector with the result, the map of scores and the map of IoUs.

    The maps show the level of the best classification anchor. If the best localisation anchor is on another
    level, the title of the IoU map says so. With "all" there are maps of each level, a row of scores above a
    row of IoUs. White arrows lead from the object's centre to the best anchor. The colours of scores range
    over the values in the maps of a detector, those of IoUs over [0, 1].

    Args:
        rows: one for each detector.
        colors: name of matplotlib's colour map; the paper has "jet", "viridis" is perceptually uniform.
        levels: which levels have maps.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("Figure 1 needs a detector")
    if levels == "all":
        return _all_levels(rows, colors)
    aspects = [_aspect(row) for row in rows]
    # A panel is 3.4 inches wide, without labels and colour bars.
    figure = Figure(figsize=(12, sum(3.4 * a + 0.75 for a in aspects)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, height_ratios=aspects)
    for row, (result, score, iou) in zip(rows, axes, strict=True):
        red, green = row.maps.classification, row.maps.localisation
        level = row.maps.levels[red.level]
        away = "" if green.level == red.level else f", best on {row.maps.levels[green.level].stride}"
        _draw_result(result, row)
        result.set_ylabel(shown_name(row.detector), fontsize=15, fontweight="bold")
        _draw_map(score, row, level, level.scores, red, f"Score (stride {level.stride})", None, colors)
        _draw_map(iou, row, level, level.ious, green, f"IoU (stride {level.stride}{away})", 1.0, colors)
    return figure


def _all_levels(rows: Sequence[FigureRow], colors: str) -> Figure:
    """Figure 1 with the maps of all levels, except levels without an anchor on the image."""
    width, gap = 2.6, 0.55  # inches of a panel and of its titles
    columns = 1 + max(len(row.maps.levels) for row in rows)
    heights = [width * _aspect(row) + gap for row in rows]
    figure = Figure(figsize=(width * columns + 0.6, 2 * sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        axes = part.subplots(2, columns, squeeze=False)
        axes[1, 0].remove()
        _draw_result(axes[0, 0], row, apart="\n")
        axes[0, 0].set_ylabel(shown_name(row.detector), fontsize=15, fontweight="bold")
        top = max(float(level.scores.max(initial=0)) for level in row.maps.levels)
        best = row.maps.classification, row.maps.localisation
        for index in range(columns - 1):
            here = row.maps.levels[index : index + 1]
            for kind, panel in enumerate(axes[:, index + 1]):
                if not here or not here[0].scores.size:
                    panel.remove()
                    continue
                values, limit = (here[0].ious, 1.0) if kind else (here[0].scores, top)
                name = "IoU" if kind else "Score"
                marked = best[kind] if best[kind].level == index else None
                title = f"{name} (stride {here[0].stride}{', best' if marked else ''})"
                _draw_map(panel, row, here[0], values, marked, title, limit, colors)
    return figure


def draw_figure4(cases: Sequence[Sequence[FigureRow]]) -> Figure:
    """Figure 4: the results alone, a column for each object and a row for each detector.

    Args:
        cases: of each object the rows of all detectors, in the same order.

    Raises:
        ValueError: there is no object.
    """
    if not cases:
        raise ValueError("Figure 4 needs an object")
    ratios = [1 / _aspect(rows[0]) for rows in cases]  # panels of a row are equally high
    height = min(3.2, 15 / sum(ratios))
    size = (height * sum(ratios) + 0.6, (height + 0.85) * len(cases[0]))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(cases[0]), len(cases), squeeze=False, width_ratios=ratios)
    for column, rows in enumerate(cases):
        for panel, row in zip(axes[:, column], rows, strict=True):
            _draw_result(panel, row, apart="\n")
            panel.set_title("")
        for panel, row in zip(axes[:, 0], cases[0], strict=True):
            panel.set_ylabel(shown_name(row.detector), fontsize=15, fontweight="bold")
    return figure


def _aspect(row: FigureRow) -> float:
    """Height of the image by its width."""
    return row.image.shape[0] / row.image.shape[1]


def _draw_result(axes: Axes, row: FigureRow, apart: str = "; ") -> None:
    """Draw the image, both best anchors with their boxes, and true boxes; `apart` separates their values."""
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
    # Dashed and on top, so that a good prediction under it stays visible.
    _outline(axes, row.gt_boxes[row.instance], TRUTH, linewidth=2, linestyle=(0, (5, 5)))
    _arrows(axes, row, [anchor for anchor, _ in marks])
    _frame(axes, row.image, "Result")
    names = ("green", "red") if green != red else ("both",)
    captions = [
        f"{name}: score {anchor.score:.2f}, IoU {anchor.iou:.2f}"
        for name, (anchor, _) in zip(names, marks, strict=True)
    ]
    axes.set_xlabel(f"{shown_name(row.class_name)}\n" + apart.join(reversed(captions)), fontsize=10)


def _draw_map(
    axes: Axes,
    row: FigureRow,
    level: LevelMaps,
    values: np.ndarray,
    best: BestAnchor | None,
    title: str,
    top: float | None,
    colors: str,
) -> None:
    """Draw one map, each pixel its nearest anchor, in colours from 0 to `top` (default: maximum)."""
    # The last cells may end before the image does, so there is one more; the frame cuts off the surplus.
    values = np.pad(values, ((0, 1), (0, 1)), mode="edge")
    left, upper = (centre - level.stride / 2 for centre in level.origin)
    right, lower = left + values.shape[1] * level.stride, upper + values.shape[0] * level.stride
    shown = axes.imshow(values, cmap=colors, vmin=0, vmax=top, extent=(left, right, lower, upper))
    _outline(axes, row.gt_boxes[row.instance], TRUTH, linewidth=2, linestyle=(0, (5, 5)))
    _arrows(axes, row, [best] if best else [])
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
