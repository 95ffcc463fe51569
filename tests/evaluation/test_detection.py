"""Detections of a model on a dataset, and their COCO AP."""

import json
import math

import pytest
import torch
from helpers.odd_images import ODD, ODD_IMAGES, VAL, odd_dataset, write_images
from helpers.short_trainings import CPU, configured, initialised

from tood.evaluation.detection import AP_NAMES, coco_ap, dense_predictions, detect
from tood.models.common.dense_level import DenseLevel

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def perfect(images=ODD_IMAGES) -> list[dict]:
    return [
        {"image_id": image, "category_id": category, "bbox": box, "score": 0.9}
        for image, (_, listed) in images.items()
        for category, *box, crowd in listed
        if not crowd
    ]


def test_perfect_detections_have_an_ap_of_100(odd):
    metrics = coco_ap(odd / VAL.annotations, perfect(), list(ODD_IMAGES))
    assert tuple(metrics) == AP_NAMES
    for name in ("AP", "AP50", "AP75", "APS", "APM"):
        assert metrics[name] == pytest.approx(100)
    assert math.isnan(metrics["APL"])  # there is no object of 96 x 96 pixels


def test_no_detections_have_an_ap_of_0(odd):
    nothing = coco_ap(odd / VAL.annotations, [], list(ODD_IMAGES))
    wrong = [{"image_id": 5, "category_id": 2, "bbox": [0, 0, 9, 9], "score": 0.5}]
    for metrics in (nothing, coco_ap(odd / VAL.annotations, wrong, list(ODD_IMAGES))):
        assert metrics["AP"] == metrics["AP50"] == metrics["AP75"] == metrics["APM"] == 0
        assert math.isnan(metrics["APL"])


def test_only_the_given_images_count(odd):
    some = [d for d in perfect() if d["image_id"] in (31, 12, 8)]
    assert coco_ap(odd / VAL.annotations, some, [8, 31, 12])["AP"] == pytest.approx(100)
    assert coco_ap(odd / VAL.annotations, some, list(ODD_IMAGES))["AP"] < 90
    assert coco_ap(odd / VAL.annotations, perfect(), [31])["AP"] == pytest.approx(100)


@pytest.fixture
def omniscient(odd, monkeypatch):
    """A model that finds every object, in the pixels of its input, and its test images."""
    dataset = odd_dataset(odd, None, size=(160, 120))
    truth = {dataset[i]["data_samples"].img_id: dataset[i]["data_samples"] for i in range(len(dataset))}
    model = initialised(configured("tood_af", categories=ODD))

    def dense_by_feat(*outs, batch_img_metas, clip):
        levels = []
        for meta in batch_img_metas:
            objects = truth[meta["img_id"]].gt_instances
            scores = torch.nn.functional.one_hot(objects.labels, 3) * 0.9
            boxes = objects.bboxes.tensor
            levels.append([DenseLevel(scores, scores, boxes, boxes[:, :2], (1, len(boxes)), 8)])
        return levels

    monkeypatch.setattr(model.bbox_head, "dense_by_feat", dense_by_feat)
    return model, dataset


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 0), (3, 2)])
def test_detections_are_in_original_pixels_and_categories(omniscient, odd, batch_size, workers):
    model, dataset = omniscient
    found, image_ids = detect(
        model, dataset, device=CPU, label="test", batch_size=batch_size, workers=workers
    )
    assert image_ids == list(ODD_IMAGES)
    assert all(type(value) in (int, float) for detection in found for value in detection["bbox"])
    assert json.loads(json.dumps(found)) == found

    def order(entry):
        return entry["image_id"], entry["category_id"]

    for detection, truth in zip(sorted(found, key=order), sorted(perfect(), key=order), strict=True):
        assert order(detection) == order(truth)
        assert detection["bbox"] == pytest.approx(truth["bbox"], abs=1e-3)
        assert detection["score"] == pytest.approx(0.9)
    assert coco_ap(odd / VAL.annotations, found, image_ids)["AP"] == pytest.approx(100)


def test_detecting_on_some_images(omniscient):
    model, dataset = omniscient
    found, image_ids = detect(model, dataset, device=CPU, label="test", batch_size=2, indices=range(3))
    assert image_ids == list(ODD_IMAGES)[:3]
    assert {detection["image_id"] for detection in found} == {31, 12}


@pytest.mark.parametrize("run", ["tood_af", "atss_af"])
def test_real_predictions_stay_within_their_image(odd, run):
    model = initialised(configured(run, {"model.test_cfg.score_thr": 0.0}, ODD))
    dataset = odd_dataset(odd, None, size=(160, 120))
    found, _ = detect(model, dataset, device=CPU, label="test", batch_size=4)
    assert {detection["image_id"] for detection in found} == set(ODD_IMAGES)
    assert {detection["category_id"] for detection in found} <= {2, 7, 90}
    for detection in found:
        (width, height), _ = ODD_IMAGES[detection["image_id"]]
        x, y, w, h = detection["bbox"]
        assert min(x, y, w, h) >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3


def test_dense_predictions_and_objects_are_in_input_pixels(odd):
    model = initialised(configured("tood_af", categories=ODD))
    dataset = odd_dataset(odd, None, size=(160, 120))
    ids = []
    for sample, levels in dense_predictions(model, dataset, device=CPU, label="test", indices=[0, 2, 4]):
        ids.append(sample.img_id)
        (_, height), listed = ODD_IMAGES[sample.img_id]
        scale = sample.img_shape[0] / height
        assert scale > 1.2
        corners = [[x, y, x + w, y + h] for _, x, y, w, h, crowd in listed if not crowd]
        expected = scale * torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        torch.testing.assert_close(sample.gt_instances.bboxes, expected, rtol=0, atol=1)
        assert [level.stride for level in levels] == [4, 8, 16]
        for level in levels:
            assert len(level.scores) == len(level.boxes) == len(level.points) == math.prod(level.grid)
            assert level.grid[0] == math.ceil(sample.batch_input_shape[0] / level.stride)
    assert ids == [31, 5, 44]


def test_predictions_do_not_depend_on_the_batch(tmp_path):
    """Images of one size go together, so that none is padded for another; results are in the file's order."""
    model = initialised(configured("tood_af", {"model.test_cfg.score_thr": 0.0}, ODD))
    ids, sizes = (9, 4, 7, 5, 8), ((96, 64), (48, 80))
    images = {image: (sizes[number % 2], [(2, 4, 8, 30, 30, 0)]) for number, image in enumerate(ids)}
    dataset = odd_dataset(write_images(tmp_path / "images", images), None, size=(160, 120))
    levels, found = [], []
    for size in (1, 2):
        seen: dict = {}

        def observe(sample, dense, seen=seen) -> None:
            assert tuple(sample.batch_input_shape) == tuple(sample.pad_shape)
            seen[sample.img_id] = dense

        found.append(detect(model, dataset, device=CPU, label="", batch_size=size, observe=observe))
        levels.append(seen)
    alone, together = levels
    assert list(alone) == list(ids)
    assert list(together) == [9, 7, 4, 5, 8]
    for image, own in alone.items():
        for a, b in zip(own, together[image], strict=True):
            torch.testing.assert_close(a._asdict(), b._asdict(), rtol=1e-5, atol=1e-5)
    (one, one_ids), (other, other_ids) = found
    assert one_ids == other_ids == list(ids)
    assert [each["image_id"] for each in one] == [each["image_id"] for each in other]
