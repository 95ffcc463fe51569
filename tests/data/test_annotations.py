"""What the check says of annotations: what training leaves out, and which class is which."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.small_coco import TRAIN, VAL, edit
from PIL import Image

from tood.data.annotations import DataError, described, leaves, shown
from tood.data.loading import build_dataset
from tood.data.synthetic import CLASSES
from tood.data.validation import Split, check_dataset


def objects(root: Path, split: Split, classes, flip: float | None = 0.0) -> dict[str, list]:
    """By file name: class and box of each object, as the loader has them."""
    loaded = build_dataset(root, *split, classes, size=(48, 32), flip=flip)
    infos = map(loaded.get_data_info, range(len(loaded)))
    return {
        Path(info["img_path"]).name: [
            (classes[one["bbox_label"]], one["bbox"]) for one in info["instances"] if not one["ignore_flag"]
        ]
        for info in infos
    }


def object_on(image: int, number: int, **values) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [4, 4, 20, 20],
        "area": 400,
        "iscrowd": 0,
    } | values


def test_what_training_leaves_out_is_counted_and_said(root):
    """By the first reason; the loader takes as many images and objects as are not counted."""
    left_out = [
        *({"area": 0}, {"area": 0, "bbox": [4, 4, 0, 9]}, {"bbox": [48, 0, 9, 9]}, {"bbox": [-9, 0, 9, 9]}),
        *({"bbox": [4, 4, 0.5, 9], "area": 4}, {"ignore": 1, "area": 0}, {"iscrowd": 1}, {"iscrowd": True}),
        {"bbox": [47.5, 0, 30, 0.75]},
    ]

    def change(content):
        content["images"] = content["images"][:5]
        content["images"][4] |= {"height": 31}
        on_first = [object_on(1, number, **values) for number, values in enumerate([*left_out, {}])]
        content["annotations"] = [*on_first, object_on(2, 90), object_on(3, 91, area=0), object_on(5, 92)]

    edit(root, change)
    Image.new("RGB", (48, 31)).save(root / "train2017/000000000005.png")
    manifest = check_dataset(root, TRAIN, VAL)
    assert manifest["left_out"] == {
        "annotations": {
            "on too small images": 1,
            "marked as ignored": 1,
            "outside of the image": 2,
            "of area 0": 2,
            "below 1 pixel": 3,
            "crowd regions": 2,
        },
        "images": {"below 32 pixels": 1, "without annotation": 1},
    }
    assert manifest["notes"] == [
        "Training leaves out 11 of 13 annotations (1 on too small images, 1 marked as ignored, 2 outside of "
        "the image, 2 of area 0, 3 below 1 pixel, 2 crowd regions) and 2 of 5 images (1 below 32 pixels, 1 "
        "without annotation). The evaluation counts what is marked as ignored."
    ]
    loaded = objects(root, TRAIN, CLASSES)
    assert len(loaded) == 5 - 2
    assert sum(map(len, loaded.values())) == 13 - 11


def test_nothing_is_said_where_nothing_is_left_out(root):
    edit(
        root,
        lambda content: content.update(
            annotations=[object_on(image["id"], image["id"]) for image in content["images"]]
        ),
    )
    manifest = check_dataset(root, TRAIN, VAL)
    assert manifest["notes"] == []
    assert {count for counts in manifest["left_out"].values() for count in counts.values()} == {0}
    alone = check_dataset(root, None, VAL)
    assert (alone["notes"], alone["left_out"]) == ([], {})


def test_images_of_both_splits_are_said(root):
    notes = check_dataset(root, TRAIN, TRAIN)["notes"]
    assert notes[-1] == "6 of 6 validation images are training images too."


@pytest.mark.parametrize("value", ["0", [0], None, 2])
def test_ignore_is_a_number(root, value):
    edit(root, lambda content: content["annotations"][0].update(ignore=value))
    with pytest.raises(DataError, match=r"annotations\[0\]\.ignore: expected 0 or 1, found"):
        check_dataset(root, TRAIN, VAL)


RENUMBERINGS = {
    "other ids": lambda number: number + 10,
    "ids from 0, as of a converter": lambda number: number - 1,
    "ids in another order": lambda number: len(CLASSES) + 1 - number,
    "negative and huge ids": lambda number: -(2**63) if number == 3 else number * 2**62,
}


def renumber(content: dict, number_of: Callable[[int], int]) -> None:
    for category in content["categories"]:
        category["id"] = number_of(category["id"])
    for annotation in content["annotations"]:
        annotation["category_id"] = number_of(annotation["category_id"])


@pytest.mark.parametrize("split", [TRAIN, VAL], ids=["train", "val"])
@pytest.mark.parametrize("another_order", [False, True])
@pytest.mark.parametrize("number_of", RENUMBERINGS.values(), ids=RENUMBERINGS)
def test_classes_are_matched_by_name(root, split, number_of, another_order):
    """As `supervision` numbers classes of folders: by what each folder holds."""
    before = {one: objects(root, one, CLASSES) for one in (TRAIN, VAL)}

    def change(content):
        renumber(content, number_of)
        if another_order:
            content["categories"].reverse()

    edit(root, change, split)
    manifest = check_dataset(root, TRAIN, VAL)
    names = [category["name"] for category in manifest["categories"]]
    assert names == list(CLASSES[::-1] if another_order and split == TRAIN else CLASSES)
    truth = json.loads((root / VAL.annotations).read_text())["categories"]
    ids = {category["name"]: category["id"] for category in truth}
    assert {one["name"]: one["id"] for one in manifest["categories"]} == ids
    (note,) = [note for note in manifest["notes"] if "matched by name" in note]
    assert f"{TRAIN.annotations} and {VAL.annotations} list the same classes with other ids" in note
    for one in (TRAIN, VAL):
        assert objects(root, one, names) == before[one]
    tested = build_dataset(root, *VAL, names, size=(48, 32), flip=None)
    assert tested.cat_ids == [ids[name] for name in names]


def test_classes_in_another_order_alone(root):
    before = objects(root, VAL, CLASSES)
    edit(root, lambda content: content["categories"].reverse(), VAL)
    manifest = check_dataset(root, TRAIN, VAL)
    assert [one["name"] for one in manifest["categories"]] == list(CLASSES)
    assert "list the same classes with another order: they are matched by name" in manifest["notes"][0]
    assert objects(root, VAL, CLASSES) == before


def test_ids_of_any_size_and_sign_train(root):
    """0, negative and huge ids of images and annotations leave every object where it is."""
    before = objects(root, TRAIN, CLASSES)

    def change(content):
        new = {image["id"]: (-1) ** place * place * 2**61 for place, image in enumerate(content["images"])}
        for image in content["images"]:
            image["id"] = new[image["id"]]
        for number, annotation in enumerate(content["annotations"]):
            annotation |= {"image_id": new[annotation["image_id"]], "id": (-3) ** number - 1}

    edit(root, change)
    assert json.loads((root / TRAIN.annotations).read_text())["annotations"][0]["id"] == 0
    check_dataset(root, TRAIN, VAL)
    assert objects(root, TRAIN, CLASSES) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [' + "1" * 5000 + "]}", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"images": [{"id": 1e999}], "annotations": [], "categories": [1]}', "the decimal number inf"),
        ('{"images": [{"id": 1, "file_name": "\\ud800", "width": 1, "height": 1}], "annotations": [], '
         '"categories": [{"id": 1, "name": "a"}]}', "annotations: none can be used"),
    ],
    ids=["a number of 5000 digits", "too deep", "infinite id", "half a character"],
)  # fmt: skip
def test_json_that_python_alone_would_stop_at(root, content, said):
    (root / TRAIN.annotations).write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        check_dataset(root, TRAIN, VAL)
    assert TRAIN.annotations in str(caught.value)


def test_names_that_stay_in_their_folder():
    folder = Path("data/photos")
    for name in (
        "a.png",
        "./a.png",
        "deep/a.png",
        "..a.png",
        "a..png",
        "...",
        str(folder.absolute() / "a.png"),
    ):
        assert not leaves(folder, name), name
    for name in ("../a.png", "..", "deep/../../a.png", "deep/../a.png", "/a.png", "/"):
        assert leaves(folder, name), name
    assert leaves(folder, str(folder.absolute().parent / "photos2/a.png"))


def test_values_in_messages():
    assert described(None) == "nothing"
    assert described("12") == "the text '12'"
    assert described({}) == "the object {}"
    assert len(shown(10**4000)) == 80
