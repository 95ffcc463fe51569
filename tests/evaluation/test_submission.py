"""Submissions to COCO's server: format and name, what is refused, and what pycocotools reads from them."""

import json
import math
import struct
import zipfile
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from tood.data.annotations import DataError
from tood.evaluation.detection import coco_ap
from tood.evaluation.submission import (
    ImageInfo,
    SubmissionError,
    check,
    read,
    read_image_info,
    rounded,
    validate,
    write,
)

NAME = "detections_test-dev2017_tood_r101_results"


def image_info(root: Path, path: Path) -> dict:
    """A file of all images of a dataset in COCO's layout, as COCO's image_info files; its content."""
    content: dict = {"info": {}, "licenses": [], "images": []}
    for split in ("train2017", "val2017"):
        annotated = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        content["images"] += annotated["images"]
        content["categories"] = annotated["categories"]
    path.write_text(json.dumps(content))
    return content


def objects(root: Path) -> list[dict]:
    """The annotated objects of both splits as if a detector had found them exactly."""
    annotations = [
        annotation
        for split in ("train2017", "val2017")
        for annotation in json.loads((root / f"annotations/instances_{split}.json").read_text())[
            "annotations"
        ]
    ]
    return [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "bbox": annotation["bbox"],
            "score": 0.9 - 1e-6 * number,
        }
        for number, annotation in enumerate(annotations)
        if not annotation["iscrowd"]
    ]


@pytest.fixture
def written(real_images, tmp_path):
    """A submission of what is annotated on the photographs, and where the file of its images is."""
    image_info(real_images, tmp_path / "image_info_test-dev2017.json")
    path = tmp_path / f"{NAME}.zip"
    write(path, objects(real_images), read_image_info(tmp_path / "image_info_test-dev2017.json"))
    return path


def test_the_file_is_as_the_server_wants_it(written):
    with zipfile.ZipFile(written) as archive:
        assert archive.namelist() == [f"{NAME}.json"]
        entries = json.loads(archive.read(f"{NAME}.json"))
    assert {tuple(entry) for entry in entries} == {("image_id", "category_id", "bbox", "score")}
    assert all(side == round(side, 1) for entry in entries for side in entry["bbox"])
    assert max(entry["category_id"] for entry in entries) <= 90
    content = check(written, written.parent / "image_info_test-dev2017.json")
    assert content.startswith(f"{written}: {len(entries)} detections on ")


def test_pycocotools_reads_the_same_detections(written, real_images):
    """An independent reader: each box within half a tenth of a pixel, each id and score as it was."""
    images = COCO(str(written.parent / "image_info_test-dev2017.json"))
    loaded = images.loadRes(read(written))
    found = [loaded.anns[number] for number in sorted(loaded.anns)]
    original = objects(real_images)
    assert len(found) == len(original) > 0
    for ours, theirs in zip(original, found, strict=True):
        for key in ("image_id", "category_id", "score"):
            assert theirs[key] == ours[key]
        assert theirs["bbox"] == pytest.approx(ours["bbox"], abs=0.05 + 1e-9)
    assert set(loaded.getImgIds()) == set(images.getImgIds())


def test_exact_boxes_stay_exact_enough(written, real_images):
    annotations = real_images / "annotations/instances_val2017.json"
    ids = [image["id"] for image in json.loads(annotations.read_text())["images"]]
    found = [entry for entry in read(written) if entry["image_id"] in ids]
    assert coco_ap(annotations, found, ids)["AP50"] == pytest.approx(100)


def test_the_same_detections_make_the_same_bytes(written, real_images):
    before = written.read_bytes()
    write(written, objects(real_images), read_image_info(written.parent / "image_info_test-dev2017.json"))
    assert written.read_bytes() == before


# What is refused

INFO = ImageInfo(
    Path("info.json"), {7: (40, 30)}, ("a.jpg",), [{"id": 1, "name": "a"}, {"id": 90, "name": "b"}]
)
GOOD = {"image_id": 7, "category_id": 90, "bbox": [0, 0, 40, 30], "score": 0.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 8}, r"image_id 8 is not in info\.json"),
        ({"image_id": "7"}, r"image_id '7' is not in info\.json"),
        ({"category_id": 2}, r"category_id 2 is not in info\.json; write the ids of that file, 1 to 90"),
        ({"category_id": 0}, r"category_id 0 is not in .* not labels that start at 0"),
        ({"bbox": [0, 0, 40.3, 30]}, r"bbox \[0, 0, 40\.3, 30\] is not inside image_id 7 of 40 x 30 pixels"),
        ({"bbox": [0, 29, 1, 1.3]}, r"is not inside image_id 7"),
        ({"bbox": [-0.3, 0, 1, 1]}, r"is not inside image_id 7"),
        ({"bbox": [5, 5, -1, 1]}, r"is not inside image_id 7"),
        ({"bbox": [5, 5, math.nan, 1]}, r"bbox \[5, 5, nan, 1\] is not four finite numbers"),
        ({"bbox": [5, 5, 1]}, r"is not four finite numbers"),
        ({"score": math.nan}, r"score nan is not a number from 0 to 1"),
        ({"score": math.inf}, r"score inf is not a number"),
        ({"score": 1.5}, r"score 1\.5 is not a number from 0 to 1"),
        ({"area": 3.0}, r"has \['area', .*it must have exactly bbox, category_id, image_id, score"),
    ],
)
def test_a_detection_that_does_not_fit(tmp_path, changes, message):
    path = tmp_path / f"{NAME}.zip"
    with pytest.raises(SubmissionError, match=rf"{NAME}\.zip: detection 1: .*{message}"):
        write(path, [GOOD, GOOD | changes], INFO)
    assert not path.exists()


def test_rounding_may_lead_just_outside():
    """0.06 + 39.94 is 40; rounded it is 0.1 + 39.9, and the other way round 40.1."""
    edges = [GOOD | {"bbox": [0.05001, 0.0, 39.94999, 30.0]}, GOOD | {"bbox": [0.16, 0.0, 39.84, 30.0]}]
    boxes = [found["bbox"] for found in rounded(edges)]
    assert boxes == [[0.1, 0.0, 39.9, 30.0], [0.2, 0.0, 39.8, 30.0]]
    validate([GOOD | {"bbox": [0.1, 0.0, 40.0, 30.0]}], INFO, Path("x"))


def test_more_than_a_hundred_on_an_image():
    validate([GOOD] * 100, INFO, Path("x"))
    with pytest.raises(SubmissionError, match=r"x: image_id 7 has 101 detections; COCO counts 100 per image"):
        validate([GOOD] * 101, INFO, Path("x"))


def test_no_detection_at_all_is_a_submission(tmp_path):
    path = tmp_path / f"{NAME}.zip"
    assert write(path, [], INFO) == 0
    assert read(path) == []


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("results.zip", {"results.json": "[]"}, r"must be called detections_SET_ALGORITHM_results\.zip"),
        (f"{NAME}.zip", {f"folder/{NAME}.json": "[]"}, r"it must contain only .*, in no folder"),
        (f"{NAME}.zip", {f"{NAME}.json": "[]", "readme": ""}, r"it must contain only"),
        (f"{NAME}.zip", {f"{NAME}.json": "[{"}, r"cannot be read"),
        (f"{NAME}.zip", {f"{NAME}.json": "{}"}, r"is no list of detections"),
        (f"{NAME}.zip", None, r"cannot be read: .*write it again"),
    ],
)
def test_a_file_that_the_server_would_not_take(tmp_path, name, members, message):
    path = tmp_path / name
    if members is None:
        path.write_bytes(b"no archive")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for member, text in members.items():
                archive.writestr(member, text)
    with pytest.raises(SubmissionError, match=message):
        read(path)


def test_a_damaged_archive_is_named(tmp_path):
    """Which of the many errors of `zipfile` and `zlib` it is depends on the place."""
    path = tmp_path / f"{NAME}.zip"
    write(path, [{**GOOD, "score": k / 50} for k in range(50)], INFO)
    whole = path.read_bytes()
    first = 30 + sum(struct.unpack_from("<HH", whole, 26))  # after the header, the name and what follows it
    for place in range(first, first + 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(SubmissionError, match=r"cannot be read: .*write it again"):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"info\.json: whole file: cannot be read"),
        ("{", r"info\.json: whole file: not valid JSON"),
        ('{"images": []}', r"info\.json: categories: missing"),
        (
            '{"images": [{"id": "1"}], "categories": [{"id": 1, "name": "a"}]}',
            r"images\[0\]\.id: expected a whole number, found the text '1'",
        ),
        ('{"images": [{"id": 1}], "categories": [{}]}', r"images\[0\]\.file_name: expected a name"),
        ('{"images": [], "categories": []}', r"info\.json: images: empty"),
    ],
)
def test_a_file_of_images_with_an_error(tmp_path, text, message):
    path = tmp_path / "info.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_image_info(path)
