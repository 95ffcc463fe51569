"""Some of a dataset's classes: what is kept, in every layout, and what is said of an unknown class."""

import json
from pathlib import Path

import pytest
from helpers.layouts import NAMES, SPLITS, write_voc, write_yolo

from tood.data.annotations import DataError
from tood.data.conversion import (
    Conversion,
    conversion_of,
    convert,
    require_known,
    sources_digest,
)
from tood.data.subset import UnknownClass
from tood.data.validation import Split, check_dataset
from tood.ledger.code_digest import training_files
from tood.study.paths import PACKAGE

COCO = {"train": Split("train.json", "photos/train"), "val": Split("val.json", "photos/val")}
WORDS = {
    "VOC": {"train": "train", "val": "val"},
    "YOLO": dict.fromkeys(SPLITS, "data.yaml"),
    "COCO": {name: f"{split.annotations}:{split.images}" for name, split in COCO.items()},
}


def write_coco(root: Path) -> Path:
    """The pictures of YOLO's layout; the two files number and order the classes in their own ways."""
    base = write_yolo(root, images="photos/{split}")
    convert(Conversion(layout="YOLO", root=base, splits=WORDS["YOLO"]), base / "converted")
    for name, shift in (("train", 10), ("val", 90)):
        content = json.loads((base / f"converted/{name}.json").read_text())
        for image in content["images"]:
            image["file_name"] = Path(image["file_name"]).name
        for annotation in content["annotations"]:
            annotation |= {"category_id": annotation["category_id"] + shift, "score": 0.5, "ignore": 0}
        content["categories"] = [
            {"id": number + shift, "name": label, "supercategory": "thing"}
            for number, label in enumerate(NAMES)
        ][:: -1 if name == "val" else 1]
        (base / f"{name}.json").write_text(json.dumps(content))
    return base


@pytest.fixture(params=["VOC", "YOLO", "COCO"])
def conversion(request, tmp_path) -> Conversion:
    write = {"VOC": write_voc, "YOLO": write_yolo, "COCO": write_coco}[request.param]
    return Conversion(layout=request.param, root=write(tmp_path / "own"), splits=WORDS[request.param])


def of(conversion: Conversion, *classes: str) -> Conversion:
    return conversion.model_copy(update={"classes": classes})


def contents(conversion: Conversion, folder: Path) -> dict[str, dict]:
    convert(conversion, folder)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in conversion.splits}


def objects(content: dict) -> list[tuple[str, str, list[float]]]:
    """Image, class and box of each annotation."""
    images = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [
        (images[entry["image_id"]], names[entry["category_id"]], entry["bbox"])
        for entry in content["annotations"]
    ]


def test_objects_of_other_classes_are_left_out_and_every_image_is_kept(conversion, tmp_path):
    everything = contents(of(conversion, *NAMES[:4]), tmp_path / "all")
    some = contents(of(conversion, "dog"), tmp_path / "some")
    assert [len(objects(content)) for content in everything.values()] == [5, 2]
    for name, content in some.items():
        assert [image["file_name"] for image in content["images"]] == [
            image["file_name"] for image in everything[name]["images"]
        ]
        assert objects(content) == [thing for thing in objects(everything[name]) if thing[1] == "dog"]
        assert all((tmp_path / "some/images" / i["file_name"]).is_file() for i in content["images"])
    assert [len(objects(content)) for content in some.values()] == [2, 1]
    manifest = check_dataset(
        tmp_path / "some", Split("train.json", "images"), Split("val.json", "images"), sizes=[[64, 64]]
    )
    assert manifest["splits"]["train"]["images_without_annotation"] == 2


def test_a_class_keeps_its_id_in_both_splits(conversion, tmp_path):
    """YOLO counts from 0, and VOC's are sorted; COCO's are those of the file that is evaluated."""
    first, second = {"VOC": (2, 3), "YOLO": (2, 0), "COCO": (92, 90)}[conversion.layout]
    kept = contents(of(conversion, "cat", "dog"), tmp_path / "data")
    for content in kept.values():
        assert {entry["name"]: entry["id"] for entry in content["categories"]} == {
            "cat": first,
            "dog": second,
        }
    assert kept["train"]["categories"] == kept["val"]["categories"]


def test_difficult_objects_stay_so(tmp_path):
    root = write_voc(tmp_path / "voc")
    kept = contents(
        Conversion(layout="VOC", root=root, splits=WORDS["VOC"], classes=("dog", "hot dog")),
        tmp_path / "data",
    )
    assert [entry.get("difficult") for entry in kept["train"]["annotations"]].count(1) == 1
    assert len(kept["train"]["annotations"]) == 3


def test_annotations_of_coco_keep_all_that_they_have(tmp_path):
    root = write_coco(tmp_path / "coco")
    path = root / "train.json"
    content = json.loads(path.read_text())
    dogs = [entry for entry in content["annotations"] if entry["category_id"] == 10]
    dogs[0] |= {"iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [48, 64]}}
    dogs[1]["ignore"] = 1
    other = next(entry for entry in content["annotations"] if entry["category_id"] == 12)
    content["annotations"].append(dogs[0] | {"id": 77, "iscrowd": 0, "ignore": 0})
    path.write_text(json.dumps(content))
    kept = contents(
        Conversion(layout="COCO", root=root, splits=WORDS["COCO"], classes=("dog",)), tmp_path / "data"
    )["train"]["annotations"]
    wanted = [*dogs, content["annotations"][-1]]
    assert kept == [entry | {"category_id": 90} for entry in wanted]
    assert other["id"] not in {entry["id"] for entry in kept}


def test_what_was_found_is_counted(conversion, tmp_path):
    with pytest.raises(DataError, match=r"classes: val has no object of cat\. Hint: name a class that both"):
        convert(of(conversion, "cat"), tmp_path / "data")
    said = convert(of(conversion, "ant", "dog"), tmp_path / "data")
    assert ": 4 images, 2 objects (" in said[0]
    assert said[1] == "train: 3 of 5 objects are of other classes and left out."
    assert said[3] == "val: 0 of 2 objects are of other classes and left out."


def test_a_class_that_there_is_not_is_named_with_those_that_are_close(conversion, tmp_path):
    file, key = {
        "VOC": ("own", "names of objects"),
        "YOLO": ("own/data.yaml", "names"),
        "COCO": ("own/train.json", "categories"),
    }[conversion.layout]
    for wrong, meant in (("hotdog", "hot dog or dog"), ("DOG", "dog")):
        said = rf"{file}: {key}: no class '{wrong}'\. Hint: did you mean {meant}\? there are ant, cat, "
        for act in (require_known, lambda conversion: convert(conversion, tmp_path / "data")):
            with pytest.raises(UnknownClass, match=said):
                act(of(conversion, "dog", wrong))
    require_known(of(conversion, "dog", "hot dog"))


def test_each_file_of_coco_needs_the_classes_and_may_have_others(tmp_path):
    root = write_coco(tmp_path / "coco")
    content = json.loads((root / "val.json").read_text())
    content["categories"] = [entry for entry in content["categories"] if entry["name"] in ("dog", "ant")]
    (root / "val.json").write_text(json.dumps(content))
    conversion = Conversion(layout="COCO", root=root, splits=WORDS["COCO"])
    convert(of(conversion, "dog"), tmp_path / "data")
    with pytest.raises(
        UnknownClass, match=r"val\.json: categories: no class 'cat'\. Hint: .*there are ant, dog"
    ):
        require_known(of(conversion, "cat"))


def test_a_fault_of_the_users_file_names_that_file(tmp_path):
    root = write_coco(tmp_path / "coco")
    content = json.loads((root / "val.json").read_text())
    content["annotations"][0]["bbox"] = [1, 2, 3]
    (root / "val.json").write_text(json.dumps(content))
    conversion = Conversion(layout="COCO", root=root, splits=WORDS["COCO"], classes=("dog",))
    with pytest.raises(DataError, match=r"coco/val\.json: annotations\[0\]\.bbox: expected four finite"):
        convert(conversion, tmp_path / "data")


def test_other_classes_are_other_sources(conversion):
    digests = [
        sources_digest(of(conversion, *some)) for some in ((), ("dog",), ("cat", "dog"), ("ant", "dog"))
    ]
    assert len({*digests, ""}) == 5


def test_a_changed_file_of_coco_is_another_source(tmp_path):
    root = write_coco(tmp_path / "coco")
    conversion = conversion_of(root, dict.fromkeys(COCO), COCO, ["dog"])
    assert conversion == Conversion(layout="COCO", root=root, splits=WORDS["COCO"], classes=("dog",))
    before = sources_digest(conversion)
    (root / "val.json").write_text((root / "val.json").read_text() + " ")
    assert sources_digest(conversion) not in (before, "")


def test_nothing_of_it_is_code_of_a_training():
    assert (PACKAGE / "data/subset.py").is_file()
    assert PACKAGE / "data/subset.py" not in training_files("tood.py", {})
