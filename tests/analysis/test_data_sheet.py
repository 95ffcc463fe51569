"""What is said of the generated images, and that their hue says nothing of the class."""

import json

import numpy as np
import pytest

from tood.analysis.data_sheet import centres_inside, contact_sheet, data_sheet, hue_says
from tood.data.shapes import CLASSES
from tood.data.synthetic import DrawingSpec, generate
from tood.report.image_page import image_page
from tood.study.paths import REPOSITORY
from tood.study.scales import load_scale

STRIDES = (4, 8, 16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "drawn"
    generate(root, DrawingSpec(seed=3, train_images=300, val_images=150, image_size=(96, 96)))
    return root


@pytest.fixture(scope="module")
def sheet(root):
    return data_sheet(root, STRIDES, (5, 13))


def test_hue_alone_does_not_tell_the_class(sheet):
    objects = sheet["splits"]["val2017"]["objects"]
    chance = 1 / len(CLASSES)
    error = (chance * (1 - chance) / objects) ** 0.5
    assert sheet["hue"]["accuracy"] < chance + 3 * error


def test_a_hue_that_tells_the_class_is_found_out():
    rng = np.random.default_rng(0)
    labels = rng.integers(8, size=800)
    angles = 2 * np.pi * labels / 8 + rng.normal(0, 0.1, 800)
    points = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = hue_says((points[:400], labels[:400]), (points[400:], labels[400:]))
    assert found["accuracy"] > 0.95
    assert found["largest_class"] == pytest.approx(np.bincount(labels[400:]).max() / 400, abs=1e-4)


@pytest.mark.parametrize(
    ("box", "strides", "inside"),
    [
        ([1, 1, 8, 8], [4], 4),  # 4 and 8 on each axis
        ([4, 4, 4, 4], [4], 0),  # centres at the border are not inside
        ([3.9, 3.9, 4.2, 4.2], [4], 4),
        ([0.5, 0.5, 7, 3], [4], 0),
        ([1, 1, 16, 8], [4, 8, 16], 4 * 2 + 2 * 1 + 1 * 0),
        ([-1, -1, 2, 2], [4, 8], 2),
    ],
)
def test_anchor_centres_in_a_box(box, strides, inside):
    assert centres_inside(np.array(box), strides) == inside


def test_the_sheet_counts_what_is_annotated(root, sheet):
    content = json.loads((root / "annotations/instances_val2017.json").read_text())
    objects = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    found = sheet["splits"]["val2017"]
    assert found["images"] == 150
    assert found["objects"] == len(objects) == sum(found["objects_by_class"].values())
    assert list(found["objects_by_class"]) == list(CLASSES)
    assert found["objects_by_size"] == {
        "small": sum(a["area"] < 1024 for a in objects),
        "medium": sum(1024 <= a["area"] < 9216 for a in objects),
        "large": 0,
    }
    assert found["mask_area"]["50"] == pytest.approx(np.median([a["area"] for a in objects]), abs=0.1)
    assert found["crowds"] == len(content["annotations"]) - len(objects) > 0
    shares = found["share_with_fewer_centres"]
    assert 0 <= shares["5"] <= shares["13"] < 0.15


def test_the_kept_sheet_is_of_the_images_of_mini():
    """`tood images` writes it anew."""
    kept = json.loads((REPOSITORY / "docs/mini_images.json").read_text())
    assert kept["drawing"] == load_scale("mini").drawing.model_dump(mode="json")
    assert (REPOSITORY / "docs/mini_images.md").read_text() == image_page(kept, "mini")


def test_the_page_says_what_the_sheet_has(root, sheet):
    page = image_page(sheet, "mini")
    val, train = sheet["splits"]["val2017"], sheet["splits"]["train2017"]
    assert f"| Objects | {train['objects']:,} | {val['objects']:,} |" in page
    assert f"{sheet['hue']['accuracy']:.1%} of the validation objects" in page
    assert "fewer than 100" in page
    assert "large objects" in page
    picture = contact_sheet(root, "val2017", columns=3, rows=2)
    assert picture.size == (3 * 192, 2 * 192)
