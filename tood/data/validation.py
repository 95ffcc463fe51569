"""Checks a COCO-layout dataset before any training on it, and describes it in a manifest.

Cheap checks come first, and the first problem is raised: whole files, then their content, then the two splits
against each other, then the names of the images. Last, every image is decoded.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tood.data.annotations import DataError, ImageFile, Listing, data_error, read_listing, said_of_left_out
from tood.data.input_sizes import thinnest, vanishing
from tood.data.manifest import read_manifest
from tood.data.seen import file_digest, first_changed, marks_of

BATCH = 1024  # images queued at a time; COCO has 118,000
LAYOUT_HINT = (
    "point `--config data_root=PATH` at a folder in the COCO layout, or with YOLO's data.yaml or VOC's "
    "ImageSets/Main/train.txt and val.txt, or name its splits by train= and val= (docs/own_data.md)"
)
SMALLEST_SIDE = 32  # pixels; the loader leaves out smaller images in training, as mmdet's configurations do


class Split(NamedTuple):
    """The paths of one split, relative to the root of the dataset."""

    annotations: str  # a COCO instances file
    images: str  # the folder that its file names refer to


def check_dataset(
    root: Path,
    train: Split | None,
    val: Split,
    *,
    sizes: Iterable[Sequence[int]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Checks the splits completely and returns a JSON-serialisable manifest.

    Args:
        root: folder of the dataset.
        train: the training split; None where nothing is trained, then the other is checked alone.
        val: the validation split; the same image ids may occur in both.
        sizes: input sizes of the networks: limits of the longer and the shorter side, in pixels.
        progress: receives (images decoded, images in all) after each image.

    Returns:
        `categories`, a list of {id, name} in the order of the labels, which is that of the training file,
        with the ids of the validation file. `splits`, which holds for `train` and `val`: `annotation_file`,
        its `sha256`, `image_folder`, the counts `images`, `annotations`, `crowd_annotations`,
        `images_without_annotation`, and `image_digest`, a SHA-256 over the sorted names and SHA-256 of the
        image files. `thinnest`, of each split the path, width and height of the image with the most unequal
        sides. `left_out`, how many `annotations` and `images` training does without, by reason. `notes`,
        sentences for those who read results on these data. `seen`, what `changed_since_check` compares with.

    Raises:
        DataError: something in the dataset would break training or evaluation, or falsify it.
    """
    root = Path(root)
    splits = {name: split for name, split in (("train", train), ("val", val)) if split is not None}
    require_files(root, splits.values())
    listings = {
        name: read_listing(
            root / split.annotations, root / split.images, SMALLEST_SIDE if name == "train" else 1
        )
        for name, split in splits.items()
    }
    categories, notes = _match_categories(root, splits, listings)
    for name, split in splits.items():
        _check_presence(root / split.annotations, root / split.images, listings[name].files)
    # Before images are decoded, so that a change in the meantime is found later.
    marks = {
        name: marks_of(root / split.images, (file.name for file in listings[name].files))
        for name, split in splits.items()
    }
    thin = {name: thinnest(listings[name].files, root / split.images) for name, split in splits.items()}
    if problem := vanishing(thin.values(), sizes):
        raise DataError(problem)
    contents = _contents(root, splits, listings, progress)
    left_out = said_of_left_out(listings["train"]) if train else ""
    return {
        "categories": categories,
        "thinnest": {name: list(image) for name, image in thin.items()},
        "splits": {
            name: {
                "annotation_file": split.annotations,
                "image_folder": split.images,
                **listings[name].summary,
                "image_digest": hashlib.sha256(json.dumps(sorted(contents[name])).encode()).hexdigest(),
            }
            for name, split in splits.items()
        },
        "left_out": listings["train"].left_out if train else {},
        "notes": [*notes, *filter(None, [left_out, _shared_images(contents)])],
        "seen": {
            "annotations": {name: listing.seen for name, listing in listings.items()},
            "images": marks,
        },
    }


def _contents(
    root: Path,
    splits: Mapping[str, Split],
    listings: Mapping[str, Listing],
    progress: Callable[[int, int], None] | None,
) -> dict[str, list[tuple[str, str]]]:
    """Name and SHA-256 of every image file by split, each after it was decoded."""
    total, done = sum(len(listing.files) for listing in listings.values()), 0
    contents: dict[str, list[tuple[str, str]]] = {name: [] for name in splits}
    for name, split in splits.items():
        for file, content in _decode(root / split.annotations, root / split.images, listings[name].files):
            contents[name].append((file.name, content))
            done += 1
            if progress:
                progress(done, total)
    return contents


def require_files(root: Path, splits: Iterable[Split]) -> None:
    """Make sure that the folder of a dataset and the annotation files of its splits exist.

    Raises:
        DataError: one is not.
    """
    if not root.is_dir():
        raise data_error(root, "data_root", "no such folder", LAYOUT_HINT)
    for split in splits:
        if not (root / split.annotations).is_file():
            problem = "no such file under data_root"
            raise data_error(root / split.annotations, "annotations", problem, LAYOUT_HINT)


def _shared_images(contents: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """A sentence on images that both splits have; empty if there are none, or one split."""
    digests = {name: {digest for _, digest in files} for name, files in contents.items()}
    shared = len(set.intersection(*digests.values())) if len(digests) > 1 else 0
    if not shared:
        return ""
    return f"{shared:,} of {len(digests['val']):,} validation images are training images too."


def changed_since_check(manifest: Path, now: Path | None = None) -> Path | None:
    """An image file that has changed since the check of the dataset; None if there is none.

    Sizes and times are compared with those that the check saw, so no clock matters. Files that the
    annotations do not list do not matter. If annotations have changed, the workflow checks the dataset again
    by itself.

    Args:
        manifest: file with the result of `check_dataset` and the dataset's `root`. It may be absent, or of a
            version that did not store sizes and times; then nothing is compared.
        now: root of the data that will be used. If it is not the root that was checked, nothing is compared;
            None means the same root.

    Raises:
        DamagedFile: the manifest is not what the check writes.
    """
    if not manifest.is_file():
        return None
    content = read_manifest(manifest)
    root, splits, seen = Path(content["root"]), content["splits"], content.get("seen")
    if seen is None or root != (now or root):
        return None
    files = {name: split["annotation_file"] for name, split in splits.items()}
    if not annotations_as_checked(content, root, files):
        return None
    for name, split in splits.items():
        names = functools.partial(_image_names, root / split["annotation_file"])
        if changed := first_changed(root / split["image_folder"], seen["images"][name], names):
            return changed
    return None


def annotations_as_checked(manifest: Mapping, root: Path, files: Mapping[str, str]) -> bool:
    """Whether annotation files have the same content as at the check; absent files do not matter.

    Args:
        manifest: result of `check_dataset`.
        root: folder of the dataset.
        files: by split, the path relative to it.
    """
    checked = {name: split["sha256"] for name, split in manifest["splits"].items()}
    return annotation_digests(manifest, root, files).items() <= checked.items()


def annotation_digests(manifest: Mapping, root: Path, files: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of the readable annotation files, by split; files unchanged since the check are not read.

    Args:
        manifest: result of `check_dataset`; may be empty.
        root, files: as for `annotations_as_checked`.
    """
    seen, digests = manifest.get("seen", {}).get("annotations", {}), {}
    for name, file in files.items():
        try:
            digests[name] = file_digest(root / file, seen.get(name))
        except OSError:
            continue  # the check says what is wrong
    return digests


def _image_names(annotations: Path) -> list[str]:
    return [image["file_name"] for image in json.loads(annotations.read_bytes())["images"]]


def _match_categories(
    root: Path, splits: dict[str, Split], listings: dict[str, Listing]
) -> tuple[list[dict], list[str]]:
    """The categories in the order of the labels, and notes about them.

    Two files may number the same names differently, or list them in another order, as converters of folders
    do. Names decide: labels are in the order of the first file, ids are those of the validation file.
    """
    val = listings["val"].categories
    first = listings["train"].categories if "train" in listings else val
    names, ids = [category["name"] for category in first], {c["name"]: c["id"] for c in val}
    if set(names) != set(ids):
        missing = [name for name in names if name not in ids]
        unexpected = [name for name in ids if name not in names]
        problem = f"not those of {splits['train'].annotations}: missing {missing}, unexpected {unexpected}"
        hint = "write the same names into both files"
        raise data_error(root / splits["val"].annotations, "categories", problem, hint)
    categories = [{"id": ids[name], "name": name} for name in names]
    if first == val:
        return categories, []
    other = [
        f"{entry['name']} is {entry['id']} and {ids[entry['name']]}" for entry in first if entry not in val
    ]
    how = f"other ids ({', '.join(other[:3])}{', ...' * (len(other) > 3)})" if other else "another order"
    return categories, [
        f"{splits['train'].annotations} and {splits['val'].annotations} list the same classes with {how}: "
        "they are matched by name, and detections carry the ids of the latter."
    ]


def _check_presence(annotations: Path, folder: Path, files: list[ImageFile]) -> None:
    missing = [file.name for file in files if not os.path.exists(folder / file.name)]
    if missing:
        problem = f"{len(missing)} of {len(files)} image files are not in {folder}, first {missing[0]}"
        hint = "copy the missing images there, or correct the image folder"
        raise data_error(annotations, "images.file_name", problem, hint)


def _decode(annotations: Path, folder: Path, files: list[ImageFile]) -> Iterable[tuple[ImageFile, str]]:
    """Decodes every image as trainings do, in order, and yields each with the SHA-256 of its file."""
    from tood.data.images import ImageError, decode, read_file  # not above: every call reads this module

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
            raise data_error(path, "width, height", problem, hint)
        return file, hashlib.sha256(content).hexdigest()

    # Decoders do not hold the interpreter lock.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), BATCH):
            yield from pool.map(check, files[start : start + BATCH])
