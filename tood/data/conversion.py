"""Datasets in VOC's and YOLO's layouts, or with some of their classes, as COCO's; images stay, behind a link.

Equal sources give equal files. What is read here decides a training by these files alone.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tood.data import voc, yolo
from tood.data.annotations import DataError, data_error
from tood.data.labelled import DIGITS, Labelled, Thing, corners_within
from tood.data.seen import file_digest
from tood.data.subset import coco_names, coco_subset, require_classes, require_objects
from tood.data.validation import BATCH, Split
from tood.runtime.files import DamagedFile, read_json, write_json

Layout = Literal["VOC", "YOLO", "COCO"]
LINK = "images"  # beside the converted files; leads to the dataset
SOURCES = "sources.json"  # beside them; says what they were converted from


class Conversion(BaseModel):
    """What is to be converted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    root: Path  # folder of the dataset
    splits: dict[str, str]  # by name, what `find` of the layout takes; ANNOTATIONS:IMAGES of COCO
    classes: tuple[str, ...] = ()  # that are kept; none: all of them

    def of(self, names: Sequence[str]) -> "Conversion":
        """The same of some of the splits."""
        return self.model_copy(update={"splits": {name: self.splits[name] for name in names}})


class _Sources(BaseModel):
    digest: str


def conversion_of(
    root: Path,
    given: Mapping[str, Split | str | None],
    usual: Mapping[str, Split],
    classes: Sequence[str] = (),
) -> Conversion | None:
    """How the splits of a dataset are to be converted; None if they are COCO's, with all of their classes.

    Args:
        root: folder of the dataset.
        given: what the user typed for each split; with None for each, what there is decides.
        usual: the splits that a dataset of COCO has.
        classes: names of those that are kept; without any, all are.

    Raises:
        DataError: the splits have different layouts.
    """
    conversion = _of_layout(root, given, usual["train"])
    if not classes:
        return conversion
    if conversion is None:
        splits = {name: split if isinstance(split, Split) else usual[name] for name, split in given.items()}
        words = {name: f"{split.annotations}:{split.images}" for name, split in splits.items()}
        conversion = Conversion(layout="COCO", root=root, splits=words)
    return conversion.model_copy(update={"classes": tuple(classes)})


def _of_layout(root: Path, given: Mapping[str, Split | str | None], usual: Split) -> Conversion | None:
    if not any(given.values()):
        return _found(root, list(given), usual)
    words = {key: value for key, value in given.items() if isinstance(value, str)}
    if not words:
        return None
    layouts = {key: layout_of(word) for key, word in words.items()}
    if len(words) < len(given) or len(set(layouts.values())) > 1:
        others = {key: "COCO" if value else "not given" for key, value in given.items()}
        kinds = ", ".join(f"{key} {layout}" for key, layout in (others | layouts).items())
        raise DataError(
            f"{', '.join(given)}: different layouts: {kinds}. Hint: name each split, in one layout."
        )
    return Conversion(layout=next(iter(layouts.values())), root=root, splits=words)


def layout_of(word: str) -> Layout:
    """The layout of a split that is not COCO's, by what the user typed for it."""
    return "YOLO" if word.partition(":")[0].endswith(yolo.SUFFIXES) else "VOC"


def _found(root: Path, names: Sequence[str], usual: Split) -> Conversion | None:
    if (root / usual.annotations).exists():
        return None
    for file in ("data.yaml", "data.yml"):
        if (root / file).is_file():
            return Conversion(layout="YOLO", root=root, splits=dict.fromkeys(names, file))
    if all((root / "ImageSets/Main" / f"{name}.txt").is_file() for name in names):
        return Conversion(layout="VOC", root=root, splits={name: name for name in names})
    return None


def converted_from(folder: Path) -> str:
    """Digest of what the files in a folder were converted from; empty if nothing says so."""
    try:
        return read_json(folder / SOURCES, _Sources)["digest"]
    except (OSError, DamagedFile):
        return ""


def sources_digest(conversion: Conversion) -> str:
    """Digest of what decides the result of a conversion; empty if it cannot be read, as `convert` will say.

    Of images names and sizes in bytes count here. The check of the dataset covers their content.
    """
    content: dict[str, Any] = {"layout": conversion.layout}
    try:
        if conversion.layout == "COCO":
            for name, split in _coco_splits(conversion).items():
                content[name] = [*split, file_digest(conversion.root / split.annotations)]
        else:
            names, splits = _read(conversion)
            content["names"] = names
            for name, files in splits.items():
                content[name] = [_source(conversion.root, file) for file in files]
    except (DataError, OSError):
        return ""
    if conversion.classes:
        content["classes"] = conversion.classes
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _coco_splits(conversion: Conversion) -> dict[str, Split]:
    return {name: Split(*word.split(":")) for name, word in sorted(conversion.splits.items())}


def require_known(conversion: Conversion) -> None:
    """See that a dataset has the classes that are kept, without its images.

    Raises:
        UnknownClass: one is not there.
        DataError: the dataset has a fault.
    """
    if conversion.layout == "COCO":
        for split in _coco_splits(conversion).values():
            path = conversion.root / split.annotations
            require_classes(conversion.classes, coco_names(path), path, "categories")
        return
    names, splits = _read(conversion)
    classes = {
        thing.name
        for files in splits.values()
        for file in files
        if names is None and file.labels
        for thing in voc.read(conversion.root / file.labels)[0]
    }
    _require_in(conversion, names.values() if names else classes)


def _require_in(conversion: Conversion, known: Collection[str]) -> None:
    if conversion.layout == "YOLO":
        file, key = yolo.file_and_entry(next(iter(conversion.splits.values())), "")[0], "names"
        require_classes(conversion.classes, known, conversion.root / file, key)
    else:
        require_classes(conversion.classes, known, conversion.root, "names of objects")


def _source(root: Path, file: Labelled) -> list:
    labels = file.labels and [file.labels, file_digest(root / file.labels)]
    return [file.image, (root / file.image).stat().st_size, labels]


def _read(conversion: Conversion) -> tuple[dict[int, str] | None, dict[str, list[Labelled]]]:
    """The classes as `_names` gives them, and the images of each split in the order of their names."""
    if not conversion.root.is_dir():
        raise data_error(conversion.root, "data_root", "no such folder", "name the folder of the dataset")
    names, find = _names(conversion), {"VOC": voc.find, "YOLO": yolo.find}[conversion.layout]
    return names, {
        name: sorted(find(conversion.root, word, name)) for name, word in sorted(conversion.splits.items())
    }


def _names(conversion: Conversion) -> dict[int, str] | None:
    """The classes by their numbers; None where the objects have names."""
    if conversion.layout == "VOC":
        return None
    files = {key: yolo.file_and_entry(word, key)[0] for key, word in conversion.splits.items()}
    names = {file: yolo.read_names(conversion.root / file) for file in sorted(set(files.values()))}
    (first, known), *others = names.items()
    for file, other in others:
        if other != known:
            problem = f"other names than in {first}: {list(other.values())} and {list(known.values())}"
            raise data_error(conversion.root / file, "names", problem, "give both files the same names")
    return known


def convert(
    conversion: Conversion,
    folder: Path,
    digest: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write each split as a COCO instances file, and a link to the dataset for its images.

    Args:
        conversion: what to convert.
        folder: gets `NAME.json` for each split, `LINK` and `SOURCES`.
        digest: result of `sources_digest`, to be kept beside the files.
        progress: receives (images read, images in all) after each image.

    Returns:
        sentences on what was found

    Raises:
        DataError: the dataset has a fault; the message names the file and the key, and gives a hint.
        ImageError: an image cannot be read.
    """
    (folder / SOURCES).unlink(missing_ok=True)
    if conversion.layout == "COCO":
        contents, sentences = _cut(conversion)
    else:
        contents, sentences = _converted(conversion, progress)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_json(folder / f"{name}.json", content)
    link = folder / LINK
    link.unlink(missing_ok=True)
    link.symlink_to(conversion.root.absolute(), target_is_directory=True)
    write_json(folder / SOURCES, {"digest": digest})
    return sentences


def _cut(conversion: Conversion) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The contents of COCO's files with the classes that are kept, and sentences on them."""
    contents, counts = coco_subset(conversion.root, _coco_splits(conversion), conversion.classes)
    sentences = []
    for name, content in contents.items():
        labels = [category["name"] for category in content["categories"]]
        sentences += _counted(conversion, name, len(content["images"]), counts[name], labels)
    return contents, sentences


def _converted(
    conversion: Conversion, progress: Callable[[int, int], None] | None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The contents of COCO's files for another layout, and sentences on what was found."""
    names, splits = _read(conversion)
    total, done = sum(map(len, splits.values())), 0
    counts: Counter[str] = Counter()
    read: dict[str, list[tuple[Labelled, tuple[int, int], list[Thing]]]] = {name: [] for name in splits}
    for name, files in splits.items():
        for file, (width, height) in zip(files, _sizes(conversion.root, files), strict=True):
            things, stated = _things(conversion.root, file, names, width, height)
            counts["size"] += stated is not None and stated != (width, height)
            counts["without"] += file.labels is None
            read[name].append((file, (width, height), things))
            done += 1
            if progress:
                progress(done, total)
    objects = {name: Counter(thing.name for *_, things in read[name] for thing in things) for name in read}
    numbers = _numbers(names, {label for labels in objects.values() for label in labels})
    if kept := conversion.classes:
        _require_in(conversion, numbers)
        numbers = {name: number for name, number in numbers.items() if name in kept}
        for name in objects:
            require_objects(kept, sum(objects[name][label] for label in kept), conversion.root, name)
    contents = {name: _coco(conversion, entries, numbers, counts) for name, entries in read.items()}
    sentences = [
        sentence
        for name, entries in read.items()
        for sentence in _counted(conversion, name, len(entries), objects[name], numbers)
    ]
    paths = [os.path.realpath(conversion.root / file.image) for files in splits.values() for file in files]
    counts["again"] = len(paths) - len(set(paths))
    return contents, [*sentences, *_remarks(counts), *_unread(conversion, splits)]


def _sizes(root: Path, files: Sequence[Labelled]) -> Iterator[tuple[int, int]]:
    """Width and height of each image as trainings see it, upright."""
    from tood.data.images import read_image  # not above: every call reads this module

    def size(file: Labelled) -> tuple[int, int]:
        height, width = read_image(root / file.image).shape[:2]
        return width, height

    with ThreadPoolExecutor() as pool:  # decoders do not hold the interpreter lock
        for start in range(0, len(files), BATCH):
            yield from pool.map(size, files[start : start + BATCH])


def _things(
    root: Path, file: Labelled, names: Mapping[int, str] | None, width: int, height: int
) -> tuple[list[Thing], tuple[int, int] | None]:
    if file.labels is None:
        return [], None
    if names is None:
        return voc.read(root / file.labels)
    return yolo.read(root / file.labels, names, width, height), None


def _numbers(names: Mapping[int, str] | None, labels: set[str]) -> dict[str, int]:
    """The ids of the classes, the same in all splits: YOLO's numbers, or from 1 in the order of the names."""
    if names is not None:
        return {name: number for number, name in sorted(names.items())}
    return {name: number for number, name in enumerate(sorted(labels), 1)}


def _coco(
    conversion: Conversion,
    entries: Sequence[tuple[Labelled, tuple[int, int], list[Thing]]],
    numbers: Mapping[str, int],
    counts: Counter[str],
) -> dict[str, Any]:
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, (file, (width, height), things) in enumerate(entries, 1):
        images.append({"id": image_id, "file_name": file.image, "width": width, "height": height})
        kept = [thing for thing in things if thing.name in numbers]
        counts["twice"] += len(kept) - len({(thing.name, thing.corners) for thing in kept})
        for thing in kept:
            x1, y1, x2, y2 = corners_within(thing, width, height, conversion.root / str(file.labels))
            moved = (abs(a - b) for a, b in zip((x1, y1, x2, y2), thing.corners, strict=True))
            counts["cut"] += max(moved) > 1
            counts["difficult"] += thing.difficult
            w, h = round(x2 - x1, DIGITS), round(y2 - y1, DIGITS)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": numbers[thing.name],
                    "bbox": [x1, y1, w, h],
                    "area": round(w * h, DIGITS),
                    "iscrowd": 0,
                    **({"difficult": 1} if thing.difficult else {}),
                }
            )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def _counted(
    conversion: Conversion, name: str, images: int, by_class: Mapping[str, int], kept: Iterable[str]
) -> list[str]:
    """What a split has, of the classes that are kept and of others."""
    counts = {label: by_class.get(label, 0) for label in kept}
    classes = ", ".join(f"{count:,} {label}" for label, count in counts.items())
    objects, total = sum(counts.values()), sum(by_class.values())
    sentences = [
        f"{conversion.layout}, {name}={conversion.splits[name]}: {images:,} images, {objects:,} objects "
        f"({classes})."
    ]
    if conversion.classes:
        sentences.append(
            f"{name}: {total - objects:,} of {total:,} objects are of other classes and left out."
        )
    return sentences


def _remarks(counts: Mapping[str, int]) -> list[str]:
    sentences = []
    for key, sentence in (
        ("again", "{:,} images are there twice, in another split or behind a link, and count all the same."),
        ("without", "{:,} images have no file of labels and count as images without objects."),
        ("twice", "{:,} objects have class and box of another one of their image and count all the same."),
        ("difficult", "{:,} objects are marked as difficult and count as any other."),
        ("cut", "{:,} boxes reach over the border of their image by more than a pixel and end there now."),
        ("size", "{:,} images have another size than their XML files say; that of the image counts."),
    ):
        if counts[key]:
            sentences.append(sentence.format(counts[key]))
    return sentences


def _unread(conversion: Conversion, splits: Mapping[str, Sequence[Labelled]]) -> list[str]:
    if conversion.layout != "YOLO":
        return []
    words = conversion.splits
    found = (yolo.texts_without_image(conversion.root, words[name], name, splits[name]) for name in splits)
    if texts := sorted(set().union(*found)):
        return [
            f"{len(texts):,} text files among the labels have no image and are not read, such as {texts[0]}."
        ]
    return []
