"""Detectors of runs and of files, and the images that they take."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.initial_runs import CATEGORIES, draw_dataset, initial_run
from helpers.mmdet_heads import MMDET_CONFIGS
from helpers.zoo import in_authors_names, mmdet_model
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image

from tood.analysis.detections import (
    class_colour,
    draw,
    drawn_names,
    lower_threshold,
    missing_glyphs,
)
from tood.analysis.figures.chosen_objects import Case
from tood.analysis.figures.figure1 import row
from tood.analysis.figures.image_maps import of_study, row_of
from tood.analysis.label_places import free_place
from tood.cli import main
from tood.data.images import read_image
from tood.evaluation.detection import detect
from tood.evaluation.detector import Detector, category_ids, load_detectors, of_file, of_run
from tood.evaluation.images import find_images
from tood.evaluation.trained_run import load_trained
from tood.study.declarations import ExperimentError
from tood.study.jobs import Execution
from tood.study.paths import StudyPaths

CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a study `x` of two runs with initial weights."""
    folder = tmp_path_factory.mktemp("study")
    manifest = draw_dataset(folder)
    paths = StudyPaths("x")
    (folder / paths.work).mkdir(parents=True)
    shutil.copy(manifest, folder / paths.manifest)
    (folder / paths.options).write_text(json.dumps({"name": "x", "runs": ["atss_af", "tood_af"]}))
    for run in ("atss_af", "tood_af"):
        target = folder / paths.run(run, 0).model
        target.parent.mkdir(parents=True)
        shutil.copy(initial_run(manifest, run).model, target)
    return folder


@pytest.fixture
def there(study, monkeypatch):
    monkeypatch.chdir(study)
    return study


def pictures(trained, number: int = 3) -> list:
    return [trained.dataset.get_data_info(index)["img_path"] for index in range(number)]


@pytest.mark.parametrize("run", ["atss_af", "tood_af"])
def test_a_run_detects_what_its_evaluation_detects(there, run):
    detector, plan = of_run(run, "x", None, "cpu")
    assert plan.name == "x"
    trained = load_trained(initial_run(there / "manifest.json", run), CPU)
    detector.test_cfg["score_thr"] = trained.model.bbox_head.test_cfg["score_thr"] = 0.0  # all are low
    expected, _ = detect(
        trained.model, trained.dataset, device=trained.device, label="", batch_size=1, indices=range(3)
    )
    found = [detector.detect(read_image(path)) for path in pictures(trained)]
    scores = np.concatenate([one.scores.numpy() for one in found])
    boxes = np.concatenate([one.bboxes.numpy() for one in found])
    assert len(scores) > 10
    assert scores == pytest.approx([one["score"] for one in expected], abs=1e-6)
    assert boxes[:, :2] == pytest.approx(np.array([one["bbox"][:2] for one in expected]), abs=1e-3)
    assert detector.category_ids == [category["id"] for category in CATEGORIES]


def test_a_file_of_the_suite_says_what_it_is(there):
    weights = StudyPaths("x").run("tood_af", 0).model
    content = torch.load(weights, weights_only=True)
    detector, plan = of_run("tood_af", "x", None, "cpu")
    meta = {"settings": plan.settings("tood_af"), "classes": list(detector.classes), "seed": 0}
    torch.save({**content, "meta": meta}, there / "mine.pth")
    same = of_file(there / "mine.pth", None, "cpu")
    assert (same.name, same.classes, same.category_ids) == ("mine", detector.classes, detector.category_ids)
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    detector.test_cfg["score_thr"] = same.test_cfg["score_thr"] = 0.0  # all are low
    first, second = detector.detect(image), same.detect(image)
    assert len(first.scores) > 0
    assert torch.equal(first.bboxes, second.bboxes)


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    """TOOD of mmdet with random weights, and its file as the authors would have released it."""
    model = mmdet_model(Config.fromfile(MMDET_CONFIGS / "tood/tood_r50_fpn_1x_coco.py"))
    path = tmp_path_factory.mktemp("authors") / "tood.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": in_authors_names(model.state_dict())}, path)
    return model, path


@pytest.mark.usefixtures("torchvision_operators")
def test_a_file_of_the_authors_is_read_as_the_run_that_it_is(authors):
    model, path = authors
    detector = of_file(path, "tood_af", "cpu")
    assert len(detector.classes) == 80
    assert (detector.category_ids[0], detector.category_ids[-1]) == (1, 90)
    detector.transforms[0]["scale"] = (128, 96)
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    prepared = detector.prepare(image)
    assert np.array_equal(prepared["inputs"].numpy(), image.transpose(2, 0, 1))
    _, levels = detector.predict(prepared)
    data = model.data_preprocessor({key: [value] for key, value in prepared.items()})
    with torch.no_grad():
        scores, _ = model.bbox_head(model.extract_feat(data["inputs"]))
    for level, theirs in zip(levels, scores, strict=True):
        torch.testing.assert_close(
            level.scores, theirs[0].permute(1, 2, 0).reshape(-1, 80), atol=1e-5, rtol=1e-4
        )


def test_files_and_configurations_that_do_not_fit_are_refused(authors, tmp_path, there):
    _, path = authors
    refused = {
        None: "does not name its model; give --config",
        "tood_ad": "did you mean tood_a",
        "atss_af": "does not fit atss_af",
        "nothing/there.py": "is no file, no file in mmdet's folder",
        "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": "cannot be read as a configuration of a dense detector",
        "detr/detr_r50_8xb2-150e_coco.py": "DETRHead is no dense head",
        "paa/paa_r50_fpn_1x_coco.py": "PAAHead decodes its predictions in a way of its own",
        "tood/tood_r50_fpn_1x_coco.py": "give the id of its run as --config",
    }
    for config, message in refused.items():
        with pytest.raises(ExperimentError, match=message):
            of_file(path, config, "cpu")
    (tmp_path / "text.pth").write_text("no weights")
    for name, message in (("text.pth", "cannot be read as weights"), ("none.pth", "no such file")):
        with pytest.raises(ExperimentError, match=message):
            of_file(tmp_path / name, "tood_af", "cpu")
    for arguments, message in (
        (([], [], []), "no detector: give --run"),
        ((["tood_af"], [], ["tood_af"]), "1 for 0 --checkpoint"),
        (([], [path] * 3, ["a", "b"]), "2 for 3 --checkpoint"),
        ((["tood_ax"], [], []), "--run tood_ax"),
        ((["retinanet"], [], []), "model.pth is not there; this trains it:\nsnakemake"),
    ):
        with pytest.raises(ExperimentError, match=message):
            load_detectors(*arguments, study="x", seed=None, device="cpu")


# Maps of a study's image


def test_maps_of_a_run_are_those_of_the_workflow(there, tmp_path, capsys):
    trained = load_trained(initial_run(there / "manifest.json", "tood_af"), CPU)
    expected = row(trained, "", Case(trained.dataset.get_data_info(1)["img_id"], 0, 0))
    detector, plan = of_run("tood_af", "x", None, "cpu")
    shown = of_study(plan, "tood_af", Path(pictures(trained)[1]).name, 0)
    found = row_of(detector, shown)
    assert np.array_equal(found.image, expected.image)
    assert found.gt_boxes == pytest.approx(expected.gt_boxes, abs=1e-4)
    assert found.class_name == expected.class_name
    assert found.maps.classification == expected.maps.classification
    assert found.maps.localisation == expected.maps.localisation

    call = ["maps", "--run", "atss_af", "--run", "tood_af", "--name", "x", "--image", shown.path.name]
    capsys.readouterr()
    assert main([*call, "--output", str(tmp_path / "a.png")]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.startswith("study x (scale ")
    assert [line.split(":")[0] for line in lines[:2]] == ["atss_af", "tood_af"]
    assert lines[2:] == [f"written to {tmp_path / 'a.png'}"]
    sizes = (shown.boxes[:, 2:] - shown.boxes[:, :2]).prod(1)
    largest = shown.names[int(sizes.argmax())]  # which is shown where no object is named
    assert lines[0].startswith(f"atss_af: {largest}, best classified score ")
    for options, message in (
        (["--object", "99"], f"--object 99: {shown.path.name} has {len(shown.names)} objects: 0 "),
        (["--object", "-1"], "--object -1"),
        (["--image", "none.png"], "--image none.png: neither file_name, id, path nor base name"),
    ):
        assert main([*call, *options]) == 2
        assert message in capsys.readouterr().err


def test_ids_of_categories():
    coco = of_names()
    assert category_ids(coco)[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    assert category_ids(["disc", "ring"]) == [1, 2]


def of_names() -> tuple[str, ...]:
    from mmdet.datasets import CocoDataset

    return CocoDataset.METAINFO["classes"]


# Images


def test_files_folders_and_patterns(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    names = [path.name for path in find_images([str(tmp_path / "c.webp"), str(tmp_path)])]
    assert names == ["c.webp", "a.PNG", "b.jpg"]
    assert [path.name for path in find_images([str(tmp_path / "*.jpg")])] == ["b.jpg"]
    assert [path.name for path in find_images([str(tmp_path / "notes.txt")])] == ["notes.txt"]
    (tmp_path / "._b.jpg").touch()  # as macOS leaves on disks of others
    (tmp_path / "d.pbm").touch()
    assert [path.name for path in find_images([str(tmp_path)])] == ["a.PNG", "b.jpg", "c.webp", "d.pbm"]
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "has no image"), ("x.jpg", "no such file"), ("*.tga", "no file fits")):
        with pytest.raises(ExperimentError, match=message):
            find_images([str(tmp_path / name)])


def test_a_small_image_is_drawn_enlarged_with_its_boxes():
    found = InstanceData(
        bboxes=torch.tensor([[10.0, 40.0, 30.0, 60.0]]), scores=torch.tensor([0.9]), labels=torch.tensor([1])
    )
    drawn = np.asarray(draw(np.full((100, 80, 3), 128, dtype=np.uint8), found, ["disc", "ring"]))
    assert drawn.shape == (500, 400, 3)
    boxed = np.argwhere((drawn[200:] == class_colour(1)).all(axis=2))  # below the name
    assert boxed.min(axis=0).tolist() == [0, 50]
    assert boxed.max(axis=0).tolist() == [100, 150]


def names_of(*names: str) -> list[str]:
    return drawn_names([Path(name) for name in names])


def test_drawings_have_names_of_their_own():
    assert names_of("a.jpg", "b.jpg", "b.png", "x/c.jpg", "y/c.jpg") == [
        *("a.jpg", "b_jpg.jpg", "b_png.jpg", "c_4.jpg", "c_5.jpg"),
    ]
    # Also where an image has the name that is made of another's
    assert names_of("a.jpg", "a.png", "a_png.jpg") == ["a_jpg.jpg", "a_png_2.jpg", "a_png.jpg"]
    assert names_of("x/c.jpg", "y/c.jpg", "c_1.png", "c_1_1.png") == [
        *("c_1_1_1.jpg", "c_2.jpg", "c_1.jpg", "c_1_1.jpg"),
    ]
    long = names_of("ü" * 126 + ".jpg", "ü" * 126 + ".png")
    assert len(set(long)) == 2
    assert all(len(name.encode()) < 230 for name in long)


def test_thousands_of_images_have_names_at_once(tmp_path):
    paths = [Path(f"{folder}/{number:05}.jpg") for folder in "ab" for number in range(2000)]
    for number in range(4000):
        (tmp_path / f"{number}.jpg").touch()
    start = time.process_time()
    assert len(set(drawn_names(paths))) == len(paths)
    assert len(find_images([str(tmp_path), str(tmp_path / "*.jpg")])) == 4000
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((4000, 1), (4000, 1)), ((1000, 1), (4000, 4)), ((30, 20), (600, 400)), ((70000, 10), (35000, 5))],
)
def test_a_drawing_is_neither_too_small_nor_too_large(tmp_path, size, drawn):
    found = InstanceData(
        bboxes=torch.tensor([[1.0, 0.0, 9.0, 1.0]]), scores=torch.tensor([0.9]), labels=torch.tensor([0])
    )
    picture = draw(np.zeros((*size[::-1], 3), dtype=np.uint8), found, ["disc"])
    assert picture.size == drawn
    picture.save(tmp_path / "drawn.jpg")


def test_names_of_classes_are_drawn_whatever_they_are():
    names = ["猫", "$5_$ bill", "two\nlines", "\ud83d", "", "été"]
    found = InstanceData(
        bboxes=torch.tensor([[10.0, 40.0, 30.0, 60.0]] * len(names)),
        scores=torch.linspace(0.1, 0.9, len(names)),
        labels=torch.arange(len(names)),
    )
    draw(np.zeros((100, 80, 3), dtype=np.uint8), found, names)
    assert missing_glyphs(names) == "猫\ud83d"


def test_no_name_covers_another():
    """Twenty objects at nearly one place: each name has a place of its own on the image, or none."""
    image, extent, taken = (200, 100), (60.0, 10.0), []
    for number in range(20):
        x = 20.0 + number % 3
        found = free_place((x, 40.0, x + 30, 60.0), extent, image, taken)
        if number == 0:
            assert found == ((20.0, 30.0, 80.0, 40.0), None)  # above the box
        if found is None:
            continue
        (left, top, right, bottom), line_to = found
        assert 0 <= left < right <= image[0]
        assert 0 <= top < bottom <= image[1]
        assert line_to in (None, (x, 40.0))
        for other in taken:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, (found, other)
        taken.append((left, top, right, bottom))
    assert 4 < len(taken) < 20
    # A box at the upper side has its name inside, one at the right side is moved to the left.
    assert free_place((0.0, 0.0, 90.0, 50.0), extent, image, []) == ((0.0, 0.0, 60.0, 10.0), None)
    assert free_place((190.0, 40.0, 199.0, 60.0), extent, image, []) == ((140.0, 30.0, 200.0, 40.0), None)


@pytest.mark.parametrize(
    ("highest", "said"), [(0.299, "0.29"), (0.3, "0.30"), (0.0117, "0.01"), (0.0042, "0.0042")]
)
def test_the_named_threshold_lets_the_score_pass(highest, said):
    assert lower_threshold(highest) == said
    assert float(said) <= highest


def test_an_image_without_a_box_says_which_threshold_draws_one(there, tmp_path, capsys, monkeypatch):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    call = ["detect", str(tmp_path / "a.png"), "--run", "tood_af", "--name", "x", "--device", "cpu"]
    call += ["--output", str(tmp_path / "out")]
    assert main(call) == 0  # the initial weights give no score above the model's own threshold
    assert (
        f"nothing is drawn on {tmp_path / 'a.png'}: the model has no detection there"
        in capsys.readouterr().out
    )
    detect = Detector.detect

    def without_threshold(self, image):
        self.test_cfg["score_thr"] = 0.0
        return detect(self, image)

    monkeypatch.setattr(Detector, "detect", without_threshold)
    assert main([*call, "--score", "1"]) == 0
    out = capsys.readouterr().out
    scores = [found["score"] for found in json.loads((tmp_path / "out/detections.json").read_text())]
    assert f"nothing is drawn on {tmp_path / 'a.png'}: no score of at least 1. " in out
    threshold = lower_threshold(max(scores))
    assert f"The highest score there is {max(scores):.3g}; `--score {threshold}` draws it" in out
    assert main([*call, "--score", threshold]) == 0
    assert "nothing is drawn" not in capsys.readouterr().out


def test_colours_are_drawn_in_their_order():
    nothing = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    blue = np.full((400, 400, 3), (255, 0, 0), dtype=np.uint8)  # BGR
    assert draw(blue, nothing, []).getpixel((5, 5)) == (0, 0, 255)


def test_each_image_that_fails_is_named_and_the_others_are_written(there, tmp_path, capsys, monkeypatch):
    """Thin, damaged, of unknown range, no file, and no memory for it."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    Image.new("RGB", (4000, 20)).save(tmp_path / "thin.png")
    Image.new("RGB", (4000, 40)).save(tmp_path / "one_pixel.png")  # high, at the model's input
    Image.new("F", (64, 48)).save(tmp_path / "float.tif")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.png").read_bytes()[:80])
    Image.new("RGB", (65, 48)).save(tmp_path / "large.png")
    (tmp_path / "folder.png").mkdir()
    detect = Detector.detect

    def with_little_memory(self, image):
        if image.shape[1] == 65:
            torch.empty(2**60)
        return detect(self, image)

    monkeypatch.setattr(Detector, "detect", with_little_memory)
    capsys.readouterr()
    call = ["detect", str(tmp_path), "--run", "tood_af", "--name", "x", "--device", "cpu"]
    assert main([*call, "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "2 of 7 images" in said.out
    failed = sorted(
        line.removeprefix(f"tood: {tmp_path}/") for line in said.err.splitlines() if "tood:" in line
    )
    for line, part in zip(failed, EACH_FAILURE, strict=True):
        assert line.startswith(part)
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert [Path(image["file_name"]).name for image in images] == ["a.png", "one_pixel.png"]
    drawn = sorted(path.name for path in (tmp_path / "out").glob("*.jpg"))
    assert drawn == ["a.jpg", "one_pixel.jpg"]


EACH_FAILURE = [
    "cut.jpg: cannot be read as an image: truncated",
    "float.tif: cannot be read as an image: its pixels are floating-point numbers",
    "large.png: RuntimeError: ",
    "pipe.png: cannot be read as an image: a folder, pipe or device",
    "thin.png: 4000 x 20 pixels are too thin",
]


def test_maps_of_an_image_that_fails_are_refused_in_one_line(there, tmp_path, capsys):
    Image.new("RGB", (4000, 20)).save(tmp_path / "thin.png")
    call = ["maps", "--run", "tood_af", "--name", "x", "--image", str(tmp_path / "thin.png")]
    assert main([*call, "--box", "1,1,90,9", "--label", "disc"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "thin.png: 4000 x 20 pixels are too thin" in line


def test_a_folder_of_detections_that_cannot_be_made_is_refused_first(there, tmp_path, capsys):
    (tmp_path / "file").touch()
    call = ["detect", str(tmp_path / "file"), "--run", "tood_af", "--name", "x"]
    assert main([*call, "--output", str(tmp_path / "file/out")]) == 2
    assert "--output" in capsys.readouterr().err


def test_no_drawing_replaces_an_image_and_no_result_a_file_of_the_user(there, tmp_path, capsys):
    (tmp_path / "wide.jpg").write_bytes(b"a photograph")
    call = ["detect", str(tmp_path / "wide.jpg"), "--run", "tood_af", "--name", "x", "--output"]
    assert main([*call, str(tmp_path / "." / "sub" / "..")]) == 2
    assert "a drawing could replace it; name another folder" in capsys.readouterr().err
    (tmp_path / "data").mkdir()
    (tmp_path / "data/images.json").write_text("annotations")
    assert main([*call, str(tmp_path / "data")]) == 2
    assert "images.json there is not of this command" in capsys.readouterr().err
    assert (tmp_path / "wide.jpg").read_bytes() == b"a photograph"
    assert (tmp_path / "data/images.json").read_text() == "annotations"


@pytest.mark.parametrize("names", [None, ("helmet", "vest")])
def test_a_head_has_as_many_classes_as_the_file_names(tmp_path, names):
    """Without names a file is taken to have COCO's, which a head of three classes cannot have."""
    config = Config.fromfile(MMDET_CONFIGS / "atss/atss_r50_fpn_1x_coco.py")
    config.model.bbox_head.num_classes = 3
    config.model.backbone.init_cfg = None
    config.dump(tmp_path / "three.py")
    state_dict = mmdet_model(config).state_dict()
    meta = {"meta": {"dataset_meta": {"classes": names}}} if names else {}
    torch.save({"state_dict": state_dict} | meta, tmp_path / "three.pth")
    said = "names 2 classes, and the head" if names else "80 classes, and the head"
    with pytest.raises(ExperimentError, match=rf"{said} of .*three.py has 3") as refused:
        of_file(tmp_path / "three.pth", str(tmp_path / "three.py"), "cpu")
    assert ("The file names no classes" in str(refused.value)) == (names is None)
    torch.save(
        {"state_dict": state_dict, "meta": {"dataset_meta": {"classes": "abc"}}}, tmp_path / "three.pth"
    )
    with pytest.raises(ExperimentError, match="is the text 'abc' and no list of names"):
        of_file(tmp_path / "three.pth", str(tmp_path / "three.py"), "cpu")


@pytest.mark.parametrize("run", ["tood_af", "atss_af", "fcos_imprv", "fovea", "retinanet", "paa"])
def test_a_side_of_one_pixel_goes_through_evaluation(there, run):
    trained = load_trained(initial_run(there / "manifest.json", run), CPU)
    entry = trained.dataset.get_data_info(0)
    Image.new("RGB", (4000, 40)).save(there / "one_pixel.png")
    sample = trained.dataset.pipeline({**entry, "img_path": str(there / "one_pixel.png"), "instances": []})
    assert tuple(sample["inputs"].shape) == (3, 1, 64)
    data = trained.model.data_preprocessor(
        {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
    )
    with torch.no_grad():
        outs = trained.model.bbox_head(trained.model.extract_feat(data["inputs"]))
    metas = [sample.metainfo for sample in data["data_samples"]]
    (found,) = trained.model.bbox_head.predict_by_feat(*outs, batch_img_metas=metas, rescale=True)
    assert torch.isfinite(found.bboxes).all()
