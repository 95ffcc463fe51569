"""A trained run on images without annotations: what is in the file is what the model detects there."""

import json
import shutil

import pytest
import torch
from helpers.manifests import write_manifest
from mmengine.runner import set_random_seed

from tood.data.validation import Split
from tood.engine.config import build_model, resolve
from tood.engine.weights import weights_of
from tood.evaluation.detection import detect
from tood.evaluation.submission import SubmissionError, check, read
from tood.evaluation.submitted_run import write_submission
from tood.evaluation.trained_run import load_trained
from tood.study.jobs import Execution, SubmissionJob
from tood.study.plan import Plan

CPU = Execution(device="cpu")
TEST = Split("annotations/image_info_test-dev2017.json", "test2017")


@pytest.fixture
def job(real_images, tmp_path) -> SubmissionJob:
    """A narrow TOOD with initial weights, and images of a dataset without their annotations."""
    root = tmp_path / "data"
    (root / TEST.images).mkdir(parents=True)
    (root / "annotations").mkdir()
    content: dict = {"images": []}
    for split in ("train2017", "val2017"):
        annotated = json.loads((real_images / f"annotations/instances_{split}.json").read_text())
        images = annotated["images"][:12]
        content["images"] += images
        content["categories"] = annotated["categories"]
        for image in images:
            shutil.copy(real_images / split / image["file_name"], root / TEST.images)
    (root / TEST.annotations).write_text(json.dumps(content))
    categories = [{"id": one["id"], "name": one["name"]} for one in content["categories"]]
    manifest = write_manifest(tmp_path / "manifest.json", root, categories)
    settings = Plan({}).settings("tood_af")
    settings["model"] = settings["model"] | {"test_cfg": {"score_thr": 0.0}}
    set_random_seed(0)
    model = build_model(resolve(settings, categories, None))
    model.init_weights()
    torch.save(weights_of(model, {}), tmp_path / "model.pth")
    return SubmissionJob(
        settings=settings, model=tmp_path / "model.pth", manifest=manifest, batch_size=4, test=TEST
    )


def test_all_images_of_the_split_are_in_it(job, tmp_path):
    path = tmp_path / "detections_test-dev2017_tood_af_results.zip"
    number = write_submission(job, CPU, path)
    root = tmp_path / "data"
    images = [image["id"] for image in json.loads((root / TEST.annotations).read_text())["images"]]
    entries = read(path)
    assert {entry["image_id"] for entry in entries} == set(images)
    assert len(images) >= 18
    assert len(entries) == number <= 100 * len(images)
    assert f"{number} detections on {len(images)} of the {len(images)}" in check(
        path, root / TEST.annotations
    )
    trained = load_trained(job, CPU, TEST)
    found, _ = detect(
        trained.model, trained.dataset, device=trained.device, label="", batch_size=4, indices=range(4)
    )
    shown = [entry for entry in entries if entry["image_id"] in images[:4]]
    # In batches of other images, as those of one size go together
    assert [entry["score"] for entry in shown] == pytest.approx([one["score"] for one in found], abs=1e-6)
    assert [entry["category_id"] for entry in shown] == [one["category_id"] for one in found]
    for ours, theirs in zip(shown, found, strict=True):
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=0.051)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root, content: content["categories"].pop(),
            r"categories: not those that the run was trained on \(.*use the test images of the same dataset",
        ),
        (
            lambda root, content: (root / TEST.images / content["images"][0]["file_name"]).unlink(),
            r"images: 1 of \d+ files are not in .*test2017, first 0\d+\.jpg; copy them there",
        ),
    ],
)
def test_a_split_that_does_not_fit_stops_before_any_detection(job, tmp_path, monkeypatch, spoil, message):
    path = tmp_path / "data" / TEST.annotations
    content = json.loads(path.read_text())
    spoil(tmp_path / "data", content)
    path.write_text(json.dumps(content))

    def fail(*arguments, **options):
        raise AssertionError("work was spent")

    monkeypatch.setattr("tood.evaluation.submitted_run.load_trained", fail)
    output = tmp_path / "detections_test-dev2017_tood_af_results.zip"
    with pytest.raises(SubmissionError, match=message):
        write_submission(job, CPU, output)
    assert not output.exists()


def test_classes_are_matched_by_name_and_carry_the_ids_of_the_split(job, tmp_path):
    """Of files that list the same classes in another order and with other ids."""
    path, output = tmp_path / "data" / TEST.annotations, "detections_test-dev2017_tood_af_results.zip"
    content = json.loads(path.read_text())
    write_submission(job, CPU, tmp_path / output)
    before = read(tmp_path / output)
    names = {one["id"]: one["name"] for one in content["categories"]}
    for number, one in enumerate(reversed(content["categories"])):
        one["id"] = 1000 + number
    ids = {one["name"]: one["id"] for one in content["categories"]}
    content["categories"].sort(key=lambda one: one["name"])
    path.write_text(json.dumps(content))
    (tmp_path / "again").mkdir()
    write_submission(job, CPU, tmp_path / "again" / output)
    assert read(tmp_path / "again" / output) == [
        one | {"category_id": ids[names[one["category_id"]]]} for one in before
    ]
