"""A sample of a dataset: which images are taken, and that the sample is a dataset itself."""

import json

import pytest
from PIL import Image

from tood.data.annotations import DataError
from tood.data.sample import EVALUATED, LARGEST, TYPICAL, take_sample
from tood.data.validation import Split

TRAIN, VAL = Split("train.json", "some images"), Split("val.json", "others")
# Width, height and objects. At most 200 x 100 pixels the second takes 200 x 100, the third 100 x 100, the
# fourth 125 x 100, the fifth 100 x 200. The first has no object, the last is too small.
SHAPES = [(300, 150, 0), (300, 150, 1), (50, 50, 9), (100, 80, 1), (40, 80, 2), (31, 90, 3)]


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "data"
    for split in (TRAIN, VAL):
        (root / split.images).mkdir(parents=True)
        images, annotations = [], []
        for number, (width, height, objects) in enumerate(SHAPES, 1):
            name = f"{split.images[0]}{number}.png"
            colour = (number, 0, len(split.images))
            Image.new("RGB", (width, height), colour).save(root / split.images / name)
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for _ in range(objects):
                box = {"bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0, "category_id": 5}
                annotations.append({"id": len(annotations) + 1, "image_id": number, **box})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "thing"}]}
        (root / split.annotations).write_text(json.dumps(content))
    return root


def sampled(dataset, folder, **numbers) -> dict:
    numbers = dict(typical=3, largest=2, evaluated=2) | numbers
    return take_sample(dataset, TRAIN, VAL, folder, size=(100, 200), **numbers)


def ids(folder, split: Split) -> list[int]:
    return [image["id"] for image in json.loads((folder / split.annotations).read_text())["images"]]


def test_the_images_that_are_taken(dataset, tmp_path):
    manifest = sampled(dataset, tmp_path / "sample")
    assert manifest["trained_images"] == 4  # without that of no object, and the small one
    assert manifest["splits"]["train"]["images"] == 3
    assert set(ids(tmp_path / "sample", TYPICAL)) < {2, 3, 4, 5}
    assert ids(tmp_path / "sample", LARGEST) == [5, 2]  # equally large; the first has more objects
    assert ids(tmp_path / "sample", EVALUATED) == [2, 3]  # on the first one there is nothing to find


def test_a_sample_has_the_images_and_all_of_their_annotations(dataset, tmp_path):
    folder = tmp_path / "sample"
    sampled(dataset, folder, typical=400)
    content = json.loads((folder / TYPICAL.annotations).read_text())
    assert sorted(ids(folder, TYPICAL)) == [2, 3, 4, 5]
    assert len(content["annotations"]) == 1 + 9 + 1 + 2
    for image in content["images"]:
        assert (folder / TYPICAL.images / image["file_name"]).is_file()
    assert not (folder / TYPICAL.images).resolve().is_relative_to(folder)


def test_another_sample_in_its_place(dataset, tmp_path):
    folder = tmp_path / "sample"
    first = sampled(dataset, folder)
    assert sampled(dataset, folder, largest=1)["splits"] == first["splits"]
    assert ids(folder, LARGEST) == [5]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "train.json").unlink(),
            r"train\.json: annotations: no such file under data_root",
        ),
        (lambda root: (root / "val.json").write_text("{"), r"val\.json"),
        (lambda root: [path.write_bytes(b"x") for path in root.glob("others/*.png")], r"others?/o?\d?|val/"),
    ],
)
def test_what_would_break_a_study_is_said(dataset, tmp_path, damage, message):
    damage(dataset)
    with pytest.raises(DataError, match=message):
        sampled(dataset, tmp_path / "sample")
