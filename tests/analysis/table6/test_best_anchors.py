"""Best anchors of all objects: against the maps they are of, and on anchors whose density is told by hand."""

import json
import math

import numpy as np
import pytest
import torch
from helpers.initial_runs import analyse_run, draw_dataset, initial_run
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from tood.analysis.table6.anchors import Anchors, anchors_of
from tood.analysis.table6.best_anchors import (
    BINS,
    BestAnchors,
    ObjectRecord,
    object_records,
    score_iou_density,
)
from tood.evaluation.trained_run import load_trained
from tood.models.common.dense_level import DenseLevel
from tood.study.jobs import Execution

CPU = Execution(device="cpu")


def sample_of(boxes: list, labels: list[int], crowds: list | None = None) -> DetDataSample:
    """An image of 100 x 100 pixels with objects and crowds."""
    sample = DetDataSample(metainfo={"img_shape": (100, 100), "img_id": 7})
    sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels))
    if crowds is not None:
        sample.ignored_instances = InstanceData(bboxes=torch.tensor(crowds).reshape(-1, 4))
    return sample


def level_of(anchors: list[tuple[float, float, list[float]]], label: int = 0) -> DenseLevel:
    """One level of one row: a score for a class of two, an x, and a box, per anchor; confidence is half."""
    scores = torch.zeros(len(anchors), 2)
    scores[:, label] = torch.tensor([score for score, _, _ in anchors])
    return DenseLevel(
        scores,
        scores / 2,
        torch.tensor([box for _, _, box in anchors]),
        torch.tensor([[x, 50.0] for _, x, _ in anchors]),
        (1, len(anchors)),
        8,
    )


def anchors(sample: DetDataSample, level: DenseLevel) -> Anchors:
    return anchors_of([level], sample.gt_instances.bboxes, sample.gt_instances.labels)


def records_of(sample: DetDataSample, level: DenseLevel) -> list[ObjectRecord]:
    return object_records(sample, anchors(sample, level))


def density_of(sample: DetDataSample, level: DenseLevel) -> np.ndarray:
    return score_iou_density(anchors(sample, level))


BOX = [10.0, 10.0, 50.0, 50.0]
HALF = [10.0, 10.0, 50.0, 30.0]


def test_an_object_by_hand():
    level = level_of([(0.9, 10.0, HALF), (0.1, 30.0, BOX)])
    (found,) = records_of(sample_of([BOX], [0]), level)
    assert found == (
        7,
        0,
        0,
        pytest.approx(0.16),
        False,
        pytest.approx(20 / 40),
        pytest.approx(0.9),
        pytest.approx(0.5),
        pytest.approx(1.0),
    )


def test_an_object_that_no_box_touches_has_no_best_anchor():
    level = level_of([(0.9, 10.0, [60.0, 60.0, 70.0, 70.0])])
    (found,) = records_of(sample_of([BOX], [0]), level)
    assert found[4:] == (False, None, None, None, None)


@pytest.mark.parametrize(
    ("boxes", "labels", "crowds", "crowded"),
    [
        ([BOX, [49.0, 49.0, 60.0, 60.0]], [0, 0], None, [True, True]),
        ([BOX, [49.0, 49.0, 60.0, 60.0]], [0, 1], None, [False, False]),
        ([BOX, [50.0, 50.0, 60.0, 60.0]], [0, 0], None, [False, False]),
        ([BOX], [0], [[0.0, 0.0, 11.0, 11.0]], [True]),
        ([BOX], [0], [[0.0, 0.0, 10.0, 10.0]], [False]),
    ],
)
def test_crowded_is_what_a_crowd_or_another_of_its_class_overlaps(boxes, labels, crowds, crowded):
    level = level_of([(0.9, 10.0, BOX)])
    found = records_of(sample_of(boxes, labels, crowds), level)
    assert [one.crowded for one in found] == crowded


def test_the_density_is_of_the_most_confident_anchors_of_each_object():
    # Confidence .45 and IoU .5; confidence .05 and IoU 1; an anchor that belongs to none
    level = level_of([(0.9, 10.0, HALF), (0.1, 30.0, BOX), (0.8, 40.0, [60.0, 60.0, 70.0, 70.0])])
    counts = density_of(sample_of([BOX], [0]), level)
    assert sorted(map(tuple, np.argwhere(counts).tolist())) == [
        (int(0.05 * BINS), BINS - 1),
        (int(0.45 * BINS), BINS // 2),
    ]
    many = level_of([(0.9, 10.0, HALF)] * 60 + [(0.1, 30.0, BOX)])
    counts = density_of(sample_of([BOX], [0]), many)
    assert counts.sum() == counts[int(0.45 * BINS), BINS // 2] == 50


def test_an_image_without_objects_adds_nothing():
    found = BestAnchors()
    nothing = sample_of([], [])
    found.add(nothing, anchors(nothing, level_of([(0.9, 10.0, BOX)])))
    assert found.to_json([7])["objects"]["distance"] == []
    assert found.density.sum() == 0


def test_a_run_is_measured_over_its_images(tmp_path):
    job = initial_run(draw_dataset(tmp_path), "atss_af", images=4)
    found = json.loads(analyse_run(job, tmp_path).best_anchors.read_text())
    trained = load_trained(job, CPU)
    numbers = [len(trained.dataset[index]["data_samples"].gt_instances) for index in range(4)]
    ids = [trained.dataset.get_data_info(index)["img_id"] for index in range(4)]
    assert found["objects"]["image_id"] == [
        one for one, n in zip(ids, numbers, strict=True) for _ in range(n)
    ]
    distances = [one for one in found["objects"]["distance"] if one is not None]
    assert len(set(distances)) > 3
    assert all(0 <= one < 64 * math.sqrt(2) for one in distances)
    assert 0 < np.sum(found["density"]) <= 50 * sum(numbers)
