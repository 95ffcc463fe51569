"""Checks a COCO-layout dataset before any training on it, and describes it in a manifest.

Cheap checks come first, and the first problem is raised: whole files, then their content, then the two splits
against each other, then the names of the images. Last, every image is decoded.
"""

import codecs
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tood.data.input_sizes import Sized, thinnest, vanishing_of
from tood.runtime.failures import InputError

BATCH = 1024  # images queued at a time; COCO has 118,000
LAYOUT_HINT = "point `--config data_root=PATH` at a folder in the COCO layout"
SOURCE_HINT = "fetch or export the file again"
SMALLEST_SIDE = 32  # pixels; the loader leaves out smaller images in training, as mmdet's configurations do
_OF_DESKTOPS = ("Thumbs.db", "desktop.ini")  # that file managers leave beside images


class DataError(InputError):
    """A dataset that cannot be trained on; the message names the file and the key, and gives a hint."""


class Split(NamedTuple):
    """The paths of one split, relative to the root of the dataset."""

    annotations: str  # a COCO instances file
    images: str  # the folder that its file names refer to


class ImageFile(NamedTuple):
    """An entry of `images`."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class _Listing:
    """What is kept of an annotation file after its checks."""

    categories: list[dict]  # {id, name} in file order, which is the order of the labels
    files: list[ImageFile]
    summary: dict


def check_dataset(
    root: Path,
    train: Split | None,
    val: Split,
    *,
    expected_categories: Sequence[str] | None = None,
    sizes: Iterable[Sequence[int]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Checks the splits completely and returns a JSON-serialisable manifest.

    Args:
        root: folder of the dataset.
        train: the training split; None where nothing is trained, then the other is checked alone.
        val: the validation split; the same image ids may occur in both.
        expected_categories: names that the files must list, in this order; None accepts any.
        sizes: at which networks will take the images: limits of the longer and the shorter side, in pixels.
        progress: takes (images decoded, images in all) after each image.

    Returns:
        `categories`, a list of {id, name} in the order of the file; `thinnest`, for `train` and `val` the
        path, width and height of the image with the most unequal sides; and `splits`, which holds for each
        of them `annotation_file`, its `sha256`, `image_folder`, the counts `images`, `annotations`,
        `crowd_annotations`, `images_without_annotation`, and `image_digest`, a SHA-256 over the sorted names
        and SHA-256 of the image files.

    Raises:
        DataError: something in the dataset would break training or evaluation, or falsify it.
    """
    root = Path(root)
    if not root.is_dir():
        raise _error(root, "data_root", "no such folder", LAYOUT_HINT)
    splits = {name: split for name, split in (("train", train), ("val", val)) if split is not None}
    for split in splits.values():
        if not (root / split.annotations).is_file():
            raise _error(root / split.annotations, "annotations", "no such file under data_root", LAYOUT_HINT)
    listings = {
        name: _read(root / split.annotations, SMALLEST_SIDE if name == "train" else 1)
        for name, split in splits.items()
    }
    _check_categories(root, splits, listings, expected_categories)

    for name, split in splits.items():
        _check_presence(root / split.annotations, root / split.images, listings[name].files)
    thin = {
        name: thinnest(
            Sized(str(root / split.images / file.name), file.width, file.height)
            for file in listings[name].files
        )
        for name, split in splits.items()
    }
    if problem := vanishing_of({"thinnest": thin}, sizes):
        raise DataError(problem)
    total, done, digests = sum(len(listing.files) for listing in listings.values()), 0, {}
    for name, split in splits.items():
        annotations, folder, found = root / split.annotations, root / split.images, []
        for file, content in _decode(annotations, folder, listings[name].files):
            found.append((file.name, content))
            done += 1
            if progress:
                progress(done, total)
        digests[name] = hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()
    return {
        "categories": listings["val"].categories,
        "thinnest": {name: list(image) for name, image in thin.items()},
        "splits": {
            name: {
                "annotation_file": split.annotations,
                "image_folder": split.images,
                **listings[name].summary,
                "image_digest": digests[name],
            }
            for name, split in splits.items()
        },
    }


def changed_since_check(manifest: Path) -> Path | None:
    """An image file that is newer than the check of the dataset; None if there is none.

    Annotation files are inputs of the workflow, and Snakemake compares their times itself.

    Args:
        manifest: file with the result of `check_dataset` and the dataset's `root`; it may be absent.
    """
    if not manifest.is_file():
        return None
    checked, content = manifest.stat().st_mtime, json.loads(manifest.read_text())
    for split in content["splits"].values():
        for folder, _, names in os.walk(Path(content["root"], split["image_folder"])):
            for name in names:
                path = Path(folder, name)
                of_images = not name.startswith(".") and name not in _OF_DESKTOPS and path.exists()
                if of_images and path.stat().st_mtime > checked:
                    return path
    return None


def _error(file: Path, key: str, problem: str, hint: str) -> DataError:
    return DataError(f"{file}: {key}: {problem}. Hint: {hint}.")


def _read(path: Path, smallest: int) -> _Listing:
    """Parses one annotation file and checks everything that needs no image.

    Args:
        path: of the file.
        smallest: side of the smallest images that are used, in pixels.
    """
    raw = path.read_bytes()
    try:
        content = json.loads(raw.decode())  # as readers of text do, which take no byte order mark
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}, character {error.pos}"
        problem = f"not valid JSON at {where} (truncated? it has {len(raw)} bytes): {error.msg}"
        marked = raw.startswith(codecs.BOM_UTF8)
        hint = "save it as UTF-8 without a byte order mark" if marked else SOURCE_HINT
        raise _error(path, "whole file", problem, hint) from error
    except UnicodeDecodeError as error:
        problem = f"not text at byte {error.start} of {len(raw)}"
        raise _error(path, "whole file", problem, SOURCE_HINT) from error

    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        content = content if isinstance(content, dict) else {}
        absent = ", ".join(key for key in keys if not isinstance(content.get(key), list))
        hint = "use a COCO instances file, which holds a list under each of these"
        raise _error(path, absent, "missing, or not a list", hint)
    for key in ("images", "categories"):
        if not content[key]:
            raise _error(path, key, "empty", f"list at least one entry under {key}")

    image_ids = _unique(path, "images", content["images"], "id", int)
    files = [_image_file(path, number, image) for number, image in enumerate(content["images"])]
    category_ids = _unique(path, "categories", content["categories"], "id", int)
    _unique(path, "categories", content["categories"], "name", str)
    if 0 in _unique(path, "annotations", content["annotations"], "id", int):
        hint = "number the annotations from 1"
        raise _error(path, "annotations.id", "0 means 'not found' in COCO's evaluation", hint)
    for number, annotation in enumerate(content["annotations"]):
        _check_annotation(path, number, annotation, image_ids, category_ids)

    by_id = {image["id"]: file for image, file in zip(content["images"], files, strict=True)}
    if not any(_is_object(one, by_id[one["image_id"]], smallest) for one in content["annotations"]):
        problem = (
            "none can be used: it needs iscrowd 0, an area above 0, and a box in pixels, at least 1 wide and "
            "high, that overlaps its image"
        )
        if smallest > 1:
            problem += f", whose sides have {smallest} pixels or more"
        hint = "nothing can be learned or measured without; annotate at least one"
        raise _error(path, "annotations", problem, hint)
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    return _Listing(
        categories=[{"id": c["id"], "name": c["name"]} for c in content["categories"]],
        files=files,
        summary={
            "sha256": hashlib.sha256(raw).hexdigest(),
            "images": len(files),
            "annotations": len(content["annotations"]),
            "crowd_annotations": sum(a["iscrowd"] for a in content["annotations"]),
            "images_without_annotation": len(files) - len(annotated),
        },
    )


def _unique(path: Path, table: str, entries: list, key: str, kind: type) -> set:
    """The values under `key`; each has the right type and occurs once."""
    seen = set()
    for number, entry in enumerate(entries):
        value = entry.get(key) if isinstance(entry, dict) else None
        if type(value) is not kind:
            problem = f"expected {kind.__name__}, found {value!r}"
            raise _error(path, f"{table}[{number}].{key}", problem, f"give the entry its {key}")
        if value in seen:
            hint = f"keep one entry for each {key}, or number them anew"
            raise _error(path, f"{table}[{number}].{key}", f"duplicate {key} {value!r}", hint)
        seen.add(value)
    return seen


def _image_file(path: Path, number: int, image: dict) -> ImageFile:
    name, width, height = (image.get(key) for key in ("file_name", "width", "height"))
    key = f"images[{number}]"
    if not isinstance(name, str) or not name:
        raise _error(path, f"{key}.file_name", f"expected a name, found {name!r}", "name the file")
    for side, pixels in (("width", width), ("height", height)):
        if type(pixels) is not int or pixels < 1:
            problem = f"expected pixels of {name}, found {pixels!r}"
            raise _error(path, f"{key}.{side}", problem, f"write the image's true {side}")
    return ImageFile(name, image["width"], image["height"])


def _check_annotation(path: Path, number: int, annotation: dict, image_ids: set, category_ids: set) -> None:
    key = f"annotations[{number}]"
    for reference, known, table in (
        ("image_id", image_ids, "images"),
        ("category_id", category_ids, "categories"),
    ):
        value = annotation.get(reference)
        if type(value) is not int or value not in known:
            hint = f"remove the annotation or add the entry to {table}"
            raise _error(path, f"{key}.{reference}", f"{value!r} is not in {table}", hint)
    bbox = annotation.get("bbox")
    # COCO itself has boxes without width or height, which loaders skip.
    if (
        not isinstance(bbox, list)
        or len(bbox) != 4
        or not all(_is_finite(value) for value in bbox)
        or min(bbox[2:]) < 0
    ):
        problem = f"expected four finite numbers x, y, w, h with w, h >= 0, found {bbox!r}"
        raise _error(path, f"{key}.bbox", problem, "correct the box or remove the annotation")
    if not _is_finite(annotation.get("area")):
        problem = f"expected a finite number, found {annotation.get('area')!r}"
        raise _error(path, f"{key}.area", problem, "write the object's area in pixels, or w * h")
    if annotation.get("iscrowd") not in (0, 1):
        problem = f"expected 0 or 1, found {annotation.get('iscrowd')!r}"
        raise _error(path, f"{key}.iscrowd", problem, "write 1 for a crowd region and 0 otherwise")


def _is_object(annotation: dict, image: ImageFile, smallest: int) -> bool:
    """Whether mmdet's loader takes it for an object; COCO itself has annotations that it leaves out."""
    x, y, width, height = annotation["bbox"]
    inside = x < image.width and y < image.height and x + width > 0 and y + height > 0
    return (
        inside
        and min(width, height) >= 1
        and annotation["area"] > 0
        and annotation["iscrowd"] == 0
        and not annotation.get("ignore")
        and min(image.width, image.height) >= smallest
    )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check_categories(
    root: Path,
    splits: dict[str, Split],
    listings: dict[str, _Listing],
    expected: Sequence[str] | None,
) -> None:
    val = listings["val"].categories
    train = listings["train"].categories if "train" in listings else val
    val_file = root / splits["val"].annotations
    if train != val:
        ids = [[f"{c['id']} {c['name']}" for c in categories] for categories in (train, val)]
        problem = f"not those of {splits['train'].annotations}: {_difference(*ids)}"
        raise _error(val_file, "categories", problem, "write the same list into both files")
    names = [category["name"] for category in train]
    if expected is not None and names != list(expected):
        problem = f"not the {len(expected)} expected: {_difference(expected, names)}"
        hint = "use the annotations of the configured dataset, or configure these categories"
        raise _error(root / next(iter(splits.values())).annotations, "categories", problem, hint)


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if not missing and not unexpected:
        return f"the same in another order, {list(found)} instead of {list(expected)}"
    return f"missing {missing}, unexpected {unexpected}"


def _check_presence(annotations: Path, folder: Path, files: list[ImageFile]) -> None:
    missing = [file.name for file in files if not os.path.exists(folder / file.name)]
    if missing:
        problem = f"{len(missing)} of {len(files)} image files are not in {folder}, first {missing[0]}"
        hint = "copy the missing images there, or correct the image folder"
        raise _error(annotations, "images.file_name", problem, hint)


def _decode(annotations: Path, folder: Path, files: list[ImageFile]) -> Iterable[tuple[ImageFile, str]]:
    """Decodes every image as trainings do, in order, and yields each with the SHA-256 of its file."""
    from tood.data.images import ImageError, decode, read_file  # here, as every call reads this module

    def check(file: ImageFile) -> tuple[ImageFile, str]:
        path = folder / file.name
        try:
            content = read_file(path)
            height, width = decode(content, path).shape[:2]
        except ImageError as error:
            raise DataError(str(error)) from error
        if (width, height) != (file.width, file.height):
            problem = f"{width} x {height} pixels, but {annotations} says {file.width} x {file.height}"
            hint = "restore the original image, or correct its entry and boxes"
            if (height, width) == (file.width, file.height):
                hint = (
                    "if its EXIF orientation turns it, the loader turns it upright: save it upright without "
                    "one, if its boxes are upright too, or remove the orientation"
                )
            raise _error(path, "width, height", problem, hint)
        return file, hashlib.sha256(content).hexdigest()

    # Decoders do not hold the interpreter lock.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), BATCH):
            yield from pool.map(check, files[start : start + BATCH])
