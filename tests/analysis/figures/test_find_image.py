"""Which image of a study's data `--image` means, for `tood maps` and `tood assign`."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tood.analysis.figures import assignment
from tood.analysis.figures.assignment import find_image
from tood.engine.config import resolve
from tood.study.declarations import ExperimentError
from tood.study.plan import Plan

CATEGORIES = [{"id": 1, "name": "cat"}]
# Ids, and names as the annotation files have them; two cameras number their pictures alike.
SPLITS = {
    "train": {1: "cam1/0000.png", 2: "cam2/0000.png", 3: "only.png", 7: "1001"},
    "val": {1: "cam3/0000.png", 1001: "cam2/0000.png", 4: "empty.png"},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for split, names in SPLITS.items():
        content = {"images": [], "annotations": [], "categories": CATEGORIES}
        for number, name in names.items():
            path = root / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48)).save(path, "PNG")
            content["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
            if name != "empty.png":
                entry = {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]}
                content["annotations"].append(entry | {"area": 81, "iscrowd": 0})
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def found(root):
    options = {"train": "train.json:train", "val": "val.json:val", "image_size": "64,48", "runs": "tood_af"}
    plan = Plan({"scale": "smoke", "name": "same_names", "data_root": str(root), **options})
    config = resolve(plan.settings("tood_af"), CATEGORIES, None)
    assignment._say.cache_clear()

    def find(image: str) -> str:
        dataset, index = find_image(image, plan, root, config)
        return str(Path(dataset.get_data_info(index)["img_path"]).resolve().relative_to(root))

    return find


@pytest.mark.parametrize(
    ("image", "path"),
    [
        ("cam1/0000.png", "train/cam1/0000.png"),  # its file_name
        ("cam3/0000.png", "val/cam3/0000.png"),
        ("1001", "train/1001"),  # a file_name before an id
        ("2", "train/cam2/0000.png"),  # an id
        ("train/cam2/0000.png", "train/cam2/0000.png"),  # a path from the root of the data
        ("only.png", "train/only.png"),
    ],
)
def test_an_image_is_found_by_the_first_that_fits(found, capsys, image, path):
    assert found(image) == path
    assert capsys.readouterr().err == ""


def test_a_path_on_the_disk_names_an_image(found, root, monkeypatch):
    assert found(str(root / "train/cam2/0000.png")) == "train/cam2/0000.png"
    monkeypatch.chdir(root / "train")
    assert found("./cam1/../cam2/0000.png") == "train/cam2/0000.png"


@pytest.mark.parametrize(
    ("image", "path", "other"),
    [
        ("cam2/0000.png", "val/cam2/0000.png", "train/cam2/0000.png"),
        ("1", "val/cam3/0000.png", "train/cam1/0000.png"),
    ],
)
def test_of_two_splits_the_validation_images_count_and_it_is_said_once(
    found, root, capsys, image, path, other
):
    assert (found(image), found(image)) == (path, path)
    message = f"tood: --image {image}: {root / path} is used; for {root / other} give its path\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("0000.png", ["4 images have this name", "val/cam3", "val/cam2", "train/cam1", "train/cam2"]),
        ("none.png", ["neither file_name, id, path nor base name", "val.json", "train.json"]),
        ("cam9/0000.png", ["neither"]),
        ("4", ["val/empty.png has no object"]),
    ],
)
def test_what_is_not_certain_is_refused(found, image, parts):
    with pytest.raises(ExperimentError, match=rf"^--image {image}: ") as caught:
        found(image)
    assert all(part in str(caught.value) for part in parts)
