from collections import Counter

import matplotlib
import numpy as np
import pytest
import torch
from helpers.figures import text_of_pdf
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.text import Annotation

from tood.analysis.figures.files import save
from tood.analysis.figures.map_figures import (
    CLASSIFICATION,
    LOCALISATION,
    FigureRow,
    draw_figure1,
    draw_figure4,
)
from tood.analysis.figures.maps import instance_maps
from tood.analysis.figures.style import YELLOW
from tood.analysis.label_places import free_corner
from tood.models.common.dense_level import DenseLevel

SIZE = (64, 96)  # height and width of the input without padding
GT_BOXES = torch.tensor([[16.0, 16.0, 48.0, 48.0], [56.0, 16.0, 88.0, 48.0], [0.0, 0.0, 20.0, 20.0]])
GT_LABELS = torch.tensor([1, 1, 0])


def blank_levels(offset: float = 0.0, padded: tuple[int, int] = (64, 128)) -> list[DenseLevel]:
    """Levels of strides 8, 16 and 32 with scores 0 and the same poor box of the first instance."""
    levels = []
    for stride in (8, 16, 32):
        height, width = padded[0] // stride, padded[1] // stride
        rows, columns = torch.meshgrid(
            torch.arange(height), torch.arange(width), indexing="ij"
        )  # [H, W] each
        points = (torch.stack([columns, rows], dim=-1).reshape(-1, 2) + offset) * stride  # [H*W, 2]
        boxes = torch.tensor([16.0, 16.0, 48.0, 20.0]).repeat(height * width, 1)
        zeros = torch.zeros(height * width, 2)
        levels.append(DenseLevel(zeros, zeros.clone(), boxes, points.float(), (height, width), stride))
    return levels


def plant(levels, level, row, column, label=None, score=None, box=None, confidence=None):
    index = row * levels[level].grid[1] + column
    if score is not None:
        levels[level].scores[index, label] = score
    if confidence is not None:
        levels[level].confidence[index, label] = confidence
    if box is not None:
        levels[level].boxes[index] = torch.as_tensor(box)


def position(anchor) -> tuple[int, int, int]:
    return anchor.level, anchor.row, anchor.column


def maps_of(levels, instance=0, **options):
    return instance_maps(levels, GT_BOXES, GT_LABELS, instance, SIZE, **options)


def test_planted_peaks_are_found():
    levels = blank_levels()
    plant(levels, 1, 2, 3, label=1, score=0.7)
    plant(levels, 0, 4, 5, box=GT_BOXES[0])
    maps = maps_of(levels)
    assert position(maps.classification) == (1, 2, 3)
    assert maps.classification.point == (48.0, 32.0)
    assert maps.classification.box == (16.0, 16.0, 48.0, 20.0)
    assert maps.classification.score == pytest.approx(0.7)
    assert maps.classification.iou == pytest.approx(1 / 8)
    assert position(maps.localisation) == (0, 4, 5)
    assert maps.localisation.point == (40.0, 32.0)
    assert maps.localisation.iou == 1
    assert maps.distance == 8
    assert maps.levels[1].scores[2, 3] == pytest.approx(0.7)
    assert maps.levels[0].ious[4, 5] == 1
    assert maps.levels[0].ious[4, 4] == pytest.approx(1 / 8)


def test_one_anchor_may_be_best_for_both():
    levels = blank_levels(offset=0.5)
    plant(levels, 2, 1, 1, label=1, score=0.7, box=GT_BOXES[0])
    maps = maps_of(levels)
    assert maps.classification == maps.localisation
    assert maps.classification.point == (48.0, 48.0)
    assert maps.distance == 0


def test_iou_map_of_exact_boxes_is_one():
    levels = blank_levels()
    for level in levels:
        level.boxes[:] = GT_BOXES[1]
    assert all((level.ious == 1).all() for level in maps_of(levels, instance=1).levels)


def test_ties_go_to_the_first_anchor_of_the_finest_level():
    maps = maps_of(blank_levels())
    assert position(maps.classification) == position(maps.localisation) == (0, 0, 0)


def test_scores_of_other_instances_and_classes_do_not_count():
    levels = blank_levels()
    plant(levels, 0, 0, 0, label=1, score=0.9, box=GT_BOXES[1])  # owned by the other instance
    plant(levels, 0, 1, 1, label=1, score=0.8, box=[0.0, 50.0, 5.0, 55.0])  # touches none
    plant(levels, 0, 2, 2, label=0, score=0.7)  # another class
    plant(levels, 0, 3, 3, label=1, score=0.2)
    assert position(maps_of(levels).classification) == (0, 3, 3)
    assert position(maps_of(levels, instance=1).classification) == (0, 0, 0)


def test_best_localisation_may_belong_to_another_instance():
    shifted = GT_BOXES[0] + torch.tensor([4.0, 0.0, 4.0, 0.0])
    levels = blank_levels()
    plant(levels, 1, 1, 1, label=1, score=0.9, box=shifted)
    maps = instance_maps(levels, torch.stack([GT_BOXES[0], shifted]), torch.tensor([1, 1]), 0, SIZE)
    assert position(maps.classification) == (0, 0, 0)
    assert position(maps.localisation) == (1, 1, 1)
    assert maps.localisation.iou == pytest.approx(28 / 36)


def test_other_class_does_not_take_anchors():
    levels = blank_levels()
    plant(levels, 0, 3, 3, label=1, score=0.2, box=[10.0, 10.0, 20.0, 20.0])  # mostly instance 2's
    assert position(maps_of(levels).classification) == (0, 3, 3)


def test_no_anchor_no_maps():
    assert maps_of(blank_levels(), instance=1) is None


def test_confidence_is_a_variant():
    levels = blank_levels()
    plant(levels, 0, 3, 3, label=1, score=0.9, confidence=0.1)
    plant(levels, 1, 1, 1, label=1, score=0.3, confidence=0.2)
    assert position(maps_of(levels).classification) == (0, 3, 3)
    maps = maps_of(levels, use_confidence=True)
    assert position(maps.classification) == (1, 1, 1)
    assert maps.classification.score == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("offset", "shapes"), [(0.0, [(8, 12), (4, 6), (2, 3)]), (0.5, [(8, 12), (4, 6), (2, 3)])]
)
def test_maps_and_best_anchors_leave_out_the_padding(offset, shapes):
    levels = blank_levels(offset)
    plant(levels, 0, 3, 12, label=1, score=0.9, box=GT_BOXES[0])  # beyond the width
    plant(levels, 0, 3, 11, label=1, score=0.3)
    maps = maps_of(levels)
    assert [level.scores.shape for level in maps.levels] == shapes
    assert [level.ious.shape for level in maps.levels] == shapes
    assert maps.levels[0].origin == (8 * offset, 8 * offset)
    assert position(maps.classification) == (0, 3, 11)
    assert maps.localisation.iou < 1


def test_a_level_may_be_all_padding():
    levels = blank_levels(offset=0.5)
    maps = instance_maps(levels, GT_BOXES, GT_LABELS, 0, (12, 12))
    assert [level.scores.size for level in maps.levels] == [1, 1, 0]


def test_a_location_with_several_anchors_shows_the_highest_of_each():
    one = blank_levels(offset=0.5)
    doubled = [
        level._replace(
            **{
                name: getattr(level, name).repeat_interleave(2, 0)
                for name in ("scores", "confidence", "boxes", "points")
            }
        )
        for level in one
    ]
    doubled = [level._replace(scores=level.scores.clone()) for level in doubled]
    width = doubled[0].grid[1]
    first = 2 * (1 * width + 3)  # of the two anchors in row 1, column 3
    doubled[0].scores[first, 1], doubled[0].scores[first + 1, 1] = 0.2, 0.6
    doubled[0].boxes[first] = GT_BOXES[0]
    maps = maps_of(doubled)
    assert position(maps.classification) == position(maps.localisation) == (0, 1, 3)
    assert (maps.classification.score, maps.localisation.iou) == (pytest.approx(0.6), 1)
    assert maps.levels[0].scores.shape == (8, 12)
    assert maps.levels[0].scores[1, 3] == pytest.approx(0.6)
    assert maps.levels[0].ious[1, 3] == 1


def figure_rows() -> list[FigureRow]:
    apart, together = blank_levels(), blank_levels(offset=0.5)
    plant(apart, 1, 2, 3, label=1, score=0.7)
    plant(apart, 0, 4, 2, box=GT_BOXES[0])
    plant(together, 2, 1, 1, label=1, score=0.7, box=GT_BOXES[0])
    image = np.full((*SIZE, 3), 128, dtype=np.uint8)
    return [
        FigureRow(name, image, maps_of(levels), GT_BOXES.numpy(), 0, ["pizza", "pizza", "dog"])
        for name, levels in (("ATSS", apart), ("TOOD", together))
    ]


def outlines(axes: Axes) -> list[tuple]:
    """Colour and (x1, y1, x2, y2) of the boxes drawn as outlines."""
    found = []
    for patch in axes.patches:
        if not patch.get_fill():
            (x1, y1), (x2, y2) = patch.get_bbox().get_points()
            found.append((patch.get_edgecolor(), (x1, y1, x2, y2)))
    return found


def cells(axes: Axes) -> list[tuple]:
    """Colour without opacity, and centre, of the cells drawn around best anchors."""
    filled = [patch for patch in axes.patches if patch.get_fill()]
    return [(patch.get_facecolor()[:3], tuple(patch.get_center())) for patch in filled]


def arrows(axes: Axes) -> list[tuple]:
    """Ends of the arrows: where they start and where they point to."""
    return [(text.get_position(), text.xy) for text in axes.texts if getattr(text, "arrow_patch", None)]


def marks(axes: Axes) -> list[tuple]:
    """Marker and place of best anchors, without the centre of the object."""
    drawn = [(line.get_marker(), line.get_xydata()[0].tolist()) for line in axes.lines]
    return [(marker, tuple(place)) for marker, place in drawn if marker != "+"]


def colour(name: str) -> tuple:
    return to_rgba(name)


def test_figure_shows_the_maps_and_the_best_anchors_in_their_places():
    rows = figure_rows()
    figure = draw_figure1(rows)
    panels = [figure.axes[:3], figure.axes[3:]]
    for row, axes in zip(rows, panels, strict=True):
        assert np.array_equal(axes[0].images[0].get_array(), row.image)
        for panel in axes:
            assert (panel.get_xlim(), panel.get_ylim()) == ((0, SIZE[1]), (SIZE[0], 0))
        level = row.maps.levels[row.maps.classification.level]
        rows_, columns = level.scores.shape
        for panel, values in zip(axes[1:], (level.scores, level.ious), strict=True):
            (drawn,) = panel.images
            assert np.array_equal(drawn.get_array()[:rows_, :columns], values)
            # The middle of an anchor's pixel is where the anchor is.
            left, right, lower, upper = drawn.get_extent()
            shape = drawn.get_array().shape
            assert (left + level.stride / 2, upper + level.stride / 2) == level.origin
            assert ((right - left) / shape[1], (lower - upper) / shape[0]) == (level.stride, level.stride)
        assert axes[1].images[0].get_clim() == (0, pytest.approx(0.7))
        assert axes[2].images[0].get_clim() == (0, 1)

    truths = [(colour(YELLOW), tuple(box.tolist())) for box in (*GT_BOXES[1:], GT_BOXES[0])]
    of_score, of_iou = (16.0, 16.0, 48.0, 20.0), tuple(GT_BOXES[0].tolist())
    score, iou = colour(CLASSIFICATION.colour), colour(LOCALISATION.colour)
    apart, together = panels
    assert outlines(apart[0]) == [(iou, of_iou), (score, of_score), *truths]
    assert cells(apart[0]) == [(iou[:3], (16.0, 32.0)), (score[:3], (48.0, 32.0))]
    assert [marks(panel) for panel in apart] == [
        [("D", (16.0, 32.0)), ("o", (48.0, 32.0))],
        [("o", (48.0, 32.0))],
        [("D", (16.0, 32.0))],
    ]
    assert outlines(together[0]) == [(score, of_iou), *truths]
    assert cells(together[0]) == [(score[:3], (48.0, 48.0))]
    for panel in (*apart[1:], *together[1:]):
        assert outlines(panel) == truths[-1:]

    centre, away = (32.0, 32.0), (16.0, 32.0)
    # No arrow leads to the best-classified anchor of the first row: it is one stride away from the middle.
    assert [arrows(panel) for panel in apart] == [[(centre, away)], [], [(centre, away)]]
    assert not any(arrows(panel) for panel in together)


def test_figure_says_what_it_shows(tmp_path):
    save(draw_figure1(figure_rows()), tmp_path / "a.pdf")
    lines = text_of_pdf(tmp_path / "a.pdf").splitlines()
    words = [line.strip() for line in lines if line.strip()[:1].isalpha()]
    assert Counter(words) == Counter(
        [
            *("ATSS", "TOOD", "Result", "Result", "Score (stride 16)", "Score (stride 32)"),
            *("IoU (stride 16, best on 8)", "IoU (stride 32)"),
            *(
                "best score: score 0.70, IoU 0.12",
                "best IoU: score 0.00, IoU 1.00",
                "both: score 0.70, IoU 1.00",
            ),
            *["pizza"] * 2,
            "the object, and its centre",
            "other objects",
            "best score: the candidate with the highest score for the class, and its box S",
            "best IoU: the anchor with the highest IoU, and its box I",
            *("S", "I", "S, I"),
        ]
    )


def test_other_objects_have_the_names_of_their_classes():
    result = draw_figure1(figure_rows()).axes[0]
    names = [text.get_text().strip() for text in result.texts if not isinstance(text, Annotation)]
    assert names == ["pizza", "dog"]


def test_names_of_other_objects_cover_neither_the_object_nor_one_another():
    chosen, size, image = np.array([16.0, 16, 48, 48]), np.array([14.0, 5]), (64, 96)
    for box, place in (
        ([56, 16, 88, 48], (56, 16)),
        ([20, 20, 90, 60], (20, 55)),  # its upper left corner is on the object
        ([20, 2, 90, 40], (20, 2)),
        ([20, 20, 90, 40], (76, 20)),
        ([20, 20, 40, 40], None),  # it is on the object
        ([-9, -9, 30, 30], (0, 0)),
        ([90, 50, 99, 99], None),  # no room on the image
        ([60, 20, 62, 40], (60, 20)),  # wider than its box
    ):
        assert free_corner(np.array(box, dtype=float), size, [chosen], image) == place, box
    taken = [chosen, np.array([56.0, 16, 70, 21])]
    assert free_corner(np.array([56.0, 16, 88, 48]), size, taken, image) == (56, 43)


def test_figure_is_the_same_each_time(tmp_path):
    backend = matplotlib.get_backend()
    files = {suffix: [] for suffix in ("png", "pdf", "svg")}
    for run in ("a", "b"):
        for suffix, found in files.items():
            save(draw_figure1(figure_rows()), tmp_path / f"{run}.{suffix}")
            found.append((tmp_path / f"{run}.{suffix}").read_bytes())
    assert all(first == second for first, second in files.values())
    assert files["png"][0].startswith(b"\x89PNG")
    assert files["pdf"][0].startswith(b"%PDF")
    assert b"<svg" in files["svg"][0]
    assert matplotlib.get_backend() == backend


def test_the_scores_of_all_detectors_have_one_scale():
    first, second = figure_rows()
    for level in second.maps.levels:
        level.scores[:] *= 0.5
    for levels in ("best", "all"):
        figure = draw_figure1([first, second], levels=levels)
        of_scores = [axes for axes in figure.axes if axes.get_title().startswith("Score (")]
        tops = [axes.images[0].get_clim()[1] for axes in of_scores]
        assert tops == pytest.approx([0.7] * {"best": 2, "all": 6}[levels])


def test_figure_needs_a_row():
    with pytest.raises(ValueError, match="detector"):
        draw_figure1([])
    with pytest.raises(ValueError, match="object"):
        draw_figure4([])


def test_another_colour_map_is_drawn():
    for colors in ("jet", "viridis"):
        figure = draw_figure1(figure_rows(), colors)
        assert {image.get_cmap().name for axes in figure.axes for image in axes.images[:1]} >= {colors}
        assert [axes.images[0].get_cmap().name for axes in figure.axes[1:3]] == [colors, colors]


def test_all_levels_have_both_maps_with_one_scale_of_scores():
    rows = figure_rows()[:1]
    figure = draw_figure1(rows, levels="all")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "Result",
        "Score (stride 8)",
        "Score (stride 16, best)",
        "Score (stride 32)",
        "IoU (stride 8, best)",
        "IoU (stride 16)",
        "IoU (stride 32)",
    ]
    for index, level in enumerate(rows[0].maps.levels):
        for axes, values, limit in (
            (figure.axes[1 + index], level.scores, 0.7),
            (figure.axes[4 + index], level.ious, 1),
        ):
            (drawn,) = axes.images
            height, width = values.shape
            assert np.array_equal(drawn.get_array()[:height, :width], values)
            assert drawn.get_clim() == (0, pytest.approx(limit))


def test_figure_4_has_a_column_for_each_object_and_a_row_for_each_detector():
    rows = figure_rows()
    figure = draw_figure4([rows, rows[::-1], rows])
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes] == ["ATSS", "", "", "TOOD", "", ""]
    score = colour(CLASSIFICATION.colour)
    boxes = [[box for color, box in outlines(axes) if color == score] for axes in figure.axes]
    apart, together = (16.0, 16.0, 48.0, 20.0), tuple(GT_BOXES[0].tolist())
    assert boxes == [[apart], [together], [apart], [together], [apart], [together]]
