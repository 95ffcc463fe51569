"""Figures 1 and 4 of the paper, drawn: results, score maps and IoU maps of detectors on one object."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, FigureBase
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from tood.analysis.figures.files import shown_name
from tood.analysis.figures.maps import BestAnchor, InstanceMaps, LevelMaps
from tood.analysis.figures.style import AS_DRAWN, SKY, VERMILION, YELLOW
from tood.analysis.label_places import free_corner

COLORS = "viridis"  # it can be read in grey and by the colour-blind; the paper has "jet"


class Look(NamedTuple):
    """How a best anchor and its box are drawn; the shapes tell them apart without colours."""

    name: str
    colour: str
    marker: str
    dashes: str | tuple
    letter: str  # at its box
    corner: tuple[float, float]  # of the box, where the letter is


CLASSIFICATION = Look("best score", VERMILION, "o", "-", "S", (1, 0))
LOCALISATION = Look("best IoU", SKY, "D", (0, (8, 2, 2, 2)), "I", (1, 1))
_TRUTH: dict[str, Any] = {"ec": YELLOW, "linewidth": 1.6, "linestyle": (0, (4, 4))}
_OTHERS: dict[str, Any] = {"ec": YELLOW, "linewidth": 1, "linestyle": ":"}
_NAME_SIZE = 7  # points, of the classes of other objects
_PANEL = 2.4  # inches of the narrowest panel with a result
_CENTRE: dict[str, Any] = {
    "marker": "+",
    "markersize": 9,
    "markeredgewidth": 2,
    "markeredgecolor": "white",
}


@dataclass(frozen=True)
class FigureRow:
    """One detector on one object."""

    detector: str
    image: np.ndarray  # [H, W, 3] uint8, RGB, at the network's input resolution, unpadded
    maps: InstanceMaps
    gt_boxes: np.ndarray  # [G, 4] (x1, y1, x2, y2), pixels of `image`
    instance: int  # index in gt_boxes
    names: Sequence[str]  # [G] classes of the objects

    @property
    def class_name(self) -> str:
        """Class of the object that is shown."""
        return self.names[self.instance]


def draw_figure1(
    rows: Sequence[FigureRow], colors: str = COLORS, levels: Literal["best", "all"] = "best"
) -> Figure:
    """Figure 1: a row for each detector with the result, the map of scores and the map of IoUs.

    The maps show the level of the best classification anchor. If the best localisation anchor is on another
    level, the title of the IoU map says so. With "all" there are maps of each level, a row of scores above a
    row of IoUs. White arrows lead from the object's centre to the best anchor. The colours of scores range
    from 0 to the highest value in the maps of all detectors, those of IoUs over [0, 1].

    Args:
        rows: one for each detector.
        colors: name of matplotlib's colour map.
        levels: which levels have maps.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("Figure 1 needs a detector")
    if levels == "all":
        return _all_levels(rows, colors)
    aspects = [_aspect(row) for row in rows]
    top = _highest([row.maps.levels[row.maps.classification.level] for row in rows])
    # Panels are `_PANEL` wide, without labels and colour bars; a row has a title above it and values below.
    figure = Figure(figsize=(9, sum(_PANEL * a + 1.1 for a in aspects) + 1), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False, height_ratios=aspects)
    for row, (result, *panels) in zip(rows, axes, strict=True):
        _draw_result(result, row)
        _name(result, row)
        _draw_maps(panels, row, row.maps.classification.level, top, colors, every_level=False)
    _legend(figure, rows, "outside lower center", columns=1)
    return figure


def _all_levels(rows: Sequence[FigureRow], colors: str) -> Figure:
    """Figure 1 with the maps of all levels, except levels without an anchor on the image."""
    width, gap = 2.6, 0.6  # inches of a panel and of its titles
    columns = 1 + max(len(row.maps.levels) for row in rows)
    heights = [width * _aspect(row) + gap for row in rows]
    legend = 0.7  # inches
    figure = Figure(figsize=(width * columns + 0.6, 2 * sum(heights) + legend), layout="constrained")
    ratios = [*(2 * height for height in heights), legend]
    *parts, below = figure.subfigures(len(rows) + 1, 1, squeeze=False, height_ratios=ratios)[:, 0]
    top = _highest([level for row in rows for level in row.maps.levels])
    for row, part in zip(rows, parts, strict=True):
        axes = part.subplots(2, columns, squeeze=False)
        axes[1, 0].remove()
        _draw_result(axes[0, 0], row)
        _name(axes[0, 0], row)
        for index, (upper, lower) in enumerate(axes[:, 1:].T):
            if index < len(row.maps.levels) and row.maps.levels[index].scores.size:
                _draw_maps([upper, lower], row, index, top, colors, every_level=True)
            else:
                upper.remove()
                lower.remove()
    _legend(below, rows, "center")
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
    size = (max(height * sum(ratios) + 0.6, 5.5), (height + 0.85) * len(cases[0]) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(cases[0]), len(cases), squeeze=False, width_ratios=ratios)
    for column, rows in enumerate(cases):
        for panel, row in zip(axes[:, column], rows, strict=True):
            _draw_result(panel, row)
            panel.set_title("")
        for panel, row in zip(axes[:, 0], cases[0], strict=True):
            _name(panel, row)
    shown = [row for rows in cases for row in rows]
    _legend(figure, shown, "outside lower center", columns=2 if size[0] > 9 else 1)
    return figure


def _name(axes: Axes, row: FigureRow) -> None:
    """Write the name of the detector, with its own line breaks, beside its first panel."""
    name = "\n".join(map(shown_name, row.detector.splitlines()))
    axes.set_ylabel(name, fontsize=13, fontweight="bold")


def _aspect(row: FigureRow) -> float:
    """Height of the image by its width."""
    return row.image.shape[0] / row.image.shape[1]


def _highest(levels: Sequence[LevelMaps]) -> float:
    """The highest score in maps, so that all have one scale."""
    return max(float(level.scores.max(initial=0)) for level in levels)


def _draw_result(axes: Axes, row: FigureRow) -> None:
    """Draw the image, both best anchors with their boxes and values, and true boxes."""
    classified, localised = row.maps.classification, row.maps.localisation
    height, width = row.image.shape[:2]
    axes.imshow(row.image, extent=(0, width, height, 0))  # boxes count from pixels' edges
    same = classified == localised
    marks = (
        [(classified, CLASSIFICATION)] if same else [(localised, LOCALISATION), (classified, CLASSIFICATION)]
    )
    for anchor, look in marks:
        _outline(axes, anchor.box, ec=look.colour, linewidth=3, linestyle=look.dashes)
        x, y = anchor.point
        stride = row.maps.levels[anchor.level].stride
        cell = (x - stride / 2, y - stride / 2)
        axes.add_patch(Rectangle(cell, stride, stride, fc=to_rgba(look.colour, 0.6), ec="black", lw=0.5))
    _draw_others(axes, row)
    # Dashed and on top, so that a good prediction under it stays visible.
    _outline(axes, row.gt_boxes[row.instance], **_TRUTH)
    _arrows(axes, row, [anchor for anchor, _ in marks])
    for anchor, look in marks:
        _mark(axes, anchor, look)
        _letter(axes, anchor, look, "S, I" if same else look.letter)
    _frame(axes, row.image, "Result")
    values = [
        f"{'both' if same else look.name}: score {anchor.score:.2f}, IoU {anchor.iou:.2f}"
        for anchor, look in reversed(marks)
    ]
    axes.set_xlabel("\n".join([shown_name(row.class_name), *values]), fontsize=10)


def _draw_maps(
    panels: Sequence[Axes], row: FigureRow, index: int, top: float, colors: str, every_level: bool
) -> None:
    """Draw the map of scores and the map of IoUs of one level, each pixel its nearest anchor.

    Args:
        panels: one for each map.
        index: of the level.
        top: score of the last colour.
        every_level: all levels have maps, so that a best anchor is marked on its own level alone.
    """
    levels, level = row.maps.levels, row.maps.levels[index]
    left, upper = (centre - level.stride / 2 for centre in level.origin)
    maps = (
        ("Score", level.scores, top, row.maps.classification, CLASSIFICATION),
        ("IoU", level.ious, 1.0, row.maps.localisation, LOCALISATION),
    )
    for axes, (name, values, highest, best, look) in zip(panels, maps, strict=True):
        # The last cells may end before the image does, so there is one more; the frame cuts off the surplus.
        cells = np.pad(values, ((0, 1), (0, 1)), mode="edge")
        right, lower = left + cells.shape[1] * level.stride, upper + cells.shape[0] * level.stride
        drawn = axes.imshow(cells, cmap=colors, vmin=0, vmax=highest, extent=(left, right, lower, upper))
        _outline(axes, row.gt_boxes[row.instance], **_TRUTH)
        marked = [best] if best.level == index or not every_level else []
        _arrows(axes, row, marked)
        for anchor in marked:
            _mark(axes, anchor, look)
        where = ", best" if marked else ""
        if not every_level:
            where = f", best on {levels[best.level].stride}" if best.level != index else ""
        _frame(axes, row.image, f"{name} (stride {level.stride}{where})")
        axes.figure.colorbar(drawn, cax=axes.inset_axes((1.02, 0, 0.04, 1)))


def _outline(axes: Axes, box: Sequence[float], **style: Any) -> None:
    """Draw the outline of a box (x1, y1, x2, y2), with a dark rim to stand on any background."""
    x1, y1, x2, y2 = (float(side) for side in box)
    rim: list[AbstractPathEffect] = [withStroke(linewidth=style["linewidth"] + 1.2, foreground="black")]
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style)).set_path_effects(rim)


def _draw_others(axes: Axes, row: FigureRow) -> None:
    """Outline the other objects. Their classes are named where that covers neither the object nor a name."""
    point = row.image.shape[1] / (_PANEL * 72)  # pixels, at most
    taken = [row.gt_boxes[row.instance]]
    for index, (box, name) in enumerate(zip(row.gt_boxes, row.names, strict=True)):
        if index == row.instance:
            continue
        _outline(axes, box, **_OTHERS)
        text = shown_name(name)
        size = np.array([0.62 * (len(text) + 1), 1.3]) * _NAME_SIZE * point  # letters are less wide than high
        if place := free_corner(box, size, taken, row.image.shape[:2]):
            taken.append(np.array([*place, *(place + size)]))
            drawn = axes.text(*place, f" {text}", color="white", fontsize=_NAME_SIZE, va="top", clip_on=True)
            drawn.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _letter(axes: Axes, anchor: BestAnchor, look: Look, letters: str) -> None:
    """Name the box of a best anchor at one of its corners, as far as it is on the image."""
    (left, right), (lower, upper) = axes.get_xlim(), axes.get_ylim()
    x1, y1, x2, y2 = anchor.box
    (across, down), inner = look.corner, 3.0  # points from the image's edge
    x, y = min(max(x1 + across * (x2 - x1), left), right), min(max(y1 + down * (y2 - y1), upper), lower)
    axes.annotate(
        letters,
        (x, y),
        xytext=(-inner if across else inner, inner if down else -inner),
        textcoords="offset points",
        ha="right" if across else "left",
        va="bottom" if down else "top",
        color="black",
        fontsize=8,
        fontweight="bold",
        bbox={"facecolor": look.colour, "edgecolor": "black", "linewidth": 0.5, "pad": 1.2},
        zorder=7,
    )


def _mark(axes: Axes, anchor: BestAnchor, look: Look) -> None:
    """The marker of a best anchor."""
    axes.plot(*anchor.point, color=look.colour, zorder=6, **_marker(look))


def _marker(look: Look) -> dict[str, Any]:
    return {"marker": look.marker, "markersize": 8, "markeredgecolor": "white", "markeredgewidth": 1.2}


def _arrows(axes: Axes, row: FigureRow, anchors: Sequence[BestAnchor]) -> None:
    """Mark the instance's centre and point from it to anchors that are not beside it."""
    x1, y1, x2, y2 = (float(side) for side in row.gt_boxes[row.instance])
    centre = ((x1 + x2) / 2, (y1 + y2) / 2)
    rim = [withStroke(linewidth=3.5, foreground="black")]
    look = {"color": "white", "linewidth": 2, "path_effects": rim}
    for anchor in anchors:
        if math.dist(anchor.point, centre) > row.maps.levels[anchor.level].stride:
            style = {"arrowstyle": "-|>", "mutation_scale": 14, "shrinkA": 7, "shrinkB": 7}
            axes.annotate("", anchor.point, centre, arrowprops={**look, **style})
    axes.plot(*centre, color="white", zorder=5, **_CENTRE)


def _legend(figure: FigureBase, rows: Sequence[FigureRow], place: Any, columns: int = 2) -> None:
    """What boxes and marks are; without other objects in the rows they are not named."""
    entries: dict[str, dict[str, Any]] = {
        "the object, and its centre": {"color": YELLOW, "linestyle": _TRUTH["linestyle"], **_CENTRE}
    }
    for look, what in (
        (CLASSIFICATION, "candidate with the highest score for the class"),
        (LOCALISATION, "anchor with the highest IoU"),
    ):
        label = f"{look.name}: the {what}, and its box {look.letter}"
        entries[label] = {"color": look.colour, "linestyle": look.dashes, **_marker(look)}
    if any(len(row.gt_boxes) > 1 for row in rows):
        entries["other objects"] = {"color": YELLOW, "linestyle": ":"}
    rim = [withStroke(linewidth=3.5, foreground="black")]
    legend = figure.legend(
        handles=[
            Line2D([], [], label=label, linewidth=2.2, path_effects=rim, **look)
            for label, look in entries.items()
        ],
        loc=place,
        ncols=columns,
        frameon=False,
        handlelength=4,
        fontsize=10,
    )
    for handle in filter(None, legend.legend_handles):
        handle.set_gid(AS_DRAWN)


def _frame(axes: Axes, image: np.ndarray, title: str) -> None:
    """Show exactly the image's extent, without ticks."""
    height, width = image.shape[:2]
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], title=title)
