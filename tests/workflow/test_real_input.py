"""Photographs through the paper's exact configuration, and a dataset of the user's own classes."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.figures import likeness, pixels, text_of_pdf
from mmdet.utils import register_all_modules
from mmengine.structures import InstanceData
from torch import nn

from tood.data.loading import build_dataset
from tood.data.synthetic import DrawingSpec, generate
from tood.data.validation import Split, check_dataset
from tood.engine.config import build_model, resolve
from tood.evaluation.detection import detect
from tood.evaluation.submission import check, read
from tood.models.common.preprocessor import DetDataPreprocessor
from tood.study.plan import Plan

PLAN = Plan({"scale": "paper", "name": "real", "weights": "random"})
SETTINGS = PLAN.settings("tood_af")
SPLITS = {name: Split(**split) for name, split in SETTINGS["splits"].items()}
CPU = torch.device("cpu")
TINY_COCO = Path(__file__).parents[3] / "shared" / "data" / "tiny_coco"


def open_split(root, split: str, flip: float | None = None):
    """The resolved configuration of TOOD for a dataset, and one split of that."""
    register_all_modules(init_default_scope=True)
    config = resolve(SETTINGS, check_dataset(root, SPLITS["train"], SPLITS["val"])["categories"], None)
    return config, build_dataset(root, *SPLITS[split], config.classes, config.input.size, flip)


def truth(root, split: str) -> dict:
    return json.loads((root / SPLITS[split].annotations).read_text())


# The paper's configuration on COCO images


class RealStudy(NamedTuple):
    """A finished study `real`: the folder it was called in, the dataset, and what makes targets of it."""

    path: Path
    data: Path
    make: Callable[..., str]


def call(data: Path, *targets: str) -> tuple[str, ...]:
    """The study of the README on a user's images, shortened to one iteration."""
    options = ("scale=paper", "name=real", f"data_root={data}", "runs=tood_af", "weights=random")
    limits = ("iterations=1", "batch_size=1", "val_images=2", "device=cpu")
    return (*targets, "--cores", "all", "--config", *options, *limits)


@pytest.fixture(scope="module")
def real(new_workspace, photographs):
    """It finished; on COCO's own images where they are.

    Slow, as each image is as large as the paper's. At small sizes the same is in test_own_data.py and
    test_workflow.py.
    """
    workspace = new_workspace(counted=True)
    data = TINY_COCO if TINY_COCO.is_dir() else photographs

    def make(*targets: str) -> str:
        outcome = workspace.run("snakemake", *call(data, *targets))
        assert outcome.returncode == 0, outcome.stdout
        return outcome.stdout

    make()
    return RealStudy(workspace.path, data, make)


@pytest.mark.slow
def test_row_of_the_table(real):
    frame = pd.read_csv(real.path / "results/real/tables/table3.csv").set_index(["Type", "Method"])
    assert (frame["status"] == "done").to_dict() == {
        row: row == ("Anchor-free", "TOOD") for row in frame.index
    }
    assert frame.loc[("Anchor-free", "TOOD"), ["AP", "AP50", "AP75"]].between(0, 100).all()
    notes = (real.path / "results/real/tables/table3.md").read_text()
    for note in (
        "random weights",
        "after 1 iteration",
        "Batches of 1",
        "first 2 validation",
        "not necessarily",
    ):
        assert note in notes


def assert_the_papers(state_dict: dict[str, torch.Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    head = "bbox_head.predictor"
    assert shapes[f"{head}.cls_conv.weight"] == (80, 256, 3, 3)
    tower = {name for name in shapes if name.startswith(f"{head}.tower.") and name.endswith("conv.weight")}
    assert len(tower) == 6
    assert {shapes[name] for name in tower} == {(256, 256, 3, 3)}
    assert len([name for name in shapes if name.startswith("bbox_head.scales.")]) == 5
    parameters = sum(tensor.numel() for name, tensor in state_dict.items() if name.startswith("bbox_head."))
    assert round(parameters / 1e6, 2) == 4.82  # Table 1: T-head of the anchor-free detector


def test_model_of_the_configuration_is_the_papers(photographs):
    config, _ = open_split(photographs, "train")
    with torch.device("meta"):
        assert_the_papers(build_model(config).state_dict())


@pytest.mark.slow
def test_model_that_was_trained_is_the_papers(real):
    path = real.path / "work/real/runs/tood_af/seed0/model.pth"
    assert_the_papers(torch.load(path, weights_only=True)["state_dict"])


@pytest.mark.slow
def test_the_first_images_are_evaluated(real):
    found = json.loads((real.path / "work/real/runs/tood_af/seed0/evaluated_images.json").read_text())
    assert found == [image["id"] for image in truth(real.data, "val")["images"]][:2]


@pytest.mark.slow
def test_figure_shows_one_of_the_images(real):
    figures = real.path / "results/real/figures"
    names = [image["file_name"] for image in truth(real.data, "val")["images"]]
    # The panel with the result, the first of three, is 170 pixels wide there.
    result = pixels(figures / "figure1.png", width=600)[:, :200]
    found = [
        likeness(result, pixels(real.data / "val2017" / name), range(150, 190, 2)).max() for name in names[:5]
    ]
    assert np.argmax(found) < 2
    assert max(found) > 0.6 > max(found[2:])
    text = text_of_pdf(figures / "figure1.pdf").splitlines()
    assert {"TOOD", "Result"} <= set(text)
    assert len([line for line in text if line.startswith(("Score (stride ", "IoU (stride "))]) == 2


def test_a_submission_for_the_server_is_planned(workspace, photographs):
    """Its content: tests/evaluation/test_submitted_run.py."""
    outcome = workspace.run("snakemake", "-n", "-p", *call(photographs, "test_dev"))
    assert outcome.returncode == 0, outcome.stdout
    rules = re.findall(r"^(?:local)?rule (\w+):$", outcome.stdout, re.MULTILINE)
    assert sorted(rules) == ["check_data", "submission", "test_dev", "train"]
    assert "work/real/runs/tood_af/seed0/detections_test-dev2017_tood_af_results.zip" in outcome.stdout


@pytest.mark.slow
def test_submission_for_the_server(real):
    """The workflow's own target, on the model that it trained; nothing is trained or evaluated again."""
    if not (real.data / "test2017").is_dir():
        pytest.skip("these images have no split without annotations")
    before = (real.path / "work/real/runs/tood_af/seed0/model.pth").stat().st_mtime_ns
    said = real.make("test_dev")
    folder = real.path / "work/real/runs/tood_af/seed0"
    assert (folder / "model.pth").stat().st_mtime_ns == before
    path = folder / "detections_test-dev2017_tood_af_results.zip"
    images = real.data / "annotations/image_info_test-dev2017.json"
    assert " of the 2 images" in check(path, images)
    assert f"{path.relative_to(real.path)}: {len(read(path))} detections" in said


class EveryClass(nn.Module):
    """Finds one object of each class on every image, always in the same place."""

    class Head(nn.Module):
        def forward(self, features):
            return ([features],)

        def predict_by_feat(self, *outs, batch_img_metas, rescale):
            return [
                InstanceData(
                    bboxes=torch.tensor([[10.0, 20.0, 40.0, 60.0]]).repeat(80, 1),
                    scores=torch.linspace(0.1, 0.9, 80),
                    labels=torch.arange(80),
                )
                for _ in batch_img_metas
            ]

    def __init__(self):
        super().__init__()
        self.bbox_head = self.Head()
        self.data_preprocessor = DetDataPreprocessor()

    def extract_feat(self, inputs):
        return torch.zeros(len(inputs), 1, 1, 1)


def test_detections_carry_the_category_ids_of_coco(real_images):
    _, dataset = open_split(real_images, "val")
    detections, image_ids = detect(
        EveryClass(), dataset, device=CPU, label="", batch_size=2, indices=range(3)
    )
    content = truth(real_images, "val")
    assert image_ids == [image["id"] for image in content["images"]][:3]
    ids = [category["id"] for category in content["categories"]]
    assert (len(ids), ids[-1]) == (80, 90)  # COCO's ids have gaps
    assert [found["category_id"] for found in detections] == ids * 3
    assert all(found["bbox"] == [10, 20, 30, 40] for found in detections)


def test_input_is_as_large_as_the_papers(real_images):
    """Shorter side 800 pixels, but the longer one 1333 at most; boxes are enlarged with the image."""
    _, dataset = open_split(real_images, "val")
    images = truth(real_images, "val")["images"]
    by_aspect = sorted(
        range(len(images)), key=lambda i: abs(math.log(images[i]["width"] / images[i]["height"]))
    )
    limits = set()
    for index in (*by_aspect[:3], *by_aspect[-3:]):
        packed, original = dataset[index], images[index]
        sample = packed["data_samples"]
        assert sample.img_id == original["id"]
        height, width = packed["inputs"].shape[1:]
        assert sample.img_shape == (height, width)
        limit = "shorter" if min(height, width) == 800 else "longer"
        limits.add(limit)
        assert max(height, width) <= 1333
        assert limit == "shorter" or max(height, width) == 1333
        scale = width / original["width"]
        assert height / original["height"] == pytest.approx(scale, rel=2e-3)
        instances = dataset.get_data_info(index)["instances"]
        boxes = [instance["bbox"] for instance in instances if not instance["ignore_flag"]]
        expected = torch.tensor(boxes).reshape(-1, 4) * scale
        torch.testing.assert_close(sample.gt_instances.bboxes.tensor, expected, rtol=2e-3, atol=0.5)
    assert limits == {"shorter", "longer"}


# Classes of the user's own


@pytest.mark.parametrize("order", [[3, 7], [7, 3]], ids=["by id", "not by id"])
def test_two_classes_of_the_users_own(tmp_path, order):
    """As many classes as the file lists, each label with the name that the file gives it."""
    names = {3: "screw", 7: "wing nut"}
    generate(tmp_path / "own", DrawingSpec(seed=0, train_images=4, val_images=2, image_size=(64, 64)))
    for split in SPLITS:
        content = truth(tmp_path / "own", split)
        content["categories"] = [{"id": number, "name": names[number]} for number in order]
        for annotation in content["annotations"]:
            annotation["category_id"] = order[annotation["category_id"] % 2]
        (tmp_path / "own" / SPLITS[split].annotations).write_text(json.dumps(content))

    config, dataset = open_split(tmp_path / "own", "train")
    assert config.model.bbox_head.num_classes == 2
    assert sorted(config.classes) == sorted(names.values())
    annotations = truth(tmp_path / "own", "train")["annotations"]
    seen = set()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        expected = [names[a["category_id"]] for a in annotations if a["image_id"] == info["img_id"]]
        found = [dataset.metainfo["classes"][instance["bbox_label"]] for instance in info["instances"]]
        assert found == expected
        seen |= set(found)
    assert seen == set(names.values())
