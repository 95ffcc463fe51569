"""Detections by class: AP and curves against pycocotools, confusions by hand."""

import contextlib
import io
import json
import math
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from helpers.coco_results import near_annotations, random_dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tood.analysis.figures.per_class import by_ap, draw_ap, draw_confusion, draw_curves, with_curves
from tood.analysis.per_class import confusion, measure
from tood.evaluation.detection import coco_ap

NAMES = {1: "disc", 2: "ring", 3: "$5 bill"}


def named(truth: dict) -> dict:
    return truth | {"categories": [{"id": id_, "name": name} for id_, name in NAMES.items()]}


def by_pycocotools(path, detections: list[dict], image_ids: list[int]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(deepcopy(detections)), "bbox")
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize("near", [False, True])
def test_values_and_curves_are_those_of_pycocotools(tmp_path, near):
    truth, detections = random_dataset(3)
    detections = near_annotations(truth) if near else detections
    path, images = tmp_path / "val.json", list(range(1, 21))  # of 30
    path.write_text(json.dumps(named(truth)))
    found = measure(path, detections, images, 0.3, 0.5)
    expected = by_pycocotools(path, detections, images)
    precision = expected.eval["precision"][..., 0, -1]  # [T, R, K]
    recall = expected.eval["recall"][..., 0, -1]
    values = found.metrics.set_index("category_id")
    for place, id_ in enumerate(NAMES):
        of_class = [precision[:, :, place].mean(), *(precision[at, :, place].mean() for at in (0, 5))]
        measured = values.loc[id_, ["AP", "AP50", "AP75", "AR"]].to_list()
        assert measured == pytest.approx([100 * one for one in (*of_class, recall[:, place].mean())])
        curve = found.curves[(found.curves["category_id"] == id_) & (found.curves["metric"] == "AP75")]
        assert curve["precision"].to_numpy() == pytest.approx(precision[5, :, place], abs=1e-4)
        assert curve["recall"].to_numpy() == pytest.approx(np.linspace(0, 1, 101))
    assert values["AP"].mean() == pytest.approx(coco_ap(path, detections, images)["AP"])
    counted = [a for a in truth["annotations"] if a["image_id"] <= 20 and not a["iscrowd"]]
    assert values["objects"].to_dict() == {
        id_: sum(a["category_id"] == id_ for a in counted) for id_ in NAMES
    }
    assert values["images"].to_dict() == {
        id_: len({a["image_id"] for a in counted if a["category_id"] == id_}) for id_ in NAMES
    }


def test_a_class_without_an_object_has_no_value(tmp_path):
    truth, detections = random_dataset(0)
    truth["annotations"] = [entry for entry in truth["annotations"] if entry["category_id"] != 2]
    (tmp_path / "val.json").write_text(json.dumps(named(truth)))
    found = measure(tmp_path / "val.json", detections, list(range(1, 31)), 0.3, 0.5)
    values = found.metrics.set_index("class")
    assert values.loc["ring", ["images", "objects"]].to_list() == [0, 0]
    assert values.loc["ring", ["AP", "AP50", "AR"]].isna().all()
    assert values.loc["disc", "AP"] > 0
    assert with_curves(found.metrics.assign(run="a", seed=0)) != by_ap(found.metrics)
    assert by_ap(found.metrics)[-1] == "ring"


def thing(image: int, category: int, x: float, **more) -> dict:
    """An object or a detection of 10 x 10 pixels."""
    return {"image_id": image, "category_id": category, "bbox": [x, 0, 10, 10], **more}


OBJECTS = [
    thing(1, 1, 0),
    thing(1, 2, 20),
    thing(1, 3, 40),
    thing(1, 3, 60, iscrowd=1),
    thing(2, 1, 0),
    thing(9, 1, 0),  # on an image that does not count
]
FOUND = [
    thing(1, 1, 0, score=0.9),  # right
    thing(1, 2, 0, score=0.8),  # a second one on the same object
    thing(1, 3, 21, score=0.7),  # another class: IoU 9 / 11
    thing(1, 2, 20, score=0.6),  # comes too late for it
    thing(1, 3, 46, score=0.9),  # IoU 4 / 16: of no object
    thing(1, 2, 61, score=0.9),  # in the crowd region: IoF 0.9
    thing(2, 1, 0, score=0.2),  # below the least score
    thing(9, 1, 0, score=0.9),
]


def test_confusions_by_hand():
    truth = named({"images": [{"id": id_} for id_ in (1, 2, 9)], "annotations": OBJECTS})
    found = confusion(truth, FOUND, [1, 2], 0.3, 0.5)
    assert found.tolist() == [
        [1, 0, 0, 1],  # disc: one on image 2 is missed
        [0, 0, 1, 0],  # ring: taken for a bill
        [0, 0, 0, 1],  # bill: missed
        [0, 2, 1, 0],  # no object
    ]
    assert confusion(truth, FOUND[::-1], [1, 2], 0.3, 0.5).tolist() == found.tolist()
    assert confusion(truth, FOUND, [1, 2], 0.1, 0.5)[0].tolist() == [2, 0, 0, 0]
    assert confusion(truth, FOUND, [1, 2], 0.3, 0.2)[2].tolist() == [0, 0, 1, 0]
    assert confusion(truth, [], [1, 2], 0.3, 0.5)[:, -1].tolist() == [2, 1, 1, 0]


def test_equal_values_over_seeds_have_a_bar_of_no_length():
    """The mean of three times 0.1 is above 0.1 by its last digit, and no bar may have a negative length."""
    values = pd.DataFrame({"run": "tood_af", "seed": [0, 1, 2], "class": "disc", "AP": 0.1})
    (axes,) = draw_ap(values).axes
    (bar,) = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 0] == pytest.approx([0.1, 0.1])


def test_figures_have_every_class_and_run(tmp_path):
    truth, detections = random_dataset(1)
    (tmp_path / "val.json").write_text(json.dumps(named(truth)))
    found = measure(tmp_path / "val.json", detections, list(range(1, 31)), 0.3, 0.5)
    runs = [("atss_af", 0), ("atss_af", 1), ("tood_af", 0)]
    values = pd.concat(found.metrics.assign(run=run, seed=seed, AP=40 + 10 * seed) for run, seed in runs)
    curves = pd.concat(found.curves.assign(run=run, seed=seed) for run, seed in runs)
    (axes,) = draw_ap(values).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(NAMES.values())[::-1]
    means = [container.lines[0].get_xdata().tolist() for container in axes.containers]
    assert means == [[45] * 3, [40] * 3]
    panels = draw_curves(curves, with_curves(values), "AP50").axes
    assert [axes.get_title() for axes in panels] == with_curves(values)
    assert all(len(axes.lines) == 2 for axes in panels)
    matrix, _ = draw_confusion(found.confusion, list(NAMES.values())).axes
    numbers = {text.get_position(): int(text.get_text().replace(",", "")) for text in matrix.texts}
    assert numbers == {
        (column, row): count for (row, column), count in np.ndenumerate(found.confusion) if count
    }
    shown = np.asarray(matrix.images[0].get_array())
    assert shown.sum(axis=1) == pytest.approx(found.confusion.any(axis=1).astype(float))


def test_of_many_classes_the_best_and_the_worst_have_curves():
    import pandas as pd

    values = pd.DataFrame({"class": [f"c{number}" for number in range(20)], "AP": [*range(19), math.nan]})
    shown = with_curves(values)
    assert shown == [f"c{number}" for number in (18, 17, 16, 15, 14, 13, 5, 4, 3, 2, 1, 0)]
