"""Datasets of VOC and YOLO as COCO's: what both readers give, and that equal sources give equal files."""

import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.layouts import NAMES, SPLITS, TRAIN, Painted, Picture, paint, seen_boxes, write_voc, write_yolo
from PIL import Image
from pycocotools.coco import COCO

from tood.data.annotations import DataError
from tood.data.conversion import Conversion, conversion_of, convert, converted_from, sources_digest
from tood.data.validation import Split, changed_since_check, check_dataset
from tood.ledger.code_digest import training_files
from tood.study.paths import PACKAGE
from tood.study.scales import load_scale

MINI = load_scale("mini")
USUAL = {"train": MINI.train, "val": MINI.val}
CONVERTED = {name: Split(f"{name}.json", "images") for name in SPLITS}
WRITE = {"VOC": write_voc, "YOLO": write_yolo}
WORDS = {"VOC": {"train": "train", "val": "val"}, "YOLO": dict.fromkeys(SPLITS, "data.yaml")}


@pytest.fixture(params=["VOC", "YOLO"])
def conversion(request, tmp_path) -> Conversion:
    root = WRITE[request.param](tmp_path / "own data")
    return Conversion(layout=request.param, root=root, splits=WORDS[request.param])


def converted(conversion: Conversion, folder: Path) -> dict[str, dict]:
    convert(conversion, folder)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in conversion.splits}


def test_boxes_are_where_the_pixels_are(conversion, tmp_path):
    convert(conversion, tmp_path / "data")
    counted = 0
    for name, pictures in SPLITS.items():
        coco = COCO(tmp_path / "data" / f"{name}.json")
        assert {Path(image["file_name"]).stem for image in coco.imgs.values()} == set(pictures)
        for image in coco.imgs.values():
            path = tmp_path / "data/images" / image["file_name"]
            assert Image.open(path).size == (image["width"], image["height"])
            found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
            for annotation, box in zip(found, seen_boxes(path), strict=True):
                assert annotation["bbox"] == pytest.approx(box, abs=1e-4 * max(Image.open(path).size))
                counted += 1
            wanted = [thing.name for thing in pictures[path.stem].objects]
            assert [coco.cats[annotation["category_id"]]["name"] for annotation in found] == wanted
    assert counted == 7


def test_ids_of_classes_are_the_same_in_all_splits(conversion, tmp_path):
    """Each split has a class that the other has not."""
    contents = converted(conversion, tmp_path)
    categories = {"VOC": ["ant", "cat", "dog", "hot dog"], "YOLO": NAMES}[conversion.layout]
    first = {"VOC": 1, "YOLO": 0}[conversion.layout]
    for content in contents.values():
        assert content["categories"] == [
            {"id": number, "name": name} for number, name in enumerate(categories, first)
        ]


def test_what_is_converted_passes_the_check_and_keeps_images_without_objects(conversion, tmp_path):
    said = convert(conversion, tmp_path / "data")
    manifest = check_dataset(tmp_path / "data", *CONVERTED.values())
    assert manifest["splits"]["train"]["images_without_annotation"] == 1
    assert manifest["splits"]["val"]["images"] == 2
    word = conversion.splits["train"]
    assert said[0].startswith(f"{conversion.layout}, train={word}: 4 images, 5 objects (")


def test_equal_sources_give_equal_files(conversion, tmp_path):
    """Whatever their folder and times, and the order of a list."""
    before, digest = converted(conversion, tmp_path / "one"), sources_digest(conversion)
    root = shutil.copytree(conversion.root, tmp_path / "moved")
    for path in root.rglob("*.*"):
        os.utime(path, (0, 0))
    for path in root.glob("ImageSets/Main/*"):
        path.write_text("\n".join(reversed(path.read_text().split("\n"))))
    moved = conversion.model_copy(update={"root": root})
    convert(moved, tmp_path / "two")
    assert sources_digest(moved) == digest != ""
    for name in before:
        file = f"{name}.json"
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def first_labels(conversion: Conversion) -> Path:
    return (
        conversion.root
        / {"VOC": "Annotations/plain.xml", "YOLO": "labels/train/plain.txt"}[conversion.layout]
    )


def first_image(conversion: Conversion) -> Path:
    return conversion.root / {"VOC": "JPEGImages", "YOLO": "images/train"}[conversion.layout] / "plain.png"


def less(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("cat", "dog") if "cat" in text else text.partition("\n")[2])


@pytest.mark.parametrize(
    "change",
    [
        lambda conversion: less(first_labels(conversion)),
        lambda conversion: paint(first_image(conversion), Picture(500, 500, (Painted("dog", 1, 1, 9, 9),))),
        lambda conversion: first_image(conversion).rename(first_image(conversion).with_suffix(".PNG")),
    ],
    ids=["labels", "an image", "a name"],
)
def test_other_sources_have_another_digest(conversion, change):
    before = sources_digest(conversion)
    change(conversion)
    assert sources_digest(conversion) not in (before, "")


def test_sources_that_cannot_be_read_have_no_digest_and_converting_says_why(conversion, tmp_path):
    shutil.rmtree(conversion.root)
    assert sources_digest(conversion) == ""
    with pytest.raises(DataError, match=r"own data: data_root: no such folder\. Hint: "):
        convert(conversion, tmp_path / "data")


def test_the_files_keep_what_they_were_converted_from(conversion, tmp_path):
    assert converted_from(tmp_path / "data") == ""
    convert(conversion, tmp_path / "data", "abc")
    assert converted_from(tmp_path / "data") == "abc"
    (tmp_path / "data/sources.json").write_text("{")
    assert converted_from(tmp_path / "data") == ""


def test_an_image_that_changes_later_is_found_behind_the_link(conversion, tmp_path):
    convert(conversion, tmp_path / "data")
    manifest = tmp_path / "manifest.json"
    checked = check_dataset(tmp_path / "data", *CONVERTED.values())
    manifest.write_text(json.dumps({"root": str(tmp_path / "data"), **checked}))
    assert changed_since_check(manifest) is None
    os.utime(first_image(conversion), (0, 0))
    changed = changed_since_check(manifest)
    assert changed is not None
    assert changed.samefile(first_image(conversion))


def test_a_turned_image_counts_upright(conversion, tmp_path):
    """As in training: an EXIF orientation of 6 turns an image of 40 x 60 pixels to 60 x 40."""
    path = first_image(conversion)
    image = Image.new("RGB", (48, 64))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    (entry,) = (
        image
        for image in converted(conversion, tmp_path / "data")["train"]["images"]
        if Path(image["file_name"]).stem == "plain"
    )
    assert (entry["width"], entry["height"]) == (64, 48)
    check_dataset(tmp_path / "data", *CONVERTED.values())


def test_an_image_that_cannot_be_read_is_named(conversion, tmp_path):
    first_image(conversion).write_bytes(b"none")
    with pytest.raises(Exception, match=r"plain\.png: cannot be read as an image: .* Hint: "):
        convert(conversion, tmp_path / "data")


def test_nothing_of_it_is_code_of_a_training():
    read = set(training_files("tood.py", {}))
    assert PACKAGE / "data/loading.py" in read
    names = ("conversion", "labelled", "voc", "yolo")
    files = {PACKAGE / f"data/{name}.py" for name in names}
    assert all(path.is_file() for path in files)
    assert not read & files


# Which layout


def test_coco_needs_no_conversion(tmp_path):
    for given in ({"train": None, "val": None}, {"train": Split("a.json", "b"), "val": None}):
        assert conversion_of(tmp_path, given, USUAL) is None


@pytest.mark.parametrize("layout", WRITE)
def test_without_words_what_there_is_decides(tmp_path, layout):
    root = WRITE[layout](tmp_path)
    given = dict.fromkeys(SPLITS)
    assert conversion_of(root, given, USUAL) == Conversion(layout=layout, root=root, splits=WORDS[layout])
    annotations = root / USUAL["train"].annotations
    annotations.parent.mkdir(exist_ok=True)
    annotations.touch()
    assert conversion_of(root, given, USUAL) is None


@pytest.mark.parametrize(
    ("train", "val", "layout"),
    [
        ("trainval", "test", "VOC"),
        ("photos/train", "photos/val", "VOC"),
        ("VOC2007/ImageSets/Main/train.txt", "lists/val.txt", "VOC"),
        ("data.yaml", "data.yaml:test", "YOLO"),
        ("birds.yml", "birds.yml", "YOLO"),
    ],
)
def test_a_word_says_its_layout(tmp_path, train, val, layout):
    given = {"train": train, "val": val}
    assert conversion_of(tmp_path, given, USUAL) == Conversion(layout=layout, root=tmp_path, splits=given)


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ({"train": "train", "val": None}, "train VOC, val not given"),
        ({"train": "train", "val": "data.yaml"}, "train VOC, val YOLO"),
        ({"train": Split("train.json", "photos"), "val": "val"}, "train COCO, val VOC"),
    ],
)
def test_different_layouts_are_refused(tmp_path, given, kinds):
    with pytest.raises(DataError, match=rf"^train, val: different layouts: {kinds}\. Hint: name each split"):
        conversion_of(tmp_path, given, USUAL)


def test_one_split_alone(tmp_path):
    """As a study with released weights needs it."""
    root = write_voc(tmp_path / "voc")
    content = converted(
        Conversion(layout="VOC", root=root, splits=WORDS["VOC"]).of(["val"]), tmp_path / "data"
    )
    assert [category["name"] for category in content["val"]["categories"]] == ["ant", "dog"]
    assert not (tmp_path / "data/train.json").exists()


def test_difficult_objects_are_objects_and_are_counted(tmp_path):
    root = write_voc(tmp_path / "voc")
    said = convert(Conversion(layout="VOC", root=root, splits=WORDS["VOC"]), tmp_path / "data")
    assert "1 objects are marked as difficult and count as any other." in said
    annotations = json.loads((tmp_path / "data/train.json").read_text())["annotations"]
    assert [annotation["iscrowd"] for annotation in annotations] == [0] * 5
    assert [annotation.get("difficult", 0) for annotation in annotations] == [
        thing.difficult
        for stem in sorted(TRAIN, key="JPEGImages/{}.png".format)
        for thing in TRAIN[stem].objects
    ]
    manifest = check_dataset(tmp_path / "data", *CONVERTED.values())
    assert sum(manifest["left_out"]["annotations"].values()) == 0
