"""The file that COCO's server accepts for images with secret annotations, such as test-dev2017.

A zip `detections_SET_ALGORITHM_results.zip` holds one JSON file of the same stem, in no folder. This is a
list of detections in COCO's format for results. Their boxes are rounded to a tenth of a pixel; COCO wants
this to keep the file small. Detections that do not fit the images are refused here: the server might answer
with an AP of 0, or not at all.
"""

import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tood.data.annotations import read_image_list
from tood.runtime.failures import InputError
from tood.runtime.files import atomic_path
from tood.runtime.text import single_line

MOST_PER_IMAGE = 100  # COCO counts no more
NAME = re.compile(r"detections_[^_]+_.+_results")
KEYS = ("image_id", "category_id", "bbox", "score")  # of a detection in COCO's format for results
_ROUNDED = 0.1 + 1e-6  # pixels: rounding moves corner and side of a box by half of a tenth each
_NO_BOX = "write x, y, w, h of the box in pixels of the original image"


class SubmissionError(InputError):
    """A submission that cannot be used; the message has the file, the place and a hint."""


@dataclass(frozen=True)
class ImageInfo:
    """Images without annotations, as `image_info_test-dev2017.json` lists them."""

    path: Path
    sizes: dict[int, tuple[int, int]]  # width and height in pixels by image id
    files: tuple[str, ...]
    categories: list[dict]  # {id, name} in the order of the file


def read_image_info(path: Path, folder: Path = Path("images")) -> ImageInfo:
    """Read a COCO file of images and categories; annotations are not needed.

    Args:
        path: of the file.
        folder: that its file names refer to.

    Raises:
        DataError: it cannot be read, or an entry is incomplete.
    """
    images, categories = read_image_list(path, folder)
    return ImageInfo(
        path=path,
        sizes={number: (image.width, image.height) for number, image in images.items()},
        files=tuple(image.name for image in images.values()),
        categories=categories,
    )


def rounded(detections: Iterable[dict]) -> list[dict]:
    """Detections with boxes rounded to a tenth of a pixel; scores stay, because they decide the order."""
    return [detection | {"bbox": [round(side, 1) for side in detection["bbox"]]} for detection in detections]


def validate(detections: Sequence[Any], info: ImageInfo, file: Path) -> None:
    """Stop at the first detection that does not belong to the images.

    Args:
        detections: in COCO's format for results.
        info: the images.
        file: named in messages.

    Raises:
        SubmissionError: an unknown image or category, a number that is not finite, a box outside its image,
            or more than `MOST_PER_IMAGE` on one image.
    """
    categories = {category["id"] for category in info.categories}
    for number, detection in enumerate(detections):
        if problem := _problem(detection, info, categories):
            raise SubmissionError(f"{file}: detection {number}: {problem}")
    counts = Counter(detection["image_id"] for detection in detections)
    image, most = max(counts.items(), key=lambda item: item[1], default=(0, 0))
    if most > MOST_PER_IMAGE:
        raise SubmissionError(
            f"{file}: image_id {image} has {most} detections; COCO counts {MOST_PER_IMAGE} per image, so "
            "keep those with the highest scores"
        )


def _problem(detection: Any, info: ImageInfo, categories: set[int]) -> str | None:
    """The problem of one detection, and a hint; None if there is none."""
    if not isinstance(detection, dict) or set(detection) != set(KEYS):
        keys = sorted(detection) if isinstance(detection, dict) else type(detection).__name__
        return f"has {keys}; it must have exactly {', '.join(sorted(KEYS))}"
    image, category, bbox, score = (detection[key] for key in KEYS)
    if type(image) is not int or image not in info.sizes:
        return f"image_id {image!r} is not in {info.path.name}; detect on the images of that file"
    if type(category) is not int or category not in categories:
        return (
            f"category_id {category!r} is not in {info.path.name}; write the ids of that file, "
            f"{min(categories)} to {max(categories)} with its gaps, not labels that start at 0"
        )
    if not is_four_numbers(bbox):
        return f"bbox {bbox!r} is not four finite numbers; {_NO_BOX}"
    if not _is_finite(score) or not 0 <= score <= 1:
        return f"score {score!r} is not a number from 0 to 1; write the confidence that NMS ranked by"
    x, y, w, h = bbox
    width, height = info.sizes[image]
    if min(x, y) < -_ROUNDED or x + w > width + _ROUNDED or y + h > height + _ROUNDED or min(w, h) < 0:
        return f"bbox {bbox} is not inside image_id {image} of {width} x {height} pixels; {_NO_BOX}"
    return None


def is_four_numbers(value: Any) -> bool:
    """Whether this is a list of four finite numbers, as boxes are in JSON."""
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value))


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def write(path: Path, detections: Iterable[dict], info: ImageInfo) -> int:
    """Round, validate, and write a submission; the same detections give the same bytes.

    Returns:
        the number of detections

    Raises:
        SubmissionError: as `validate`; nothing is written then.
    """
    entries = rounded(detections)
    validate(entries, info, path)
    member = zipfile.ZipInfo(f"{path.stem}.json")  # with a fixed date
    member.compress_type = zipfile.ZIP_DEFLATED
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open(member, "w", force_zip64=True) as raw,
        io.TextIOWrapper(raw) as text,
    ):
        json.dump(entries, text, separators=(",", ":"))
    return len(entries)


def read(path: Path) -> list[dict]:
    """The detections of a submission.

    Raises:
        SubmissionError: the file has another name or other content than the server expects.
    """
    if path.suffix != ".zip" or not NAME.fullmatch(path.stem):
        raise SubmissionError(
            f"{path}: must be called detections_SET_ALGORITHM_results.zip, as for the server"
        )
    expected = f"{path.stem}.json"
    content = None
    try:
        with zipfile.ZipFile(path) as archive:
            if (names := archive.namelist()) == [expected]:
                content = json.loads(archive.read(expected))
    except Exception as error:  # of a damaged archive, errors of many types
        raise SubmissionError(f"{path}: cannot be read: {single_line(str(error))}; write it again") from error
    if names != [expected]:
        raise SubmissionError(f"{path}: contains {names}; it must contain only {expected}, in no folder")
    if not isinstance(content, list):
        raise SubmissionError(f"{path}: {expected} is no list of detections")
    return content


def check(path: Path, images: Path) -> str:
    """Validate an existing submission, and describe it in a sentence.

    Args:
        path: the zip.
        images: the file of its images.

    Raises:
        DataError: as `read_image_info`.
        SubmissionError: as `read` and `validate`.
    """
    info, detections = read_image_info(images), read(path)
    validate(detections, info, path)
    seen = len({detection["image_id"] for detection in detections})
    return (
        f"{path}: {len(detections)} detections on {seen} of the {len(info.sizes)} images of {images.name}; "
        "image ids, category ids, boxes, scores and numbers per image fit"
    )
