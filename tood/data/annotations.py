"""One COCO annotation file: read, counted, and checked as far as possible without its images."""

import codecs
import hashlib
import json
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tood.runtime.failures import InputError

SOURCE_HINT = "fetch or export the file again"
LARGEST = 2**24  # pixels; float32, the type of boxes in training, has every whole number up to here
LARGEST_AREA = 10**10  # of an object that COCO's evaluation counts
_WANTED = {int: "a whole number", str: "a text"}
# Why training leaves out an annotation
_REASONS = (
    *("on too small images", "marked as ignored", "outside of the image", "of area 0", "below 1 pixel"),
    "crowd regions",
)


class DataError(InputError):
    """A dataset that cannot be trained on; the message names the file and the key, and gives a hint."""


class ImageFile(NamedTuple):
    """An entry of `images`."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Listing:
    """What is kept of an annotation file after its checks."""

    categories: list[dict]  # {id, name} in file order
    files: list[ImageFile]
    summary: dict
    left_out: dict[str, dict[str, int]]  # what training leaves out, see `_left_out`
    seen: list  # size, time and SHA-256 of the file, as `tood.data.seen.file_digest` takes them


def data_error(file: Path, key: str, problem: str, hint: str) -> DataError:
    """An error whose message has the common form."""
    return DataError(f"{file}: {key}: {problem}. Hint: {hint}.")


def read_listing(path: Path, folder: Path, smallest: int) -> Listing:
    """Parses one annotation file and checks everything that needs no image.

    Args:
        path: of the file.
        folder: that its file names refer to.
        smallest: side of the smallest images that are used, in pixels.

    Raises:
        DataError: something in the file would break training or evaluation, or falsify it.
    """
    content, seen = _parse(path, ("images", "annotations", "categories"))
    by_id, categories = _images_and_categories(path, content, folder)
    annotations, files = content["annotations"], list(by_id.values())
    category_ids = {category["id"] for category in categories}
    _unique(path, "annotations", annotations, "id", int)
    for number, annotation in enumerate(annotations):
        key = f"annotations[{number}]"
        _check_reference(path, key, annotation, "image_id", by_id)
        _check_reference(path, key, annotation, "category_id", category_ids)
        _check_object(path, key, annotation)

    left_out = _left_out(annotations, by_id, smallest)
    if sum(left_out["annotations"].values()) == len(annotations):
        problem = (
            "none can be used: it needs iscrowd 0, an area above 0, and a box in pixels, at least 1 wide and "
            "high, that overlaps its image"
        )
        if smallest > 1:
            problem += f", whose sides have {smallest} pixels or more"
        hint = "nothing can be learned or measured without; annotate at least one"
        raise data_error(path, "annotations", problem, hint)
    return Listing(
        categories=categories,
        files=files,
        summary={
            "sha256": seen[2],
            "images": len(files),
            "annotations": len(annotations),
            "crowd_annotations": sum(int(a["iscrowd"]) for a in annotations),
            "images_without_annotation": len(files) - len({a["image_id"] for a in annotations}),
        },
        left_out=left_out,
        seen=seen,
    )


def read_image_list(path: Path, folder: Path) -> tuple[dict[int, ImageFile], list[dict]]:
    """The images of a file by id, and its categories {id, name}; annotations are not read.

    Args:
        path: of the file, such as COCO's image_info files.
        folder: that its file names refer to.

    Raises:
        DataError: something in these two tables is wrong.
    """
    content, _ = _parse(path, ("images", "categories"))
    return _images_and_categories(path, content, folder)


def _images_and_categories(
    path: Path, content: dict, folder: Path
) -> tuple[dict[int, ImageFile], list[dict]]:
    images, categories = content["images"], content["categories"]
    _unique(path, "images", images, "id", int)
    files = {image["id"]: _image_file(path, number, image, folder) for number, image in enumerate(images)}
    _unique(path, "categories", categories, "id", int)
    _unique(path, "categories", categories, "name", str)
    return files, [{"id": category["id"], "name": category["name"]} for category in categories]


def _parse(path: Path, tables: Sequence[str]) -> tuple[dict, list]:
    """The content of a file, which has these tables as lists, with its size, time and SHA-256."""
    try:
        state, raw = path.stat(), path.read_bytes()
    except OSError as error:
        raise data_error(path, "whole file", f"cannot be read: {error}", "make it readable") from error
    try:
        content = json.loads(raw.decode())  # as readers of text do, which accept no byte order mark
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}, character {error.pos}"
        problem = f"not valid JSON at {where} (truncated? it has {len(raw)} bytes): {error.msg}"
        marked = raw.startswith(codecs.BOM_UTF8)
        hint = "save it as UTF-8 without a byte order mark" if marked else SOURCE_HINT
        raise data_error(path, "whole file", problem, hint) from error
    except UnicodeDecodeError as error:
        problem = f"not text at byte {error.start} of {len(raw)}"
        raise data_error(path, "whole file", problem, SOURCE_HINT) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a list in a list in ...
        raise data_error(path, "whole file", f"cannot be read as JSON: {error}", SOURCE_HINT) from error
    content = content if isinstance(content, dict) else {}
    if absent := [table for table in tables if not isinstance(content.get(table), list)]:
        hint = "use a COCO instances file, which holds a list under each of these"
        raise data_error(path, ", ".join(absent), "missing, or not a list", hint)
    for table in ("images", "categories"):
        if not content[table]:
            raise data_error(path, table, "empty", f"list at least one entry under {table}")
    return content, [state.st_size, state.st_mtime_ns, hashlib.sha256(raw).hexdigest()]


# Ids and names


def _unique(path: Path, table: str, entries: list, key: str, kind: type) -> set:
    """The values under `key`; each has the right type and occurs once."""
    seen = set()
    for number, entry in enumerate(entries):
        value = entry.get(key) if isinstance(entry, dict) else None
        if type(value) is not kind:
            raise _wrong_type(path, f"{table}[{number}].{key}", value, kind)
        if value in seen:
            hint = f"keep one entry for each {key}, or number them anew"
            raise data_error(path, f"{table}[{number}].{key}", f"duplicate {key} {shown(value)}", hint)
        seen.add(value)
    return seen


def _check_reference(path: Path, key: str, annotation: dict, name: str, known: Container[int]) -> None:
    """See that an annotation refers to an entry of another table."""
    value = annotation.get(name)
    if type(value) is not int:
        raise _wrong_type(path, f"{key}.{name}", value, int)
    if value not in known:
        table = {"image_id": "images", "category_id": "categories"}[name]
        hint = f"remove the annotation or add the entry to {table}"
        raise data_error(path, f"{key}.{name}", f"{shown(value)} is not in {table}", hint)


def _wrong_type(path: Path, key: str, value: Any, kind: type) -> DataError:
    problem = f"expected {_WANTED[kind]}, found {described(value)}"
    name = key.rpartition(".")[2]
    if value is None:
        return data_error(path, key, problem, f"give the entry its {name}")
    return data_error(path, key, problem, f"write every {name} as {_WANTED[kind]}, wherever it occurs")


def described(value: Any) -> str:
    """The type of a value of JSON, and the value, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    names = {str: "the text", int: "the whole number", float: "the decimal number", list: "the list"}
    return f"{names.get(type(value), 'the object')} {shown(value)}"


def shown(value: Any, most: int = 80) -> str:
    """A value for a message, cut to `most` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


# Images and objects


def _image_file(path: Path, number: int, image: dict, folder: Path) -> ImageFile:
    name, width, height = (image.get(key) for key in ("file_name", "width", "height"))
    key = f"images[{number}]"
    if not isinstance(name, str) or not name:
        raise data_error(path, f"{key}.file_name", f"expected a name, found {shown(name)}", "name the file")
    if leaves(folder, name):
        hint = f"name files relative to {folder}, and have all of them there"
        raise data_error(path, f"{key}.file_name", f"{shown(name)} leads out of the image folder", hint)
    for side, pixels in (("width", width), ("height", height)):
        if type(pixels) is not int or not 1 <= pixels <= LARGEST:
            problem = f"expected pixels of {shown(name)}, found {shown(pixels)}"
            raise data_error(path, f"{key}.{side}", problem, f"write the image's true {side}")
    return ImageFile(name, image["width"], image["height"])


def leaves(folder: Path, name: str) -> bool:
    """Whether a file name leads out of the folder that it is relative to."""
    if ".." in Path(name).parts:
        return True
    return not Path(os.path.abspath(folder / name)).is_relative_to(os.path.abspath(folder))


def _check_object(path: Path, key: str, annotation: dict) -> None:
    bbox, area, crowd = (annotation.get(name) for name in ("bbox", "area", "iscrowd"))
    # COCO itself has boxes without width or height, which loaders skip.
    if (
        not isinstance(bbox, list)
        or len(bbox) != 4
        or not all(_is_number(value, -LARGEST, LARGEST) for value in bbox)
        or min(bbox[2:]) < 0
    ):
        problem = (
            f"expected four finite numbers x, y, w, h with w, h >= 0, none beyond {LARGEST:,} pixels, found "
            f"{shown(bbox)}"
        )
        raise data_error(path, f"{key}.bbox", problem, "correct the box or remove the annotation")
    if not _is_number(area, 0, LARGEST_AREA):
        problem = (
            f"expected a finite number from 0 to {LARGEST_AREA:,}, as COCO's evaluation counts no others, "
            f"found {shown(area)}"
        )
        raise data_error(path, f"{key}.area", problem, "write the object's area in pixels, or w * h")
    if "ignore" in annotation and annotation["ignore"] not in (0, 1):
        problem = f"expected 0 or 1, found {shown(annotation['ignore'])}"
        raise data_error(
            path, f"{key}.ignore", problem, "write 1 to leave it out of training, and 0 otherwise"
        )
    if type(crowd) not in (int, bool) or crowd not in (0, 1):
        problem = f"expected 0 or 1, found {shown(crowd)}"
        raise data_error(path, f"{key}.iscrowd", problem, "write 1 for a crowd region and 0 otherwise")


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most  # for nan neither is true


# What training leaves out


def _left_out(
    annotations: list[dict], images: Mapping[int, ImageFile], smallest: int
) -> dict[str, dict[str, int]]:
    """How many `annotations` and `images` mmdet's loader leaves out, by the first reason that applies.

    COCO itself has annotations that the loader leaves out. A crowd region is no object, and a prediction in
    it is no error.
    """
    counts = Counter(
        _why_not(annotation, images[annotation["image_id"]], smallest) for annotation in annotations
    )
    annotated = {annotation["image_id"] for annotation in annotations}
    large = [number for number, image in images.items() if min(image.width, image.height) >= smallest]
    return {
        "annotations": {reason: counts[reason] for reason in _REASONS},
        "images": {
            f"below {smallest} pixels": len(images) - len(large),
            "without annotation": sum(number not in annotated for number in large),
        },
    }


def _why_not(annotation: dict, image: ImageFile, smallest: int) -> str:
    """Why an annotation is no object for mmdet's loader; empty if it is one."""
    x, y, width, height = annotation["bbox"]
    small, ignored, outside, flat, thin, crowd = _REASONS
    if min(image.width, image.height) < smallest:
        return small
    if annotation.get("ignore"):
        return ignored
    # The loader's operations in the loader's order, because sums and differences of floats round.
    inside = (
        max(0, min(x + width, image.width) - max(x, 0)),
        max(0, min(y + height, image.height) - max(y, 0)),
    )
    if inside[0] * inside[1] == 0:
        return thin if min(width, height) == 0 else outside
    if annotation["area"] <= 0:
        return flat
    if min(width, height) < 1:
        return thin
    return crowd if annotation["iscrowd"] else ""


def said_of_left_out(listing: Listing) -> str:
    """A sentence on what training leaves out; empty if that is nothing."""
    parts = []
    for table, counts in listing.left_out.items():
        if total := sum(counts.values()):
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
            parts.append(f"{total:,} of {listing.summary[table]:,} {table} ({reasons})")
    marked = any(counts.get("marked as ignored") for counts in listing.left_out.values())
    counted = " The evaluation counts what is marked as ignored." if marked else ""
    return f"Training leaves out {' and '.join(parts)}.{counted}" if parts else ""
