"""YOLO's layout: boxes, polygons, the ways to describe folders, and that each fault is named with a hint."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.layouts import NAMES, SPLITS, TRAIN, lines_of, paint, write_text, write_yolo
from torchvision.ops import box_convert

from tood.data import yolo
from tood.data.annotations import DataError
from tood.data.conversion import Conversion, convert

PLAIN = "labels/train/plain.txt"


@pytest.fixture
def root(tmp_path) -> Path:
    return write_yolo(tmp_path / "yolo")


def convert_all(
    root: Path, folder: Path, train: str = "data.yaml", val: str = "data.yaml"
) -> dict[str, dict]:
    convert(Conversion(layout="YOLO", root=root, splits={"train": train, "val": val}), folder)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in ("train", "val")}


def stems(content: dict) -> set[str]:
    return {Path(image["file_name"]).stem for image in content["images"]}


def objects(content: dict, stem: str = "plain") -> list[tuple[int, list[float]]]:
    """Category and box of each object of an image."""
    (image,) = (image["id"] for image in content["images"] if Path(image["file_name"]).stem == stem)
    return [(a["category_id"], a["bbox"]) for a in content["annotations"] if a["image_id"] == image]


def test_boxes_as_torchvision_computes_them(root, tmp_path):
    random = np.random.default_rng(0)
    sides = random.uniform(0.05, 0.5, (50, 2))
    centres = sides / 2 + random.uniform(0, 1, (50, 2)) * (1 - sides)
    rows = np.concatenate([centres, sides], axis=1).round(6)
    write_text(root / PLAIN, "".join(f"2 {' '.join(map(str, row))}\n" for row in rows))
    scaled = torch.from_numpy(rows * [64, 48, 64, 48])
    wanted = box_convert(scaled, "cxcywh", "xywh")
    found = objects(convert_all(root, tmp_path / "data")["train"])
    assert {category for category, _ in found} == {2}
    assert np.abs(np.array([box for _, box in found]) - wanted.numpy()).max() < 1e-3


def test_an_object_that_is_there_twice_is_said_to_be(root, tmp_path):
    """Ultralytics drops the second one; two equal objects can hardly both be found."""
    write_text(root / PLAIN, "1 .5 .5 .2 .2\n1 .5 .5 .2 .2\n2 .5 .5 .2 .2\n1 .5 .5 .2 .3\n")
    splits = {"train": "data.yaml", "val": "data.yaml"}
    said = convert(Conversion(layout="YOLO", root=root, splits=splits), tmp_path / "data")
    assert "1 objects have class and box of another one of their image and count all the same." in said
    kept = Conversion(layout="YOLO", root=root, splits=splits, classes=(NAMES[2],)).of(["train"])
    assert not any("of another one" in sentence for sentence in convert(kept, tmp_path / "data"))


def test_a_polygon_has_the_box_of_its_points(root, tmp_path):
    write_text(root / PLAIN, "1 0.25 0.5 0.5 0.25 0.75 1.0\n0 .5 .5 .5 .5\n3.0 .1 .1 .9 .1 .9 .2 .1 .2\n")
    assert objects(convert_all(root, tmp_path / "data")["train"]) == [
        (1, [16, 12, 32, 36]),
        (0, [16, 12, 32, 24]),
        (3, pytest.approx([6.4, 4.8, 51.2, 4.8])),
    ]


def test_shares_that_were_rounded_up_end_at_the_border(root, tmp_path):
    write_text(root / PLAIN, "0 0.500001 0.5 1.000001 1.005\n")
    assert objects(convert_all(root, tmp_path / "data")["train"]) == [(0, [0, 0, 64, 48])]


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "folders below images": lambda root: write_yolo(root),
    "as Roboflow exports it": lambda root: write_yolo(root, "{split}/images", "../{split}/images"),
    "labels beside the images": lambda root: write_yolo(root, "{split}"),
    "a path of another machine": lambda root: prepend(write_yolo(root), "path: /content/datasets/cats\n"),
    "a path below": lambda root: prepend(nested(root, "set"), "path: set\n"),
    "a path that is the folder": lambda root: prepend(write_yolo(root), "path: .\n"),
    "lists of images": lambda root: listed(write_yolo(root), "images/{split}/{name}"),
    "lists with ./": lambda root: listed(write_yolo(root), "./images/{split}/{name}"),
    "several folders": lambda root: replace(write_yolo(root), "images/train", "[images/train, images/train]"),
    "a table of names": lambda root: replace(
        write_yolo(root), f"names: {NAMES}", "names: {0: dog, 1: hot dog, 2: cat, 3: ant, 4: unused}"
    ),
    "validation": lambda root: replace(write_yolo(root), "val:", "validation:"),
    "a marked and commented file": lambda root: prepend(write_yolo(root), "\ufeff# Ultralytics\n"),
}


def prepend(root: Path, text: str) -> Path:
    write_text(root / "data.yaml", text + (root / "data.yaml").read_text())
    return root


def replace(root: Path, old: str, new: str) -> Path:
    text = (root / "data.yaml").read_text()
    assert old in text
    write_text(root / "data.yaml", text.replace(old, new))
    return root


def nested(root: Path, name: str) -> Path:
    write_yolo(root / name)
    (root / name / "data.yaml").rename(root / "data.yaml")
    return root


def listed(root: Path, line: str) -> Path:
    for split in SPLITS:
        names = sorted(path.name for path in (root / "images" / split).iterdir())
        write_text(root / f"{split}.txt", "\n".join(line.format(split=split, name=name) for name in names))
        replace(root, f"images/{split}", f"{split}.txt")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    root = tmp_path / "yolo"
    LAYOUTS[layout](root)
    found = convert_all(root, tmp_path / "data")
    assert {name: stems(content) for name, content in found.items()} == {
        name: set(pictures) for name, pictures in SPLITS.items()
    }
    for name, pictures in SPLITS.items():
        for stem, picture in pictures.items():
            wanted = [
                (
                    NAMES.index(thing.name),
                    pytest.approx([thing.x, thing.y, thing.width, thing.height], abs=1e-3),
                )
                for thing in picture.objects
            ]
            assert objects(found[name], stem) == wanted
    names = {content["categories"][4]["name"] for content in found.values()}
    assert names == {"unused"}  # the YAML file says the classes, and not what occurs


def test_hidden_folders_are_skipped(root, tmp_path):
    paint(root / "images/val/.thumbnails/1.jpg", TRAIN["plain"])
    write_text(root / "labels/val/.cache/2.txt", "0 .5 .5 .5 .5\n")
    (root / "images/val/.link").symlink_to(root / "images/train")
    assert stems(convert_all(root, tmp_path / "data")["val"]) == set(SPLITS["val"])


def test_links_to_folders_are_followed_and_each_image_counts_once(root, tmp_path):
    """With the labels of its own folder, also if a link to this folder comes first in the alphabet."""
    for kind in ("images", "labels"):
        (root / kind / "train").rename(tmp_path / kind)
        (root / kind / "train").mkdir()
        (root / kind / "train/more").symlink_to(tmp_path / kind)
        (root / kind / "train/other").symlink_to(tmp_path / kind)
    paint(root / "images/train/real/here.png", TRAIN["plain"])
    write_text(root / "labels/train/real/here.txt", lines_of(TRAIN["plain"]))
    (root / "images/train/a link").symlink_to("real")
    (root / "images/train/real/loop").symlink_to("../..")
    (tmp_path / "images/back").symlink_to(root / "images/train")
    found = convert_all(root, tmp_path / "data")["train"]
    assert [image["file_name"] for image in found["images"]] == [
        *(f"images/train/more/{stem}.png" for stem in sorted(TRAIN)),
        "images/train/real/here.png",
    ]
    assert objects(found, "plain") == objects(found, "here") != []


def test_a_link_that_leads_nowhere_is_a_fault(root, tmp_path):
    (root / "images/train/more").symlink_to(tmp_path / "unmounted")
    said = r"images/train/more: .*a link to .*unmounted, which does not exist\. Hint: mend or remove the link"
    with pytest.raises(DataError, match=said):
        convert_all(root, tmp_path / "data")


def test_a_folder_that_may_not_be_read_is_a_fault(root, tmp_path, monkeypatch):
    """It is not left out in silence, as `os.walk` does it; root may read every folder."""
    locked, scandir = root / "images/train/more", os.scandir
    locked.mkdir()

    def refusing(folder: str) -> object:
        if Path(folder) == locked:
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        DataError, match=r"images/train/more: whole folder: cannot be read: Permission denied"
    ):
        convert_all(root, tmp_path / "data")


def said_of(root: Path, folder: Path) -> list[str]:
    return convert(Conversion(layout="YOLO", root=root, splits=dict.fromkeys(SPLITS, "data.yaml")), folder)


def test_labels_without_an_image_are_counted(root, tmp_path):
    """Those of LabelImg's `classes.txt` and those of a split's lists are no fault."""
    write_text(root / "labels/train/classes.txt", "dog\n")
    assert not any("have no image" in sentence for sentence in said_of(root, tmp_path / "data"))
    (root / "images/train/plain.png").rename(root / "images/train/plain.heic")
    write_text(root / "labels/val/sub/2.txt", "0 .5 .5 .5 .5\n")
    noted = "2 text files among the labels have no image and are not read, such as labels/train/plain.txt."
    assert noted in said_of(root, tmp_path / "data")
    (root / "images/train/plain.heic").rename(root / "images/train/plain.png")
    (root / "labels/val/sub/2.txt").unlink()
    listed(root, "images/{split}/{name}")
    lines = (root / "train.txt").read_text().splitlines()
    write_text(root / "train.txt", "\n".join(lines[1:]))
    assert not any("have no image" in sentence for sentence in said_of(root, tmp_path / "data"))


def test_images_of_two_splits_are_counted(root, tmp_path):
    replace(root, "images/train", "images")
    assert any(
        sentence.startswith("2 images are there twice, in another split")
        for sentence in said_of(root, tmp_path / "data")
    )


def test_two_images_with_one_file_of_labels_are_refused(root, tmp_path):
    paint(root / "images/train/nothing.bmp", TRAIN["nothing"])  # neither has labels
    assert len(convert_all(root, tmp_path / "data")["train"]["images"]) == len(TRAIN) + 1
    paint(root / "images/train/plain.bmp", TRAIN["plain"])
    said = (
        r"labels/train/plain\.txt: name of the file: the images images/train/plain\.bmp and "
        r"images/train/plain\.png share these labels\. Hint: rename or remove"
    )
    with pytest.raises(DataError, match=said):
        convert_all(root, tmp_path / "data")


def test_what_lies_in_the_folder_goes_before_what_lies_outside(tmp_path):
    """Roboflow's folders, and lists whose lines lead to images outside if they are relative to the list."""
    write_yolo(tmp_path, "{split}/images")
    root = write_yolo(tmp_path / "yolo", "{split}/images", "../{split}/images")
    wanted = {name: set(pictures) for name, pictures in SPLITS.items()}
    found = convert_all(root, tmp_path / "data")
    assert {name: stems(content) for name, content in found.items()} == wanted
    for split, pictures in SPLITS.items():
        write_text(root / f"{split}.txt", "".join(f"../{split}/images/{stem}.png\n" for stem in pictures))
        replace(root, f"../{split}/images", f"../{split}.txt")
    prepend(root, "path: below\n")
    (root / "below").mkdir()
    found = convert_all(root, tmp_path / "data")
    assert {name: stems(content) for name, content in found.items()} == wanted


def test_another_key_is_another_split(root, tmp_path):
    replace(root, "val: images/val", "val: images/train\ntest: images/val")
    found = convert_all(root, tmp_path / "data", val="data.yaml:test")
    assert stems(found["val"]) == set(SPLITS["val"])


def test_numbers_of_classes_may_have_gaps_and_names_be_numbers(root, tmp_path):
    replace(root, f"nc: {len(NAMES)}\nnames: {NAMES}", "names: {7: cat, 0: 3, 2: 'no'}")
    for path in (root / "labels").rglob("*.txt"):
        write_text(path, "7 .5 .5 .5 .5\n")
    categories = convert_all(root, tmp_path / "data")["val"]["categories"]
    assert categories == [{"id": 0, "name": "3"}, {"id": 2, "name": "no"}, {"id": 7, "name": "cat"}]


LINES = {
    "a class that is not there": (
        "5 .5 .5 .5 .5",
        r"class 5 is not one of names, which has 0 to 4\. Hint: add its name to the YAML file",
    ),
    "a negative class": ("-1 .5 .5 .5 .5", "class -1 is not one of names"),
    "half a class": ("0.5 .5 .5 .5 .5", r"class 0\.5 is not one of names"),
    "a name of a class": ("cat .5 .5 .5 .5", "expected a finite number, found 'cat'"),
    "no number": ("0 .5 .5 nan .5", "expected a finite number, found 'nan'"),
    "pixels": ("0 30 20 10 10", r"expected shares of the image from 0 to 1, found '30 20 10 10'"),
    "outside": ("0 -.2 .5 .1 .1", "expected shares of the image from 0 to 1"),
    "too few": ("0 .5 .5 .5", "found 4 words"),
    "a detection": ("0 .5 .5 .5 .5 .9", r"found 6 words\. Hint: six are a detection with its score"),
    "half a point": ("0 .1 .1 .2 .2 .3 .3 .4", "found 8 words"),
    "no area": ("0 .5 .5 0 .5", "the box has no area"),
    "a polygon without area": ("0 .1 .1 .2 .1 .3 .1", "the box has no area"),
    "a negative width": ("0 .5 .5 -.2 .5", "expected shares of the image"),
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 .5 .5 0.000001 .5", r"the box is too small: it has 6\.4e-05 x 24 pixels\."),
        ("0 1.005 .5 .01 .5", "the box lies outside of the image, which has 64 x 48 pixels"),
    ],
)
def test_a_box_of_which_nothing_is_left_is_named(root, tmp_path, text, said):
    write_text(root / PLAIN, f"0 .5 .5 .5 .5\n{text}\n")
    with pytest.raises(DataError, match=rf"plain\.txt: line 2: {said}.* Hint: correct the box or remove"):
        convert_all(root, tmp_path / "data")


@pytest.mark.parametrize("line", LINES)
def test_a_fault_of_a_line_is_named(root, tmp_path, line):
    text, said = LINES[line]
    write_text(root / PLAIN, f"0 .5 .5 .5 .5\n\n{text}\n")
    with pytest.raises(DataError, match=rf"labels/train/plain\.txt: line 3: .*{said}") as refused:
        convert_all(root, tmp_path / "data")
    assert " Hint: " in str(refused.value)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nnames: *c\n"
FILES = {
    "no YAML": ("names: [", r"data\.yaml: whole file: cannot be read as YAML: .*line 1"),
    "no table": ("- dog\n", r"data\.yaml: whole file: expected keys, found the list \['dog'\]"),
    "empty": ("", r"data\.yaml: whole file: expected keys, found nothing"),
    "code": (
        "names: !!python/object/apply:os.getcwd []\n",
        "cannot be read as YAML: could not determine a constr",
    ),
    "aliases": (BOMB, r"cannot be read as YAML: it has aliases"),
    "deep": ("[" * 1000, "data.yaml: whole file: "),
    "no text": (b"\xff\xfe", "cannot be read as YAML: .*utf-8"),
    "no names": ("train: images/train\n", r"names: expected a list or a table of names, found nothing"),
    "names in one text": ("names: dog, cat\n", "names: expected a list or a table of names, found the text"),
    "a truth value": (
        "names: [yes, no]\n",
        r"names\[0\]: .*found the truth value true.*put the name in quotes",
    ),
    "two of a name": ("names: [dog, dog]\n", r"names\[1\]: duplicate name 'dog'"),
    "a name for a name": (
        "names: {dog: 0}\n",
        r"names\[dog\]: expected a number from 0, found the text 'dog'",
    ),
    "another number": ("nc: 3\nnames: [dog]\n", "nc: it is 3, and names has 1"),
    "key points": ("kpt_shape: [17, 3]\nnames: [dog]\n", "kpt_shape: its labels have key points"),
    "no split": (
        "names: [dog]\n",
        r"train: expected the folder or the list .*found nothing\. Hint: write `train:",
    ),
    "no folder": (
        "names: [dog]\ntrain: photos\n",
        r"train: not there: .*yolo/photos\. Hint: correct the path",
    ),
    "a folder outside": (
        "names: [dog]\ntrain: ..\n",
        r"train: .* leads out of data_root\. Hint: let data_root be",
    ),
    "no images": ("names: [dog]\ntrain: labels/train\n", r"train: no image in 'labels/train'"),
}


@pytest.mark.parametrize("file", FILES)
def test_a_fault_of_the_yaml_file_is_named(root, tmp_path, file):
    text, said = FILES[file]
    (root / "data.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=said) as refused:
        convert_all(root, tmp_path / "data")
    assert "data.yaml: " in str(refused.value)
    assert " Hint: " in str(refused.value)


def test_images_without_any_labels_are_a_fault(root, tmp_path):
    (root / "labels/train").rename(root / "texts")
    said = r"train: no image of it has a file of labels; labels/train/.*\.txt was looked for first"
    with pytest.raises(DataError, match=said):
        convert_all(root, tmp_path / "data")


def test_faults_of_lists_are_named(root, tmp_path):
    listed(root, "images/{split}/{name}")
    lines = (root / "train.txt").read_text().splitlines()
    write_text(root / "train.txt", "\n".join([*lines, "images/train/other.png"]))
    with pytest.raises(DataError, match=r"train\.txt: line 5: no such image: .*images/train/other\.png"):
        convert_all(root, tmp_path / "data")
    write_text(root / "train.txt", "\n".join([*lines, lines[0]]))
    with pytest.raises(DataError, match=r"train\.txt: line 5: .* is in line 1 already"):
        convert_all(root, tmp_path / "data")


def test_two_files_need_the_same_names(root, tmp_path):
    write_text(root / "other.yaml", "val: images/val\nnames: [dog]\n")
    with pytest.raises(DataError, match=r"other\.yaml: names: other names than in data\.yaml"):
        convert_all(root, tmp_path / "data", val="other.yaml")
    with pytest.raises(DataError, match=r"none\.yaml: whole file: no such file under data_root"):
        convert_all(root, tmp_path / "data", val="none.yaml")


def test_a_label_file_lies_in_labels_for_the_last_images():
    """As Ultralytics has it: only a whole name of a folder counts."""
    assert yolo._labels_of("images/train/a.b.jpg") == "labels/train/a.b.txt"
    assert yolo._labels_of("images/images/a.jpg") == "images/labels/a.txt"
    assert yolo._labels_of("my images/a.jpg") == "my images/a.txt"
    assert lines_of(TRAIN["nothing"]) == ""
