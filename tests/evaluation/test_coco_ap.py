"""COCO AP equals that of pycocotools, COCO's own code, on random and on real annotations."""

import json
import math
from copy import deepcopy

import pytest
from helpers.coco_results import by_pycocotools, near_annotations, random_dataset

from tood.evaluation.detection import coco_ap


@pytest.mark.parametrize("crowded", [False, True], ids=["few boxes", "above the limit of 100"])
@pytest.mark.parametrize("seed", range(5))
def test_ap_equals_that_of_pycocotools_on_random_images(tmp_path, seed, crowded):
    """With crowds, ties of scores and of IoUs, and images that do not count."""
    gt, detections = random_dataset(seed, crowded=crowded)
    (tmp_path / "truth.json").write_text(json.dumps(gt))
    chosen = [image["id"] for image in gt["images"]][: 30 if seed else 20]
    expected = by_pycocotools(tmp_path / "truth.json", detections, chosen)
    assert 0 < expected["AP"] < expected["AP50"] < 100
    assert expected["APL"] == -100
    assert coco_ap(tmp_path / "truth.json", detections, chosen) == pytest.approx(
        expected | {"APL": float("nan")}, abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_ap_equals_that_of_pycocotools_on_real_annotations(real_images, split):
    path = real_images / f"annotations/instances_{split}.json"
    gt = json.loads(path.read_text())
    detections, ids = near_annotations(gt), [image["id"] for image in gt["images"]]
    expected = by_pycocotools(path, detections, ids)
    assert 0 < expected["AP"] < expected["AP50"] < 100
    found = coco_ap(path, detections, ids)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value if value >= 0 else float("nan"), abs=1e-9, nan_ok=True)


# What hashes, exports and counters from 0 give; some do not fit into 64 bits, some have no sign.
UNUSUAL = [0, -1, -(2**63), 2**31, 2**53 + 1, 2**53 + 2, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**90), 10**40]


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
@pytest.mark.parametrize("seed", range(3))
def test_ids_of_any_size_and_sign_give_the_ap_of_dense_ones(tmp_path, seed, table):
    """pycocotools evaluates the same data with ids from 1, in the same order."""
    gt, detections = random_dataset(seed)
    dense = tmp_path / "dense.json"
    dense.write_text(json.dumps(gt))
    expected = by_pycocotools(dense, detections, [image["id"] for image in gt["images"]])
    assert 0 < expected["AP"] < 100
    ids = sorted(entry["id"] for entry in gt[table])
    new = dict(zip(ids, sorted(UNUSUAL + [5 * one for one in range(1, len(ids))])[: len(ids)], strict=True))
    if table == "categories":
        new = dict(zip(ids, sorted([UNUSUAL[seed], UNUSUAL[seed + 4], UNUSUAL[-1]]), strict=True))
    key = {"images": "image_id", "annotations": "id", "categories": "category_id"}[table]
    for entry in gt[table]:
        entry["id"] = new[entry["id"]]
    if table != "annotations":
        for entry in [*gt["annotations"], *detections]:
            entry[key] = new[entry[key]]
    before = deepcopy(detections)
    unusual = tmp_path / "unusual.json"
    unusual.write_text(json.dumps(gt))
    found = coco_ap(unusual, detections, [image["id"] for image in reversed(gt["images"])])
    assert found == pytest.approx(expected | {"APL": float("nan")}, abs=1e-9, nan_ok=True)
    assert detections == before


def test_without_images_or_detections(tmp_path):
    gt, detections = random_dataset(0)
    (tmp_path / "truth.json").write_text(json.dumps(gt))
    assert coco_ap(tmp_path / "truth.json", [], [1, 2])["AP"] == 0
    assert math.isnan(coco_ap(tmp_path / "truth.json", detections, [])["AP"])


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_detections_of_other_data_are_refused(tmp_path, key):
    gt, detections = random_dataset(0)
    (tmp_path / "truth.json").write_text(json.dumps(gt))
    detections[3][key] = 77
    with pytest.raises(ValueError, match=rf"detections with {key} \[77\] not among"):
        coco_ap(tmp_path / "truth.json", detections, [1, 2])
