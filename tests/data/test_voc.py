"""VOC's layout: boxes as others read them, folders and names, and that each fault is named with a hint."""

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.layouts import (
    SPLITS,
    TRAIN,
    VAL,
    Painted,
    Picture,
    paint,
    write_flat,
    write_text,
    write_voc,
    xml_of,
)
from mmdet.datasets import XMLDataset
from torchvision.datasets import VOCDetection

from tood.data import voc
from tood.data.annotations import DataError
from tood.data.conversion import Conversion, convert

PLAIN = "Annotations/plain.xml"


@pytest.fixture
def root(tmp_path) -> Path:
    return write_voc(tmp_path / "voc")


def boxes(root: Path, folder: Path, train: str = "train", val: str = "val") -> dict[str, list]:
    """Class and box of each object by the stem of its image, of all splits."""
    convert(Conversion(layout="VOC", root=root, splits={"train": train, "val": val}), folder)
    found: dict[str, list] = {}
    for name in ("train", "val"):
        content = json.loads((folder / f"{name}.json").read_text())
        stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        found |= {stem: [] for stem in stems.values()}
        for annotation in content["annotations"]:
            entry = (names[annotation["category_id"]], annotation["bbox"])
            found[stems[annotation["image_id"]]].append(entry)
    return found


ALL = {
    stem: [(thing.name, [thing.x, thing.y, thing.width, thing.height]) for thing in picture.objects]
    for pictures in SPLITS.values()
    for stem, picture in pictures.items()
}


def test_boxes_as_mmdet_reads_them_with_the_last_column_and_row(root, tmp_path):
    """mmdet takes 1 from all four numbers, and its width is x2 - x1."""
    found, names, compared = boxes(root, tmp_path / "data"), ["ant", "cat", "dog", "hot dog"], 0
    for split in SPLITS:
        dataset = XMLDataset(
            data_root=str(root),
            ann_file=f"ImageSets/Main/{split}.txt",
            data_prefix={"sub_data_root": ""},
            metainfo={"classes": names},
            test_mode=True,
            pipeline=[],
        )
        for info in (dataset.get_data_info(index) for index in range(len(dataset))):
            theirs = [(names[each["bbox_label"]], each["bbox"]) for each in info["instances"]]
            for (name, (x, y, width, height)), (label, corners) in zip(
                found[info["img_id"]], theirs, strict=True
            ):
                assert (name, [x, y, x + width - 1, y + height - 1]) == (label, corners)
                compared += 1
    assert compared == 7


def test_objects_as_torchvision_lists_them(tmp_path):
    """In its folders, which a list leads to from above."""
    write_voc(tmp_path / "VOCdevkit/VOC2012")
    for path in list((tmp_path / "VOCdevkit/VOC2012/JPEGImages").iterdir()):
        path.rename(path.with_suffix(".jpg"))
    lists = (f"VOCdevkit/VOC2012/ImageSets/Main/{split}.txt" for split in SPLITS)
    found, compared = boxes(tmp_path, tmp_path / "data", *lists), 0
    for split in SPLITS:
        theirs = VOCDetection(str(tmp_path), image_set=split)
        for path, (_, target) in zip(theirs.images, theirs, strict=True):
            listed = target["annotation"].get("object", [])
            ends = [
                (each["name"], [int(each["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")])
                for each in listed
            ]
            assert [
                (name, [x + 1, y + 1, x + w, y + h]) for name, (x, y, w, h) in found[Path(path).stem]
            ] == ends
            compared += len(ends)
    assert compared == 7


def test_folders_of_images_with_files_beside_them(tmp_path):
    for name, pictures in SPLITS.items():
        write_flat(tmp_path / "photos" / name, pictures)
    assert boxes(tmp_path, tmp_path / "data", "photos/train", "photos/val") == ALL


@pytest.mark.parametrize("labels", ["Annotations", "annotations"])
@pytest.mark.parametrize("images", ["JPEGImages", "images"])
def test_whole_folders_without_lists(tmp_path, labels, images):
    for name, pictures in SPLITS.items():
        write_voc(tmp_path / name, {name: pictures})
        (tmp_path / name / "Annotations").rename(tmp_path / name / labels)
        (tmp_path / name / "JPEGImages").rename(tmp_path / name / images)
    assert boxes(tmp_path, tmp_path / "data") == ALL


def test_what_lies_below_a_folder_is_read_too_but_nothing_hidden(tmp_path):
    """Files of one name in several folders are different images; a link to a folder is as a folder."""
    write_flat(tmp_path / "train/sub/deeper", TRAIN)
    write_flat(tmp_path / "val/sub", {"held_out": VAL["held_out"]})
    paint(tmp_path / "elsewhere/nothing here.png", VAL["nothing here"])
    (tmp_path / "val/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "val/sub/again").symlink_to("../..")
    write_flat(tmp_path / "val/.thumbnails", VAL)
    assert boxes(tmp_path, tmp_path / "data") == ALL
    write_flat(tmp_path / "val", {"held_out": Picture(50, 50, (Painted("ant", 1, 2, 3, 4),))})
    boxes(tmp_path, tmp_path / "data")
    content = json.loads((tmp_path / "data/val.json").read_text())
    found = [
        (image["file_name"], [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]])
        for image in content["images"]
    ]
    assert found == [
        ("val/held_out.png", [[1, 2, 3, 4]]),
        ("val/more/nothing here.png", []),
        ("val/sub/held_out.png", [[7, 11, 13, 17], [20, 30, 27, 31]]),
    ]


def test_folders_below_both_folders_of_voc(root, tmp_path):
    for folder, suffix in (("JPEGImages", "png"), ("Annotations", "xml")):
        (root / folder / "2007").mkdir()
        (root / folder / f"plain.{suffix}").rename(root / folder / f"2007/plain.{suffix}")
    assert boxes(root, tmp_path / "data", train=".") == ALL
    names = "".join(f"{'2007/' * (stem == 'plain')}{stem}\n" for stem in TRAIN)
    write_text(root / "ImageSets/Main/train.txt", names)
    assert boxes(root, tmp_path / "data") == ALL


def test_an_xml_file_in_another_folder_than_its_image_is_named(tmp_path):
    write_flat(tmp_path / "train", TRAIN)
    write_flat(tmp_path / "val", VAL)
    (tmp_path / "train/sub").mkdir()
    (tmp_path / "train/plain.xml").rename(tmp_path / "train/sub/plain.xml")
    with pytest.raises(
        DataError, match=r"train/sub/plain\.xml: .*train has no image of the name 'sub/plain'"
    ):
        boxes(tmp_path, tmp_path / "data")


def test_a_list_may_lie_elsewhere_and_name_files_with_their_suffix(root, tmp_path):
    for name, pictures in SPLITS.items():
        write_text(root / f"lists/{name}.txt", "\ufeff" + "".join(f"{stem}.png\r\n" for stem in pictures))
    assert boxes(root, tmp_path / "data", "lists/train.txt", "lists/val") == ALL


def test_names_match_however_their_accents_are_written(root, tmp_path):
    stem = "größe 图.v2"
    other = unicodedata.normalize("NFD", stem)
    assert other != stem
    (root / f"JPEGImages/{stem}.png").rename(root / f"JPEGImages/{other}.png")
    found = boxes(root, tmp_path / "data")
    assert found[other] == ALL[stem]


@pytest.mark.parametrize("size", [(0, 0), (7, 9), (48, 64)])
def test_the_image_says_its_size_and_not_the_file(root, tmp_path, size):
    write_text(root / PLAIN, xml_of(TRAIN["plain"], size=size))
    said = convert(
        Conversion(layout="VOC", root=root, splits={"train": "train", "val": "val"}), tmp_path / "data"
    )
    (image,) = (
        image
        for image in json.loads((tmp_path / "data/train.json").read_text())["images"]
        if image["file_name"] == "JPEGImages/plain.png"
    )
    assert (image["width"], image["height"]) == (64, 48)
    noted = "1 images have another size than their XML files say; that of the image counts."
    assert (noted in said) == (size != (0, 0))


def test_a_file_without_a_size_and_with_numbers_after_the_point(root, tmp_path):
    write_text(
        root / PLAIN,
        "<annotation><object><name> cat </name><bndbox><xmax>30.5</xmax><xmin>10.25</xmin><ymin>1</ymin>"
        "<ymax>48</ymax></bndbox></object></annotation>",
    )
    assert boxes(root, tmp_path / "data")["plain"] == [("cat", [9.25, 0, 21.25, 48])]


def box_of(x1: object, y1: object, x2: object, y2: object, name: str = "cat") -> str:
    return (
        f"<annotation><object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object></annotation>"
    )


def test_a_box_ends_at_the_border(root, tmp_path):
    """Programs that count from 0 write 0 at the border; more than a pixel is said."""
    write_text(root / PLAIN, box_of(0, 0, 64, 48))
    assert boxes(root, tmp_path / "data")["plain"] == [("cat", [0, 0, 64, 48])]
    conversion = Conversion(layout="VOC", root=root, splits={"train": "train", "val": "val"})
    beyond = "1 boxes reach over the border of their image by more than a pixel and end there now."
    assert beyond not in convert(conversion, tmp_path / "data")
    write_text(root / PLAIN, box_of(30, 20, 90, 70))
    assert boxes(root, tmp_path / "data")["plain"] == [("cat", [29, 19, 35, 29])]
    assert beyond in convert(conversion, tmp_path / "data")


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    "<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'>]><annotation><object><name>&c;</name></object></annotation>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'
DECLARES = (
    "plain.xml: whole file: cannot be read as XML: it declares a document type, which may define entities"
)
FAULTS: dict[str, tuple[str, str]] = {
    "no XML": ("<annotation><object>", r"plain\.xml: whole file: not valid XML: .*line 1, column 20"),
    "empty": ("", r"plain\.xml: whole file: not valid XML: no element found"),
    "an entity bomb": (BOMB, re.escape(DECLARES)),
    "the same in UTF-16": (BOMB.replace('"1.0"', '"1.0" encoding="utf-16"'), re.escape(DECLARES)),
    "an entity of another file": (OUTSIDE, re.escape(DECLARES)),
    "an unknown encoding": ('<?xml version="1.0" encoding="x"?><a/>', r"plain\.xml: whole file: "),
    "another XML": ("<html/>", r"plain\.xml: whole file: expected the element annotation, found 'html'"),
    "no class": (box_of(1, 1, 2, 2, " "), r"plain\.xml: object\[0\]\.name: absent or empty"),
    "no box": (
        "<annotation><object><name>cat</name><robndbox/></object></annotation>",
        r"plain\.xml: object\[0\]\.bndbox: absent\. Hint: draw a box",
    ),
    "no number": (box_of("one", 1, 2, 2), r"plain\.xml: object\[0\]\.bndbox\.xmin: .*found 'one'"),
    "a number as Python has it": (box_of(1, 1, "2_0", 2), r"object\[0\]\.bndbox\.xmax: .*found '2_0'"),
    "infinite": (box_of(1, 1, "inf", 2), r"plain\.xml: object\[0\]\.bndbox\.xmax: .*found 'inf'"),
    "not a number": (box_of(1, "nan", 2, 2), r"plain\.xml: object\[0\]\.bndbox\.ymin: .*found 'nan'"),
    "half a box": (
        box_of(1, 1, 2, 2).replace("<ymax>2</ymax>", ""),
        r"plain\.xml: object\[0\]\.bndbox\.ymax: .*found None",
    ),
    "corners in the wrong order": (box_of(20, 1, 10, 2), r"object\[0\]\.bndbox: ends before it begins"),
    "outside": (
        box_of(70, 10, 80, 20),
        r"plain\.xml: object\[0\]: the box lies outside of the image, which has 64 x 48 pixels\. Hint: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_file_is_named(root, tmp_path, fault):
    text, said = FAULTS[fault]
    (root / PLAIN).write_bytes(text.encode("utf-16" if "utf-16" in text else "utf-8"))
    with pytest.raises(DataError, match=rf"{said}.* Hint: .+\.$" if "Hint" not in said else said):
        boxes(root, tmp_path / "data")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no image": (
        lambda root: (root / "JPEGImages/plain.png").unlink(),
        r"train\.txt: line 1: .*JPEGImages has no image of the name 'plain'\. Hint: remove the line",
    ),
    "no XML file": (
        lambda root: (root / PLAIN).unlink(),
        r"train\.txt: line 1: .*Annotations has no XML file of the name 'plain'",
    ),
    "two images": (
        lambda root: paint(root / "JPEGImages/plain.bmp", Picture(64, 48)),
        r"plain\.bmp: .*images plain\.bmp and plain\.png have one name but for the suffix",
    ),
    "two XML files": (
        lambda root: write_text(root / "Annotations/plain.XML", xml_of(TRAIN["plain"])),
        r"Annotations/plain\.XML: .*XML files plain\.XML and plain\.xml have one name .* Hint: rename",
    ),
    "a line twice": (
        lambda root: write_text(root / "ImageSets/Main/train.txt", "plain\n\nplain.png\n"),
        r"train\.txt: line 3: 'plain' is in line 1 already",
    ),
    "the list of a class": (
        lambda root: write_text(root / "ImageSets/Main/train.txt", "plain -1\n"),
        r"train\.txt: line 1: .* Hint: name a list of images; VOC's list of a class",
    ),
    "an empty list": (
        lambda root: write_text(root / "ImageSets/Main/train.txt", "\n"),
        r"train\.txt: whole file: it names no image",
    ),
    "a list that is no text": (
        lambda root: (root / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe\x00"),
        r"train\.txt: whole file: cannot be read: .*utf-8",
    ),
    "no list": (
        lambda root: (root / "ImageSets/Main/train.txt").unlink(),
        r"voc: train: train=train is neither a list \(train or ImageSets/Main/train\.txt; lists there: "
        r"val\.txt\) nor a folder of images and XML files\. Hint: write train=ANNOTATIONS:IMAGES for COCO's",
    ),
    "no folder of XML files": (
        lambda root: (root / "Annotations").rename(root / "xml"),
        r"train\.txt: whole file: no folder of data_root above it has both Annotations or annotations and ",
    ),
    "a name that leads out": (
        lambda root: write_text(root / "ImageSets/Main/train.txt", "../JPEGImages/plain\n"),
        r"train\.txt: line 1: ",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fault_of_the_folders_is_named(root, tmp_path, change):
    alter, said = CHANGES[change]
    alter(root)
    with pytest.raises(DataError, match=said):
        boxes(root, tmp_path / "data")


def test_faults_of_a_flat_folder_are_named(tmp_path):
    write_flat(tmp_path / "train", TRAIN)
    write_flat(tmp_path / "val", VAL)
    (tmp_path / "val/held_out.png").unlink()
    with pytest.raises(
        DataError, match=r"val/held_out\.xml: .*val has no image of the name 'held_out' \(there"
    ):
        boxes(tmp_path, tmp_path / "data")
    (tmp_path / "val/held_out.xml").unlink()
    with pytest.raises(
        DataError, match=r"val: whole folder: no XML file is in .*for YOLO name its data\.yaml"
    ):
        boxes(tmp_path, tmp_path / "data")


def test_a_word_that_leads_out_of_the_folder_is_refused(root):
    with pytest.raises(DataError, match=r"train=\.\./voc is neither a list"):
        voc.find(root, "../voc", "train")
