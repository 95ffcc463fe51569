"""COCO AP equals that of pycocotools, COCO's own code, on random and on real annotations."""

import contextlib
import io
import json
from copy import deepcopy
from pathlib import Path

import pytest
from helpers.coco_results import near_annotations, random_dataset
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tood.evaluation.detection import AP_NAMES, coco_ap


def by_pycocotools(annotations: Path, detections: list[dict], image_ids: list[int]) -> dict[str, float]:
    """The six figures in percent; -100 where pycocotools says that there is no object."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluator = COCOeval(truth, truth.loadRes(deepcopy(detections)), "bbox")
        evaluator.params.imgIds = image_ids
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(AP_NAMES, (evaluator.stats[:6] * 100).tolist(), strict=True))


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
