"""`tood maps` and `tood detect` on two photographs, with a file as mmdet writes it."""

import json
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch
from helpers.figures import likeness, pixels, text_of_pdf
from helpers.mmdet_heads import MMDET_CONFIGS
from helpers.zoo import mmdet_model
from mmengine.config import Config
from pycocotools.coco import COCO

from tood.cli import main
from tood.data.images import read_image

PHOTOGRAPHS = Path(sklearn.datasets.__file__).parent / "images"
NAMES = ("china", "flower")
BOX = "168,84,446,360"  # the flower
SMALL = """_base_ = {base!r}
model = dict(backbone=dict(depth=18), neck=dict(in_channels=[64, 128, 256, 512]))
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(320, 320), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> list[str]:
    """The options that name a freshly written checkpoint of mmdet's ATSS, and its configuration."""
    folder = tmp_path_factory.mktemp("mmdet")
    config = folder / "atss_r18.py"
    config.write_text(SMALL.format(base=str(MMDET_CONFIGS / "atss/atss_r50_fpn_1x_coco.py")))
    model = mmdet_model(Config.fromfile(config))
    torch.save({"meta": {"epoch": 12}, "state_dict": model.state_dict()}, folder / "atss_r18.pth")
    return ["--checkpoint", str(folder / "atss_r18.pth"), "--config", str(config), "--device", "cpu"]


def test_detect_draws_and_writes_results_and_names_what_is_broken(weights, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    whole = (PHOTOGRAPHS / "china.jpg").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "out"
    arguments = [str(broken), str(PHOTOGRAPHS), *weights, "--output", str(output), "--score", "0.2"]
    assert main(["detect", *arguments]) == 1
    said = capsys.readouterr()
    assert "2 of 3 images, " in said.out
    assert "images/s on cpu" in said.out
    assert f"tood: {broken}: cannot be read as an image" in said.err

    truth = COCO(str(output / "images.json"))
    results = json.loads((output / "detections.json").read_text())
    assert {entry["file_name"] for entry in truth.imgs.values()} == {
        str(PHOTOGRAPHS / f"{name}.jpg") for name in NAMES
    }
    assert len(truth.loadRes(results).anns) == len(results) > 10
    for found in results:
        image = truth.imgs[found["image_id"]]
        x, y, w, h = found["bbox"]
        assert 0 <= x <= x + w <= image["width"] + 1e-3
        assert 0 <= y <= y + h <= image["height"] + 1e-3
    for name in NAMES:
        drawn, image = pixels(output / f"{name}.jpg"), read_image(PHOTOGRAPHS / f"{name}.jpg")[..., ::-1]
        assert drawn.shape == image.shape
        changed = (np.abs(drawn.astype(int) - image).max(axis=2) > 60).mean()
        assert 0.001 < changed < 0.9
    assert main(["detect", str(PHOTOGRAPHS / "*.jpg"), *weights, "--output", str(tmp_path / "again")]) == 0


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ([], range(150, 190, 4)),
        (["--levels", "all", "--colors", "viridis"], range(76, 104, 4)),
        (["--figure", "4"], range(480, 600, 6)),
    ],
)
def test_maps_show_the_photograph_in_each_format(weights, tmp_path, capsys, options, widths):
    flower = ["--image", str(PHOTOGRAPHS / "flower.jpg"), "--box", BOX, "--label", "potted plant"]
    for suffix in ("png",) if options else ("png", "pdf", "svg"):
        output = tmp_path / f"maps.{suffix}"
        assert main(["maps", *flower, *weights, *options, "--output", str(output)]) == 0
        assert "potted plant, best classified score 0." in capsys.readouterr().out
    if not options:
        assert b"<svg" in (tmp_path / "maps.svg").read_bytes()
        text = text_of_pdf(tmp_path / "maps.pdf").splitlines()
        assert {"potted plant", "atss_r18", "Result"} <= set(text)
        assert {line.split()[0] for line in text if "(stride " in line} == {"Score", "IoU"}
    page = pixels(tmp_path / "maps.png", width=600)
    images = {name: read_image(PHOTOGRAPHS / f"{name}.jpg")[..., ::-1] for name in NAMES}
    found = {name: likeness(page, image, widths).max() for name, image in images.items()}
    assert found["flower"] > 0.15 + found["china"], found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box", BOX], "--box and --label together name an object"),
        (["--box", BOX, "--label", "poted plant"], "did you mean potted plant"),
        (["--box", "1,1,700,20", "--label", "boat"], "must be x1,y1,x2,y2 with x1 < x2 <= 640"),
        (["--box", BOX, "--label", "boat", "--object", "1"], "--object is for an image of a study"),
        ([], "give --box and --label"),
        (["--output", "maps.jpeg"], "must end in .png, .pdf or .svg"),
        (["--colors", "jett"], "matplotlib has none of that name"),
    ],
)
def test_what_maps_cannot_show_is_said(weights, capsys, options, message):
    assert main(["maps", "--image", str(PHOTOGRAPHS / "flower.jpg"), *weights, *options]) == 2
    assert message in capsys.readouterr().err
