"""Some of a dataset's classes, as `classes` of a study names them: are they there, and COCO's files cut down.

Images stay, all of them. Nothing is renumbered: a class has the id that it has among all classes.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tood.data.annotations import DataError, data_error, read_listing
from tood.data.validation import Split
from tood.runtime.text import did_you_mean

_LISTED = 20  # names in a message; COCO has 80


class UnknownClass(DataError):
    """A class that is to be used and that a dataset does not have."""


def require_classes(classes: Iterable[str], known: Collection[str], file: Path, key: str) -> None:
    """See that there are the classes that a study names.

    Args:
        classes: that it names.
        known: of the dataset.
        file, key: where these are, for the message.

    Raises:
        UnknownClass: one is not there; the message has the names that are close to it.
    """
    if (unknown := next((name for name in classes if name not in known), None)) is None:
        return
    close = [name for name in known if name.casefold() == unknown.casefold()]
    meant = f"did you mean {close[0]}? " if close else did_you_mean(unknown, known)
    names = sorted(known)
    some = ", ".join([*names[:_LISTED], *["..."] * (len(names) > _LISTED)])
    hint = f"{meant}there are {some}, and `classes` takes these names"
    raise UnknownClass(str(data_error(file, key, f"no class {unknown!r}", hint)))


def require_objects(classes: Collection[str], number: int, file: Path, split: str) -> None:
    """See that a split has objects of the classes that a study names.

    Raises:
        DataError: it has none.
    """
    if classes and not number:
        problem = f"{split} has no object of {', '.join(classes)}"
        raise data_error(file, "classes", problem, "name a class that both splits have")


def coco_names(path: Path) -> list[str]:
    """The classes of a COCO instances file.

    Raises:
        DataError: the file is none.
    """
    return [category["name"] for category in _read(path)["categories"]]


def coco_subset(
    root: Path, splits: Mapping[str, Split], classes: Collection[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, Counter[str]]]:
    """The files of a dataset in COCO's layout with some of its classes; images are relative to its folder.

    Labels have the order of the first file. Ids are those of the last one, which detections carry, in both.
    An annotation keeps whatever it has, such as `iscrowd` and `ignore`.

    Args:
        root: folder of the dataset.
        splits: the training split first.
        classes: names of those that are kept.

    Returns:
        contents of the files by split, and how many annotations each class had in them before

    Raises:
        DataError: a file has a fault, or not all of these classes.
    """
    read, counts = {}, {}
    for name, split in splits.items():
        path = root / split.annotations
        # As the check does, but with the user's file in its messages
        read_listing(path, root / split.images, smallest=1)
        read[name] = content = _read(path)
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        require_classes(classes, names.values(), path, "categories")
        counts[name] = Counter(names[entry["category_id"]] for entry in content["annotations"])
        require_objects(classes, sum(counts[name][label] for label in classes), path, name)
    first, last = next(iter(read.values())), list(read.values())[-1]
    ids = {entry["name"]: entry["id"] for entry in last["categories"]}
    categories = [
        {"id": ids[entry["name"]], "name": entry["name"]}
        for entry in first["categories"]
        if entry["name"] in classes
    ]
    return {
        name: _cut(content, splits[name].images, {c["name"]: c["id"] for c in categories})
        | {"categories": categories}
        for name, content in read.items()
    }, counts


def _cut(content: Mapping[str, Any], folder: str, ids: Mapping[str, int]) -> dict[str, Any]:
    numbers = {entry["id"]: ids[entry["name"]] for entry in content["categories"] if entry["name"] in ids}
    return {
        "images": [
            image | {"file_name": Path(folder, image["file_name"]).as_posix()} for image in content["images"]
        ],
        "annotations": [
            annotation | {"category_id": numbers[annotation["category_id"]]}
            for annotation in content["annotations"]
            if annotation["category_id"] in numbers
        ],
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if all(isinstance(entry["name"], str) for entry in content["categories"]):
            return content
        problem = "a category has no name"
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        problem = f"cannot be read as COCO's instances file: {type(error).__name__}: {error}"
    raise data_error(path, "whole file", problem, "fetch or export the file again")
