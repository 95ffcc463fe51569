"""The Python of docs/api.md and docs/export.md runs as it is printed, from the first line of a page on."""

import contextlib
import io
import shutil
import sys
from pathlib import Path

import cv2
import pytest
import torch
from helpers.initial_runs import CATEGORIES, initial_run
from helpers.manifests import write_manifest
from test_docs import blocks

from tood.data.synthetic import generate
from tood.evaluation.detector import of_run
from tood.evaluation.exporting import export
from tood.runtime.quiet import quiet
from tood.study.paths import StudyPaths
from tood.study.plan import Plan

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """As `make` leaves the repository, with initial weights of TOOD at `smoke`, and the kept results."""
    quiet()
    path = tmp_path_factory.mktemp("pages")
    plan = Plan({})
    drawing = plan.drawing.model_copy(update={"train_images": 2, "val_images": 6})
    generate(path / plan.data_root, drawing)
    manifest = write_manifest(path / StudyPaths("smoke").manifest, path / plan.data_root, CATEGORIES)
    weights = torch.load(initial_run(manifest, "tood_af").model, weights_only=True)
    names = [category["name"] for category in CATEGORIES]
    model = path / StudyPaths("smoke").run("tood_af", 0).model
    model.parent.mkdir(parents=True)
    meta = {"settings": plan.settings("tood_af"), "classes": names, "seed": 0}
    torch.save(weights | {"meta": meta}, model)
    (path / "results").symlink_to(REPOSITORY / "results")
    return path


def run_page(name: str) -> tuple[dict, str]:
    """The names that the Python of a page leaves, and what it prints."""
    names: dict = {"__name__": "page"}
    printed = io.StringIO()
    for number, block in enumerate(blocks((REPOSITORY / "docs" / name).read_text(), "python"), 1):
        with contextlib.redirect_stdout(printed):
            exec(compile(block, f"{name}, block {number}", "exec"), names)
    return names, printed.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_every_line_of_the_page_of_the_interface_runs(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "study", symlinks=True)
    monkeypatch.chdir(tmp_path / "study")
    names, printed = run_page("api.md")
    detector = names["detector"]
    assert f"tood_af {detector.classes} cpu" in printed
    assert len(names["batch"]) == 4
    assert Path("positives.png").stat().st_size > 10_000
    assert Path("ap.png").stat().st_size > 10_000
    assert "['atss_af', 'tood_af', 'atss_ab', 'tood_ab'] (0, 1, 2) 12" in printed


@pytest.mark.filterwarnings("ignore")
def test_a_batch_and_inference_detector_find_the_same(folder, monkeypatch):
    from mmdet.apis import inference_detector

    from tood.data.images import read_image

    monkeypatch.chdir(folder)
    detector, _ = of_run("tood_af", "smoke", device="cpu")
    detector.test_cfg["score_thr"] = detector.model.bbox_head.test_cfg["score_thr"] = 0.0  # all are low
    paths = sorted((folder / "work/data/smoke/val2017").glob("*.png"))[:3]
    images = [read_image(path) for path in paths]
    images.insert(1, images[0][:40])  # of another size
    expected = [detector.detect(image) for image in images]
    for found, alone in zip(detector.detect_batch(images), expected, strict=True):
        assert len(found) == len(alone) > 10
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-6)
    for given, alone in ((str(paths[0]), expected[0]), (images[1], expected[1])):
        sample = inference_detector(detector.model, given)
        torch.testing.assert_close(sample.pred_instances.scores, alone.scores)
        torch.testing.assert_close(sample.pred_instances.bboxes, alone.bboxes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_line_of_the_page_of_exports_runs(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "study", symlinks=True)
    monkeypatch.chdir(tmp_path / "study")
    Path("work/birds").symlink_to(Path("work/smoke").resolve())
    Path("work/birds/study.json").write_text('{"name": "birds", "data_root": "work/data/smoke"}')
    image = cv2.imread(str(next(Path("work/data/smoke/val2017").glob("*.png"))))
    cv2.imwrite("photo.jpg", cv2.resize(image, (200, 130)))
    detector, _ = of_run("tood_af", "birds", device="cpu")
    detector.test_cfg["score_thr"] = 0.0  # all are low
    export(detector, Path("birds.pt2"), with_nms=False, half=False)
    export(detector, Path("birds.onnx"), with_nms=True, half=False)
    monkeypatch.setattr(sys, "argv", ["detect_onnx.py", "birds.onnx", "photo.jpg", "0"])
    names, printed = run_page("export.md")
    program, _ = blocks((REPOSITORY / "docs/export.md").read_text(), "python")
    assert program == (REPOSITORY / "examples/detect_onnx.py").read_text()
    found = detector.detect(cv2.imread("photo.jpg"))
    best = f"{detector.classes[found.labels[0]]} {round(float(found.scores[0]), 2)} ["
    assert any(line.startswith(best) for line in printed.splitlines())
    # The program without this suite resizes and detects as the suite does.
    given, sizes, _ = names["batch_of"](detector, [cv2.imread("photo.jpg")])
    assert (names["given"]["images"] == given.numpy()).all()
    assert (names["given"]["sizes"] == sizes.numpy()).all()
