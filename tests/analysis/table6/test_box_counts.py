import contextlib
import io
import json
from copy import deepcopy

import numpy as np
import pytest
from helpers.coco_results import near_annotations, random_dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tood.analysis.table6.box_counts import KINDS, CountOptions, count_boxes

DEFAULT = CountOptions()


def truth(*boxes, crowd=(), categories=None) -> dict:
    """Annotations of image 1: boxes xywh, the indices in `crowd` crowds, category 1 by default."""
    return {
        "images": [{"id": 1}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": categories[i] if categories else 1,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": int(i in crowd),
            }
            for i, box in enumerate(boxes)
        ],
    }


def detect(box, score=0.9, category=1) -> dict:
    return {"image_id": 1, "category_id": category, "bbox": list(box), "score": score}


def kinds(gt, detections, options=DEFAULT) -> dict:
    """Counts without their zeros."""
    return {kind: n for kind, n in count_boxes(gt, detections, options).items() if n}


def reference(gt: dict, detections: list[dict], class_aware: bool = True) -> tuple[int, int, int]:
    """True positives, ignored and all detections as pycocotools counts them at IoU .5."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = deepcopy(gt)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(deepcopy(detections)), "bbox")
        evaluator.params.iouThrs = np.array([0.5])
        evaluator.params.areaRng = [[0, 1e10]]
        evaluator.params.maxDets = [100]
        evaluator.params.useCats = int(class_aware)
        evaluator.evaluate()
    images = [image for image in evaluator.evalImgs if image is not None]
    matched = np.concatenate([image["dtMatches"][0] for image in images]) > 0
    ignored = np.concatenate([image["dtIgnore"][0] for image in images]).astype(bool)
    return int((matched & ~ignored).sum()), int(ignored.sum()), len(matched)


def test_duplicate_is_redundant():
    box = (10, 10, 20, 20)
    assert kinds(truth(box), [detect(box), detect(box, 0.8)]) == {"correct": 1, "redundant": 1}


@pytest.mark.parametrize(
    ("height", "kind"),
    [(50, "correct"), (49, "error"), (30, "error"), (10, "background"), (5, "background")],
)
def test_kind_by_overlap(height, kind):
    # Slices of a 100 x 100 instance: IoU is height / 100.
    assert kinds(truth((0, 0, 100, 100)), [detect((0, 0, 100, height))]) == {kind: 1}


def test_wrong_class_is_background_unless_classes_do_not_matter():
    box = (10, 10, 20, 20)
    wrong = [detect(box, category=2)]
    assert kinds(truth(box), wrong) == {"background": 1}
    assert kinds(truth(box), wrong, CountOptions(class_aware=False)) == {"correct": 1}


def test_a_box_takes_the_best_of_the_free_instances():
    gt = truth((0, 0, 10, 10), (2, 0, 10, 10))
    near_both = detect((1.5, 0, 10, 10), 0.9)  # nearer to the second, and good for the first
    assert kinds(gt, [near_both, detect((0, 0, 10, 10), 0.8)]) == {"correct": 2}
    assert kinds(gt, [near_both, detect((2, 0, 10, 10), 0.8)]) == {"correct": 2}
    assert kinds(gt, [near_both] * 3) == {"correct": 2, "redundant": 1}


def test_of_equal_overlaps_the_last_instance_is_taken_as_in_coco():
    gt = truth((0, 0, 10, 10), (4, 0, 10, 10))
    first = detect((2, 0, 10, 10), 0.9)  # IoU 2/3 with both
    detections = [first, detect((-3, 0, 10, 10), 0.8)]  # IoU 7/13 with the first only
    assert kinds(gt, detections) == {"correct": 2}
    assert reference(gt, detections) == (2, 0, 2)


def test_boxes_in_a_crowd_are_ignored_unless_it_is_dropped():
    gt = truth((0, 0, 100, 100), crowd=[0])
    inside, half, outside = (10, 10, 5, 5), (95, 0, 10, 10), (96, 0, 10, 10)
    detections = [detect(inside), detect(inside), detect(half), detect(outside)]
    assert kinds(gt, detections) == {"ignored": 3, "background": 1}
    assert kinds(gt, detections, CountOptions(crowd="drop")) == {"background": 4}


def test_an_instance_goes_before_the_crowd_around_it_and_the_crowd_before_its_duplicates():
    gt = truth((0, 0, 100, 100), (10, 10, 20, 20), crowd=[0])
    detections = [detect((10, 10, 20, 20), 0.9), detect((10, 10, 20, 20), 0.8)]
    assert kinds(gt, detections) == {"correct": 1, "ignored": 1}
    assert reference(gt, detections) == (1, 1, 2)
    assert kinds(gt, detections, CountOptions(crowd="drop")) == {"correct": 1, "redundant": 1}


def test_score_threshold_is_strict():
    box = (0, 0, 10, 10)
    detections = [detect(box, 0.05), detect(box, 0.06)]
    assert kinds(truth(box), detections, CountOptions(score_threshold=0.05)) == {"correct": 1}


def test_limit_keeps_the_highest_scores_of_an_image_and_class():
    box = (0, 0, 10, 10)
    detections = [detect((50, 50, 5, 5), 0.5), detect(box, 0.9), detect(box, 0.5, category=2)]
    limit = CountOptions(max_per_image=1)
    assert kinds(truth(box), detections, limit) == {"correct": 1, "background": 1}
    agnostic = CountOptions(max_per_image=1, class_aware=False)
    assert kinds(truth(box), detections, agnostic) == {"correct": 1}


def test_nothing_detected():
    assert count_boxes(truth((0, 0, 1, 1)), [], DEFAULT) == dict.fromkeys(KINDS, 0)


@pytest.mark.parametrize("field", ["image_id", "category_id"])
def test_detections_elsewhere_are_refused(field):
    with pytest.raises(ValueError, match=field):
        count_boxes(truth((0, 0, 1, 1)), [{**detect((0, 0, 1, 1)), field: 99}], DEFAULT)


def test_unknown_crowd_reading_is_refused():
    with pytest.raises(ValueError, match="crowd"):
        CountOptions(crowd="keep")


@pytest.mark.parametrize("crowded", [False, True], ids=["few boxes", "above the limit"])
@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_pycocotools_on_random_images(seed, crowded):
    gt, detections = random_dataset(seed, crowded=crowded, images=8 if crowded else 30)
    counts = count_boxes(gt, detections, DEFAULT)
    assert (counts["correct"], counts["ignored"], sum(counts.values())) == reference(gt, detections)
    assert min(counts.values()) > 0  # every kind occurs
    assert counts["correct"] <= sum(not a["iscrowd"] for a in gt["annotations"])


@pytest.mark.parametrize("seed", range(5))
def test_class_agnostic_counts_equal_pycocotools(seed):
    gt, detections = random_dataset(seed)
    for rank, detection in enumerate(detections):
        detection["score"] += rank * 1e-6  # the order of ties is COCO's own there
    counts = count_boxes(gt, detections, CountOptions(class_aware=False))
    expected = reference(gt, detections, class_aware=False)
    assert (counts["correct"], counts["ignored"], sum(counts.values())) == expected


@pytest.mark.parametrize("seed", range(10))
def test_more_boxes_never_lower_correct(seed):
    gt, detections = random_dataset(seed, images=5)
    unlimited = CountOptions(max_per_image=None)
    rng = np.random.default_rng(seed)
    counts = count_boxes(gt, detections, unlimited)
    for index in rng.integers(len(detections), size=20):
        # A duplicate or a lower-scoring copy, as weaker suppression leaves it.
        factor = rng.choice([1.0, 0.5])
        copy = {**detections[index], "score": detections[index]["score"] * factor}
        detections = [*detections, copy]
        more = count_boxes(gt, detections, unlimited)
        assert more["correct"] >= counts["correct"]
        assert sum(more.values()) == len(detections)
        counts = more


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_counts_equal_pycocotools_on_real_annotations(real_images, split):
    gt = json.loads((real_images / f"annotations/instances_{split}.json").read_text())
    detections = near_annotations(gt)
    counts = count_boxes(gt, detections, DEFAULT)
    assert (counts["correct"], counts["ignored"], sum(counts.values())) == reference(gt, detections)
    assert min(counts.values()) > 0
