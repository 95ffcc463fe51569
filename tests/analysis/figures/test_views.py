"""Views of Table 6's runs: their numbers by hand, and that the drawings hold these numbers."""

import json

import numpy as np
import pandas as pd
import pytest

from tood.analysis.figures.style import of_methods, series
from tood.analysis.figures.views import (
    ap_by_iou,
    best_anchors,
    caption_density,
    caption_distances,
    cumulative,
    draw_ap_by_iou,
    draw_box_kinds,
    draw_density,
    draw_distances,
    draw_views,
    kinds_by_confidence,
    misplaced,
)
from tood.analysis.table6.box_counts import KINDS
from tood.evaluation.detection import coco_ap
from tood.study.paths import RunPaths


def truth() -> dict:
    """Two images, an object each."""
    boxes = {1: [10, 10, 40, 40], 2: [20, 20, 50, 50]}
    return {
        "images": [{"id": image, "width": 100, "height": 100} for image in boxes],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [
            {"id": image, "image_id": image, "category_id": 1, "bbox": box, "area": 1600, "iscrowd": 0}
            for image, box in boxes.items()
        ],
    }


def detection(image: int, box: list[float], score: float) -> dict:
    return {"image_id": image, "category_id": 1, "bbox": box, "score": score}


EXACT = detection(1, [10, 10, 40, 40], 0.9)
HALF = detection(2, [20, 20, 50, 34], 0.8)  # IoU 0.68
AGAIN = detection(1, [10, 10, 40, 38], 0.3)
POOR = detection(2, [20, 20, 50, 10], 0.31)  # IoU 0.2
AWAY = detection(2, [80, 80, 10, 10], 1.0)


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(truth()))
    return path


def test_the_distribution_counts_objects_without_best_anchors():
    values = np.array([0.1, 0.5, np.nan, 0.3])
    assert cumulative(values, np.array([0, 0.1, 0.4, 9])).tolist() == [0, 0.25, 0.5, 0.75]
    assert cumulative(np.array([]), np.array([1.0])).tolist() == [0]


def test_distances_are_drawn_and_summed_up():
    columns = {
        "distance": [0.1, 0.5, None, 0.3],
        "localised": [0.9, 0.8, None, 1.0],
        "classified": [0.9, 0.6, None, 0.5],
    }
    first = best_anchors(pd.DataFrame(columns))
    assert first["lost"].tolist() == pytest.approx([0, 0.2, np.nan, 0.5], nan_ok=True)
    objects = {"a": {0: first, 1: first}, "b": {0: first + 0.5, 1: first + 0.5}}
    for axes, column in zip(draw_distances(objects).axes, ("distance", "lost"), strict=True):
        for line, seeds in zip(axes.lines, objects.values(), strict=True):
            assert np.array_equal(line.get_ydata(), cumulative(seeds[0][column].to_numpy(), line.get_xdata()))
    assert draw_distances(objects).axes[0].lines[1].get_ydata()[-1] == 0.75  # one has no best anchors
    text = caption_distances({name: {0: seeds[0]} for name, seeds in objects.items()})
    assert "Mean distance: a 0.300; b 0.800. Mean IoU lost: a 0.233; b 0.733." in text
    assert " 4 objects each." in text
    assert " a has its best anchors closest together. a loses the least IoU. If several" in text
    assert "closest together in every seed. a loses the least IoU in every seed." in caption_distances(
        objects
    )
    mixed = {"a": {0: first, 1: first + 1}, "b": objects["b"]}  # none is the best of each seed
    assert "closest together" not in caption_distances(mixed)
    assert text.endswith("because of objects that no predicted box of their class touches (a 1; b 1).")
    assert "8 objects each" in caption_distances(objects)
    assert "ends below 1" not in caption_distances({"a": {0: first.dropna()}})
    far = pd.DataFrame({"distance": [0.1, 2.5], "lost": [0, 0.1]})
    assert caption_distances({"a": {0: far}}).endswith("because of objects beyond its end (a 1).")


def test_runs_are_compared_seed_by_seed_whatever_their_order():
    """In seed 1 everything is farther apart; in each seed a is closer together than b."""
    near, far = (pd.DataFrame({"distance": [value] * 4, "lost": [value] * 4}) for value in (0.2, 0.6))
    runs = {"a": {0: near, 1: far}, "b": {1: far + 0.1, 0: near + 0.1}}
    closest = "a has its best anchors closest together in every seed"
    assert f"{closest}. a loses" in caption_distances(runs)
    assert f"{closest} that all have. a" in caption_distances(runs | {"b": {1: far + 0.1, 2: near}})
    assert "closest together" not in caption_distances({"a": {0: near, 1: far}, "b": {2: far}})


def test_the_band_of_a_line_reaches_from_the_lowest_seed_to_the_highest():
    frames = (pd.DataFrame({"distance": [value] * 4, "lost": [value] * 4}) for value in (0.2, 0.6))
    seeds = dict(enumerate(frames))
    band = draw_distances({"a": seeds}).axes[0].collections[0].get_paths()[0]
    between = band.vertices[(band.vertices[:, 0] > 0.25) & (band.vertices[:, 0] < 0.55)]
    assert set(between[:, 1]) == {0, 1}


def test_ap_falls_at_the_threshold_that_a_box_misses(annotations):
    found = ap_by_iou(annotations, [1, 2], [EXACT, HALF])
    assert found.index.tolist() == [round(0.5 + 0.05 * step, 2) for step in range(10)]
    assert found[:0.65].tolist() == pytest.approx([100] * 4)
    # Precision 1 up to a recall of one half: 51 of the 101 points of recall
    assert found[0.7:].tolist() == pytest.approx([100 * 51 / 101] * 6)


@pytest.mark.parametrize("found", [[], [EXACT, HALF, AGAIN, POOR]])
def test_the_mean_over_thresholds_is_ap(annotations, found):
    curve, whole = ap_by_iou(annotations, [1, 2], found), coco_ap(annotations, found, [1, 2])
    assert curve.mean() == pytest.approx(whole["AP"])
    assert (curve[0.5], curve[0.75]) == (pytest.approx(whole["AP50"]), pytest.approx(whole["AP75"]))
    only = ap_by_iou(annotations, [2], [HALF])
    assert only[0.5] == pytest.approx(100)


def test_boxes_are_counted_by_kind_and_confidence():
    counts = kinds_by_confidence(truth(), [1, 2], [EXACT, HALF, AGAIN, POOR, AWAY])
    kinds = {(KINDS[kind], part): counts[kind, part] for kind, part in np.argwhere(counts).tolist()}
    assert kinds == {
        ("correct", 18): 1,
        ("correct", 16): 1,
        ("redundant", 6): 1,
        ("error", 6): 1,
        ("background", 19): 1,
    }
    # The object of an image that was not evaluated is no object.
    assert kinds_by_confidence(truth(), [1], [EXACT])[KINDS.index("correct")].sum() == 1


def test_misplaced_anchors_are_confident_and_badly_localised():
    counts = np.zeros((4, 4), dtype=int)
    counts[3, 0], counts[2, 1], counts[2, 2], counts[1, 0] = 1, 2, 5, 9
    assert misplaced(counts) == (3, 8)
    text = caption_density({"a": counts, "b": counts * 0})
    assert "a 37.5 % of 8; b no such score" in text


def test_the_density_is_drawn_with_the_iou_upwards():
    counts = np.zeros((50, 50), dtype=int)
    counts[10, 40] = 3
    counts[20, 5] = 1
    figure = draw_density({"a": counts, "b": counts, "c": counts})
    drawn = figure.axes[0].images[0].get_array()
    assert (drawn[40, 10], drawn[5, 20]) == (0.75, 0.25)  # [IoU, score]
    assert drawn.mask.sum() == 2498
    assert [axes.get_title() for axes in figure.axes[:3]] == ["a", "b", "c"]


def test_curves_and_counts_are_drawn():
    index = pd.Index([0.5, 0.75])
    (axes,) = draw_ap_by_iou({"a": [pd.Series([40.0, 20.0], index), pd.Series([50.0, 30.0], index)]}).axes
    assert axes.lines[0].get_ydata().tolist() == [45, 25]
    counts = np.arange(100).reshape(5, 20)
    *panels, _ = draw_box_kinds({"a": counts, "b": 2 * counts}).axes
    assert [axes.get_title() for axes in panels] == list(KINDS)
    for axes, of_kind in zip(panels, counts, strict=True):
        assert [line.get_ydata().tolist() for line in axes.lines] == [
            of_kind.tolist(),
            (2 * of_kind).tolist(),
        ]
    first, other = panels[0].lines
    assert first.get_xdata()[:2].tolist() == pytest.approx([0.025, 0.075])  # of [0, 0.05], [0.05, 0.1]
    assert first.get_marker() != other.get_marker()  # told apart without colours
    # No box, no marker
    assert first.get_markevery() == list(range(1, 20))


def test_a_method_looks_the_same_in_every_figure():
    named = of_methods(["T-head + TAL", "Parallel head + ATSS"])
    assert of_methods(["ATSS", "x", "TOOD"]) == {
        "ATSS": named["Parallel head + ATSS"],
        "x": next(series()),
        "TOOD": named["T-head + TAL"],
    }
    assert next(series()) not in of_methods(["ATSS", "T-head + ATSS", "TAL", "TOOD"]).values()


@pytest.mark.parametrize(("others", "said"), [((0, 1), "2 seeds"), ((0, 1, 2), "2 to 3 seeds")])
def test_every_view_and_its_caption_are_written(annotations, tmp_path, others, said):
    runs = {}
    for name, seeds in (("a", (0, 1)), ("b", others)):
        runs[name] = [RunPaths(tmp_path / name / f"seed{seed}") for seed in seeds]
        for paths in runs[name]:
            paths.folder.mkdir(parents=True)
            objects = {"distance": [0.5, None], "localised": [0.9, None], "classified": [0.8, None]}
            density = np.eye(50, dtype=int).tolist()
            paths.best_anchors.write_text(json.dumps({"objects": objects, "density": density}))
            paths.detections.write_text(json.dumps([EXACT, POOR]))
            paths.evaluated_images.write_text(json.dumps([1, 2]))
    draw_views(runs, annotations, tmp_path / "figures")
    for name in ("distances", "score_iou", "ap_by_iou", "box_kinds"):
        assert (tmp_path / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"figures/{name}_dark.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"figures/{name}.pdf").read_bytes().startswith(b"%PDF")
        text = (tmp_path / f"figures/{name}.md").read_text()
        assert text.startswith("**")
        assert text.split("\n\n")[0].strip().endswith(f" Over {said}.")
    assert "| a | 1 | 0 | 0 | 1 | 0 |\n" in text
