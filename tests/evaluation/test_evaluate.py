"""The evaluation of a trained run: what is written is what the model detects, and says what it is of."""

import json
from pathlib import Path

import pytest
from helpers.coco_results import by_pycocotools
from helpers.initial_runs import draw_dataset, initial_run

from tood.evaluation.detection import coco_ap, detect
from tood.evaluation.evaluate import evaluate
from tood.evaluation.trained_run import load_trained
from tood.runtime.files import finite
from tood.study.jobs import Execution
from tood.study.paths import RunPaths

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return draw_dataset(tmp_path_factory.mktemp("drawn"))


def test_detections_and_metrics_are_those_of_the_first_images(manifest, tmp_path):
    job = initial_run(manifest, "tood_af", images=4, batch_size=3, evaluation="how")
    job.settings["model"] = job.settings["model"] | {"test_cfg": {"score_thr": 0.0}}
    files = RunPaths(tmp_path)
    evaluate(job, CPU, files)
    detections, image_ids, metrics = (
        json.loads(path.read_text()) for path in (files.detections, files.evaluated_images, files.ap)
    )
    trained = load_trained(job, CPU)
    truth = json.loads(trained.annotations.read_text())
    assert image_ids == [image["id"] for image in truth["images"]][:4]
    assert {found["image_id"] for found in detections} == set(image_ids)
    again, _ = detect(
        trained.model, trained.dataset, device=trained.device, label="", batch_size=3, indices=range(4)
    )
    assert detections == again
    assert metrics.pop("digests") == {"code": "tood_af", "evaluation": "how"}
    expected = coco_ap(trained.annotations, again, image_ids)
    assert metrics == finite(expected)


def test_weights_that_do_not_fit_write_nothing(manifest, tmp_path):
    job = initial_run(manifest, "tood_af")
    job.model.write_bytes(b"no checkpoint")
    with pytest.raises(RuntimeError, match=r"model\.pth: cannot be loaded"):
        evaluate(job, CPU, RunPaths(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_the_detections_carry_the_ids_of_the_user_and_every_tool_reads_them(manifest, tmp_path):
    """Ids of a signed hash, or from 0, and categories in another order: AP is that of plain ids."""
    root = Path(json.loads(manifest.read_text())["root"])
    plain = root / "annotations/instances_val2017.json"
    job = initial_run(manifest, "atss_ab", batch_size=3, evaluation="how")
    job.settings["model"] = job.settings["model"] | {"test_cfg": {"score_thr": 0.0}}
    evaluate(job, CPU, RunPaths(tmp_path / "plain"))

    truth = json.loads(plain.read_text())
    images = {one["id"]: number for number, one in enumerate(truth["images"], -3)}
    categories = {one["id"]: 2**63 + number for number, one in enumerate(truth["categories"])}
    for number, one in enumerate(truth["annotations"]):
        one |= {
            "id": -number * 2**60,
            "image_id": images[one["image_id"]],
            "category_id": categories[one["category_id"]],
        }
    for table, ids in (("images", images), ("categories", categories)):
        truth[table] = [one | {"id": ids[one["id"]]} for one in truth[table]]
    truth["categories"].reverse()
    (root / "unusual.json").write_text(json.dumps(truth))
    job.settings["splits"]["val"] |= {"annotations": "unusual.json"}
    files = RunPaths(tmp_path / "unusual")
    evaluate(job, CPU, files)

    found, image_ids = (json.loads(path.read_text()) for path in (files.detections, files.evaluated_images))
    before = json.loads((tmp_path / "plain/detections.json").read_text())
    assert image_ids == list(images.values())
    assert found == [
        one | {"image_id": images[one["image_id"]], "category_id": categories[one["category_id"]]}
        for one in before
    ]
    measured = json.loads(files.ap.read_text())
    assert measured == json.loads((tmp_path / "plain/ap.json").read_text())
    expected = by_pycocotools(plain, str(tmp_path / "plain/detections.json"), sorted(images))
    assert measured["AP"] == pytest.approx(expected["AP"], abs=1e-9)
    assert measured["AP"] > 0
    again = by_pycocotools(root / "unusual.json", str(files.detections), image_ids)
    assert again["AP50"] == pytest.approx(expected["AP50"], abs=1e-9)
