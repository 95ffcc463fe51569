"""The evaluation of a trained run: what is written is what the model detects, and says what it is of."""

import json

import pytest
from helpers.initial_runs import draw_dataset, initial_run

from tood.evaluation.detection import coco_ap, detect
from tood.evaluation.evaluate import evaluate
from tood.evaluation.trained_run import load_trained
from tood.study.jobs import Execution

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return draw_dataset(tmp_path_factory.mktemp("drawn"))


def test_detections_and_metrics_are_those_of_the_first_images(manifest, tmp_path):
    job = initial_run(manifest, "tood_af", images=4, batch_size=3, evaluation="how")
    job.settings["model"] = job.settings["model"] | {"test_cfg": {"score_thr": 0.0}}
    evaluate(job, CPU, tmp_path / "detections.json", tmp_path / "ap.json")
    written = json.loads((tmp_path / "detections.json").read_text())
    trained = load_trained(job, CPU)
    truth = json.loads(trained.annotations.read_text())
    assert written["image_ids"] == [image["id"] for image in truth["images"]][:4]
    assert {found["image_id"] for found in written["detections"]} == set(written["image_ids"])
    again, _ = detect(
        trained.model, trained.dataset, device=trained.device, label="", batch_size=3, indices=range(4)
    )
    assert written["detections"] == again
    metrics = json.loads((tmp_path / "ap.json").read_text())
    assert metrics.pop("digests") == {"code": "tood_af", "evaluation": "how"}
    expected = coco_ap(trained.annotations, again, written["image_ids"])
    assert metrics == pytest.approx(expected, nan_ok=True)


def test_weights_that_do_not_fit_write_nothing(manifest, tmp_path):
    job = initial_run(manifest, "tood_af")
    job.model.write_bytes(b"no checkpoint")
    with pytest.raises(RuntimeError, match=r"model\.pth: cannot be loaded"):
        evaluate(job, CPU, tmp_path / "detections.json", tmp_path / "ap.json")
    assert list(tmp_path.iterdir()) == []
