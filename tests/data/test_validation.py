"""The preflight of a dataset: what it accepts, and that each fault is named with a hint."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.small_coco import TRAIN, VAL, edit
from PIL import Image

from tood.data.annotations import DataError
from tood.data.loading import build_dataset
from tood.data.synthetic import CLASSES
from tood.data.validation import Split, check_dataset

FIRST_TRAIN, FIRST_VAL = "train2017/000000000001.png", "val2017/000001000001.png"


def check(root: Path, **options) -> dict:
    return check_dataset(root, TRAIN, VAL, **options)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_manifest_of_a_good_dataset(root):
    manifest = check(root)
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["categories"] == [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    content = json.loads((root / TRAIN.annotations).read_text())
    train = manifest["splits"]["train"]
    assert train["annotation_file"] == TRAIN.annotations
    assert (train["images"], manifest["splits"]["val"]["images"]) == (6, 3)
    assert train["annotations"] == len(content["annotations"])
    assert check(root) == manifest


def test_manifest_counts_crowds_and_images_without_annotation(root):
    def change(content):
        image = content["images"][0]["id"]
        content["annotations"] = [
            {"id": i, "image_id": image, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": i % 2}
            for i in range(1, 6)
        ]

    edit(root, change)
    train = check(root)["splits"]["train"]
    assert train["crowd_annotations"] == 3
    assert train["images_without_annotation"] == 5


def test_manifest_tells_changed_images_and_annotations_apart(root):
    before = check(root)["splits"]
    Image.effect_noise((48, 32), 90).convert("RGB").save(root / FIRST_TRAIN)
    edit(root, lambda content: content["info"].update(version="2"), VAL)
    after = check(root)["splits"]
    assert after["train"]["image_digest"] != before["train"]["image_digest"]
    assert after["train"]["sha256"] == before["train"]["sha256"]
    assert after["val"]["image_digest"] == before["val"]["image_digest"]
    assert after["val"]["sha256"] != before["val"]["sha256"]


def test_one_pixel_of_one_image_changes_the_digest(root):
    """Also where the file keeps its size: BMP does not compress, and Pillow goes by the content."""
    pixels, digests = Image.new("RGB", (48, 32)), set()
    for value in (0, 1):
        pixels.putpixel((5, 5), (0, 0, value))
        pixels.save(root / FIRST_VAL, format="BMP")
        digests.add(((root / FIRST_VAL).stat().st_size, check(root)["splits"]["val"]["image_digest"]))
    ((size, one), (same_size, other)) = digests
    assert (size, one != other) == (same_size, True)


def test_image_digest_ignores_the_order_of_entries(root):
    before = check(root)["splits"]["train"]["image_digest"]
    edit(root, lambda content: content["images"].reverse())
    assert check(root)["splits"]["train"]["image_digest"] == before


def test_progress_counts_up_to_all_images(root):
    calls = []
    check(root, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 9) for done in range(1, 10)]


def test_boxes_without_extent_are_tolerated(root):
    edit(root, lambda content: content["annotations"][0].update(bbox=[3, 4, 0.0, 5], area=0))
    check(root)


def test_image_ids_may_recur_in_the_other_split(root):
    (root / "annotations/twin.json").write_bytes((root / TRAIN.annotations).read_bytes())
    manifest = check_dataset(root, TRAIN, Split("annotations/twin.json", "train2017"))
    assert manifest["splits"]["val"]["sha256"] == manifest["splits"]["train"]["sha256"]


@pytest.mark.parametrize(
    ("orientation", "stored"), [(1, (48, 32)), (3, (48, 32)), (6, (32, 48)), (8, (32, 48))]
)
def test_an_image_has_the_size_that_the_loader_has(root, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6 and 8: to be shown turned by a quarter
    name = "000000000001.jpg"
    Image.new("RGB", stored).save(root / "train2017" / name, "JPEG", exif=exif)
    edit(root, lambda content: content["images"][0].update(file_name=name))
    check(root)
    loaded = build_dataset(root, *TRAIN, CLASSES, size=(48, 32), flip=0.0)
    index = [one["img_id"] for one in map(loaded.get_data_info, range(len(loaded)))].index(1)
    assert tuple(loaded[index]["inputs"].shape) == (3, 32, 48)


def test_boxes_of_an_image_before_it_is_turned(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 32)).save(root / FIRST_TRAIN, "JPEG", exif=exif)
    assert_refused(root, FIRST_TRAIN, "32 x 48", "48 x 32", "EXIF", "upright")


@pytest.mark.parametrize(
    ("images", "train", "val"),
    [
        # Annotations by view: 26 boats and 2 crowds of them, 3 flowers, ...
        ("photographs", *[[9, 28 + 3 + 22 + 22 + 6 + 2 + 0 + 22 + 2, 4 * 2, 1]] * 2),
        ("tiny_coco", [50, 470, 5, 1], [50, 382, 5, 2]),
    ],
    ids=["photographs", "tiny_coco"],
)
def test_real_images(request, images, train, val):
    root = request.getfixturevalue(images)
    manifest = check(root)
    counts = ("images", "annotations", "crowd_annotations", "images_without_annotation")
    assert [manifest["splits"]["train"][key] for key in counts] == train
    assert [manifest["splits"]["val"][key] for key in counts] == val
    assert len(manifest["categories"]) == 80
    assert manifest["categories"][-1] == {"id": 90, "name": "toothbrush"}


# --- each fault: what the message must name ---


def assert_refused(root: Path, *fragments: str, **options) -> None:
    with pytest.raises(DataError) as caught:
        check(root, **options)
    message = str(caught.value)
    for fragment in (*fragments, "Hint: "):
        assert fragment in message


def test_no_root(tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere", "--config data_root=PATH")


@pytest.mark.parametrize("split", [TRAIN, VAL])
def test_no_annotation_file(root, split):
    (root / split.annotations).unlink()
    assert_refused(root, split.annotations, "no such file", "--config data_root=PATH")


@pytest.mark.parametrize("split", [TRAIN, VAL])
def test_truncated_json(root, split):
    cut_short(root / split.annotations)
    size = (root / split.annotations).stat().st_size
    assert_refused(root, split.annotations, "line 1, column", f"{size} bytes", "fetch")


def test_binary_instead_of_json(root):
    (root / TRAIN.annotations).write_bytes(b'{"images": "\xff\xfe"}')
    assert_refused(root, TRAIN.annotations, "not text at byte 12")


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": {}, "annotations": [], "categories": []}'])
def test_not_an_instances_file(root, content):
    (root / VAL.annotations).write_text(content)
    assert_refused(root, VAL.annotations, "images", "missing, or not a list", "COCO instances file")


def test_a_byte_order_mark(root):
    """pycocotools, which reads text, refuses it."""
    file = root / VAL.annotations
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_refused(root, VAL.annotations, "not valid JSON", "without a byte order mark")


UNUSED = {
    "crowds": {"iscrowd": 1},
    "boxes in shares of the image": {"bbox": [0.25, 0.25, 0.5, 0.5]},
    "no area": {"area": 0},
    "outside": {"bbox": [480, 0, 9, 9]},
    "to be ignored": {"ignore": 1},
}


@pytest.mark.parametrize("values", UNUSED.values(), ids=UNUSED)
@pytest.mark.parametrize("split", [TRAIN, VAL])
def test_a_split_of_which_the_loader_takes_no_object(root, split, values):
    edit(root, lambda content: [one.update(values) for one in content["annotations"]], split)
    assert_refused(root, split.annotations, "none can be used")
    loaded = build_dataset(root, *split, CLASSES, size=(48, 32), flip=None)
    found = [one for index in range(len(loaded)) for one in loaded.get_data_info(index)["instances"]]
    assert all(one["ignore_flag"] for one in found)


def test_images_that_are_too_small_to_train_on(root):
    """The loader leaves them out in training and not in testing."""
    for split in (TRAIN, VAL):
        for file in (root / split.images).iterdir():
            Image.new("RGB", (48, 31)).save(file)
        edit(root, lambda content: [one.update(height=31) for one in content["images"]], split)
    assert_refused(root, TRAIN.annotations, "none can be used", "32 pixels")
    check_dataset(root, None, VAL)
    assert len(build_dataset(root, *VAL, CLASSES, size=(48, 32), flip=None)) == 3
    edit(root, lambda content: content["images"][0].update(height=32))
    Image.new("RGB", (48, 32)).save(root / FIRST_TRAIN)
    check(root)
    assert len(build_dataset(root, *TRAIN, CLASSES, size=(48, 32), flip=0.0)) == 1


def _set(table: str, **values) -> Callable[[dict], None]:
    """Overwrites keys of the second entry of a table."""
    return lambda content: content[table][1].update(values)


def _unset(table: str, key: str) -> Callable[[dict], None]:
    return lambda content: content[table][1].pop(key)


FAULTS = {
    "no images": (lambda c: c["images"].clear(), ["images: empty"]),
    "no categories": (lambda c: c["categories"].clear(), ["categories: empty"]),
    "no table": (lambda c: c.pop("annotations"), ["annotations: missing"]),
    "image twice": (_set("images", id=1), ["images[1].id", "duplicate id 1"]),
    "image without id": (_unset("images", "id"), ["images[1].id", "expected a whole number, found nothing"]),
    "image entry no object": (lambda c: c["images"].insert(1, 5), ["images[1].id"]),
    "category id twice": (_set("categories", id=1), ["categories[1].id", "duplicate id 1"]),
    "category name twice": (
        _set("categories", name="lollipop"),
        ["categories[1].name", "duplicate name 'lollipop'"],
    ),
    "annotation id twice": (_set("annotations", id=1), ["annotations[1].id", "duplicate id 1"]),
    "unknown image": (_set("annotations", image_id=77), ["annotations[1].image_id", "77 is not in images"]),
    "unknown category": (
        _set("annotations", category_id=9),
        ["annotations[1].category_id", "9 is not in categories"],
    ),
    "unhashable category": (_set("annotations", category_id=[1]), ["annotations[1].category_id"]),
    "no file name": (_unset("images", "file_name"), ["images[1].file_name"]),
    "no width": (_unset("images", "width"), ["images[1].width", "000000000002.png"]),
    "no height": (_set("images", height=0), ["images[1].height", "found 0"]),
    "no bbox": (_unset("annotations", "bbox"), ["annotations[1].bbox", "found None"]),
    "short bbox": (_set("annotations", bbox=[1, 2, 3]), ["annotations[1].bbox", "[1, 2, 3]"]),
    "negative width": (_set("annotations", bbox=[1, 2, -3, 4]), ["annotations[1].bbox", "-3"]),
    "infinite bbox": (_set("annotations", bbox=[1, 2, float("inf"), 4]), ["annotations[1].bbox"]),
    "nan bbox": (_set("annotations", bbox=[float("nan"), 2, 3, 4]), ["annotations[1].bbox"]),
    "text in bbox": (_set("annotations", bbox=["1", 2, 3, 4]), ["annotations[1].bbox", "'1'"]),
    "no area": (_unset("annotations", "area"), ["annotations[1].area"]),
    "no iscrowd": (_unset("annotations", "iscrowd"), ["annotations[1].iscrowd"]),
    "text as id": (_set("annotations", id="12"), ["annotations[1].id", "whole number, found the text '12'"]),
    "decimal id": (_set("images", id=3.0), ["images[1].id", "found the decimal number 3.0"]),
    "truth value as id": (_set("categories", id=True), ["categories[1].id", "found the truth value true"]),
    "text as image": (_set("annotations", image_id="12"), ["annotations[1].image_id", "found the text '12'"]),
    "decimal as category": (
        _set("annotations", category_id=2.0),
        ["annotations[1].category_id", "found the decimal number 2.0", "wherever it occurs"],
    ),
    "number as name": (
        _set("categories", name=5),
        ["categories[1].name", "a text, found the whole number 5"],
    ),
    "box beyond floats": (_set("annotations", bbox=[1e308, 0, 1e308, 9]), ["annotations[1].bbox", "1e+308"]),
    "box beyond float32": (_set("annotations", bbox=[0, 0, 1e39, 9]), ["annotations[1].bbox", "16,777,216"]),
    "box of endless digits": (
        _set("annotations", bbox=[0, 0, 10**400, 9]),
        ["annotations[1].bbox", "000..."],
    ),
    "negative area": (_set("annotations", area=-1), ["annotations[1].area", "found -1"]),
    "area that COCO does not count": (
        _set("annotations", area=1e11),
        ["annotations[1].area", "10,000,000,000"],
    ),
    "nan area": (_set("annotations", area=float("nan")), ["annotations[1].area", "found nan"]),
    "iscrowd 2": (_set("annotations", iscrowd=2), ["annotations[1].iscrowd", "found 2"]),
    "iscrowd as list": (_set("annotations", iscrowd=[0]), ["annotations[1].iscrowd", "found [0]"]),
    "width of endless digits": (_set("images", width=10**400), ["images[1].width", "000..."]),
    "name that leaves": (
        _set("images", file_name="../val2017/000001000001.png"),
        ["images[1].file_name", "leads out of the image folder", "relative to"],
    ),
    "name that comes back": (_set("images", file_name="a/../000000000002.png"), ["images[1].file_name"]),
    "absolute name": (_set("images", file_name="/etc/hostname"), ["images[1].file_name", "leads out"]),
}


@pytest.mark.parametrize(("change", "fragments"), FAULTS.values(), ids=FAULTS)
def test_faulty_annotations(root, change, fragments):
    edit(root, change)
    assert_refused(root, TRAIN.annotations, *fragments)


def test_splits_with_other_categories(root):
    edit(root, lambda content: content["categories"].append({"id": 9, "name": "kite"}), VAL)
    assert_refused(root, VAL.annotations, TRAIN.annotations, "missing []", "unexpected ['kite']")


def test_missing_images(root):
    for name in ("000000000003.png", "000000000005.png"):
        (root / "train2017" / name).unlink()
    assert_refused(root, TRAIN.annotations, "file_name", "2 of 6", "first 000000000003.png", "copy")


def test_truncated_png(root):
    cut_short(root / FIRST_VAL)
    assert_refused(root, FIRST_VAL, "cannot be read as an image", "fetch")


def test_truncated_jpeg(root):
    Image.effect_noise((48, 32), 90).convert("RGB").save(root / FIRST_TRAIN, "JPEG")
    cut_short(root / FIRST_TRAIN)
    assert_refused(root, FIRST_TRAIN, "cannot be read as an image", "truncated")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_not_an_image(root, content):
    (root / FIRST_TRAIN).write_bytes(content)
    assert_refused(root, FIRST_TRAIN, "cannot be read as an image")


@pytest.mark.parametrize(
    ("mode", "kind", "part"),
    [("F", "TIFF", "floating-point numbers"), ("I", "TIFF", "integers of 32 bits"), ("RGB", "EPS", "format")],
)
def test_what_training_cannot_read_is_refused(root, mode, kind, part):
    Image.new("RGB", (48, 32)).convert(mode).save(root / FIRST_VAL, kind)
    assert_refused(root, FIRST_VAL, "cannot be read as an image", part)


def test_what_is_no_file_is_refused_and_not_waited_for(root):
    (root / FIRST_VAL).unlink()
    os.mkfifo(root / FIRST_VAL)
    assert_refused(root, FIRST_VAL, "a folder, pipe or device")


def test_an_image_that_is_turned_by_xmp_alone(root):
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    Image.new("RGB", (48, 32)).save(root / FIRST_VAL, "JPEG", xmp=xmp)
    assert_refused(root, FIRST_VAL, "XMP", "upright")


def test_an_image_that_the_resize_makes_nothing_of(root):
    def thin(content):
        content["images"][0].update(width=4000, height=20)
        content["annotations"][0].update(image_id=content["images"][0]["id"], bbox=[9, 2, 9, 9])

    edit(root, thin, VAL)
    (root / FIRST_VAL).unlink()
    cut_short(root / FIRST_TRAIN)  # which is not decoded first
    Image.new("RGB", (4000, 20)).save(root / FIRST_VAL)
    assert_refused(root, FIRST_VAL, "4000 x 20", "64 x 0", "image_size=64,48", sizes=[(640, 480), (64, 48)])
    Image.new("RGB", (48, 32)).save(root / FIRST_TRAIN)
    manifest = check(root, sizes=[(640, 480)])
    assert manifest["thinnest"]["val"] == [str(root / FIRST_VAL), 4000, 20]
    assert manifest == check(root)  # whatever the sizes


def test_image_of_another_size(root):
    Image.new("RGB", (32, 48)).save(root / FIRST_VAL)
    assert_refused(root, FIRST_VAL, "32 x 48", "48 x 32", VAL.annotations)


def test_the_cheapest_problem_is_named_first(root):
    """With everything broken at once, faults surface in order of what they cost to find."""
    edit(root, _set("annotations", image_id=77), VAL)
    (root / "val2017/000001000002.png").unlink()
    whole = (root / FIRST_TRAIN).read_bytes()
    cut_short(root / FIRST_TRAIN)
    assert_refused(root, VAL.annotations, "image_id")
    edit(root, lambda content: content["annotations"][1].update(image_id=1_000_001), VAL)
    assert_refused(root, "1 of 3 image files", "000001000002.png")
    Image.new("RGB", (48, 32)).save(root / "val2017/000001000002.png")
    assert_refused(root, FIRST_TRAIN, "cannot be read as an image")
    (root / FIRST_TRAIN).write_bytes(whole)
    check(root)
