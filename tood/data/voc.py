"""Pascal VOC: an XML file for each image, in folders with lists of images, or beside the images.

Boxes are those of VOC's development kit: corners are pixels, counted from 1, and both belong to the box. A
box from 1 to W covers an image of W pixels. So x1 - 1, y1 - 1, x2 and y2 are its edges. LabelImg writes the
edges themselves, rounded down, with 1 in place of 0. A file does not say which tool wrote it; the difference
is one pixel at the left and upper edge. mmdet's `XMLDataset` takes 1 from all four numbers, so its boxes lack
the last column and row.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree

from tood.data.annotations import data_error, leaves, shown
from tood.data.labelled import (
    Labelled,
    Thing,
    files_below,
    inside,
    is_image,
    normal,
    number_of,
    read_lines,
    require_once,
)

_LABELS, _IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images", "Images")
_LISTS = "ImageSets/Main"
_SIDES = ("xmin", "ymin", "xmax", "ymax")


class _Builder(ElementTree.TreeBuilder):
    """Refuses declarations: an entity can stand for gigabytes, or for another file."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise ValueError("it declares a document type, which may define entities; VOC's files have none")


def find(root: Path, word: str, key: str) -> list[Labelled]:
    """The images of a split and their XML files.

    Args:
        root: folder of the dataset.
        word: a list of images, as a path or by its name in `ImageSets/Main`, or a folder.
        key: the option that has the word.

    Raises:
        DataError: there is no such split, or a file of it is absent.
    """
    lists = (root / word, root / f"{word}.txt", root / _LISTS / f"{word}.txt")
    if not leaves(root, word):
        if listing := next((path for path in lists if path.is_file()), None):
            return _of_list(root, listing)
        if (root / word).is_dir():
            return _of_folder(root, root / word)
    names = ", ".join(path.name for path in sorted((root / _LISTS).glob("*.txt"))) or "none"
    problem = (
        f"{key}={word} is neither a list ({word} or {_LISTS}/{word}.txt; lists there: {names}) nor a folder "
        "of images and XML files"
    )
    hint = (
        f"write {key}=ANNOTATIONS:IMAGES for COCO's JSON, {key}=data.yaml for YOLO, and a list or a folder "
        "in data_root for VOC"
    )
    raise data_error(root, key, problem, hint)


def _of_list(root: Path, listing: Path) -> list[Labelled]:
    """Images of a list of names, whose XML files are in `Annotations` in a folder above it."""
    above = [folder for folder in listing.parents if folder == root or root in folder.parents]
    base = next((folder for folder in above if _folder_of(folder, _LABELS)), None)
    labels, images = (_folder_of(base, names) if base else None for names in (_LABELS, _IMAGES))
    if labels is None or images is None:
        places = " and ".join(" or ".join(names) for names in (_LABELS, _IMAGES))
        problem = f"no folder of data_root above it has both {places}"
        raise data_error(listing, "whole file", problem, "keep VOC's folders together, or name another list")
    lines = [(number, line) for number, line in enumerate(read_lines(listing), 1) if line]
    named = [(number, line[: line.rindex(".")] if is_image(line) else line) for number, line in lines]
    if not named:
        raise data_error(listing, "whole file", "it names no image", "write a name per line, without suffix")
    require_once(listing, named)
    pictures, described = _by_stem(images, is_image), _by_stem(labels, _is_xml)
    for number, stem in named:
        for folder, files, what in ((images, pictures, "image"), (labels, described, "XML file")):
            if normal(stem) not in files:
                hint = "remove the line, or copy the file there"
                if re.search(r"\s-?[01]$", stem):
                    hint = "name a list of images; VOC's list of a class has 1 or -1 behind each name"
                problem = f"{folder} has no {what} of the name {shown(stem)}"
                raise data_error(listing, f"line {number}", problem, hint)
    return [_labelled(root, normal(stem), pictures, described) for _, stem in named]


def _of_folder(root: Path, folder: Path) -> list[Labelled]:
    """All images in and below a folder, which has XML files beside them or in `Annotations`.

    LabelImg writes no file for an image without objects.
    """
    labels, images = _folder_of(folder, _LABELS) or folder, _folder_of(folder, _IMAGES) or folder
    pictures, described = _by_stem(images, is_image), _by_stem(labels, _is_xml)
    if not described or not pictures:
        problem = f"no {'image' if described else 'XML file'} is in {images if described else labels}"
        hint = "name a folder of images with VOC's XML files beside them; for YOLO name its data.yaml"
        raise data_error(folder, "whole folder", problem, hint)
    if alone := sorted(set(described) - set(pictures)):
        xml = described[alone[0]][0]
        suffixes = sorted({path.suffix for paths in pictures.values() for path in paths})
        problem = f"{images} has no image of the name {shown(alone[0])} (there are {', '.join(suffixes)})"
        hint = "copy the image there, or move or remove the XML file"
        raise data_error(xml, "name of the file", problem, hint)
    return [_labelled(root, stem, pictures, described) for stem in pictures]


def _folder_of(base: Path, names: Iterable[str]) -> Path | None:
    return next((base / name for name in names if (base / name).is_dir()), None)


def _is_xml(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")


def _by_stem(folder: Path, wanted: Callable[[str], bool]) -> dict[str, list[Path]]:
    """The wanted files in and below a folder by their paths in it, without suffix."""
    files: dict[str, list[Path]] = {}
    for path in files_below([folder], wanted):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        files.setdefault(normal(stem), []).append(path)
    return files


def _labelled(
    root: Path, stem: str, pictures: Mapping[str, list[Path]], described: Mapping[str, list[Path]]
) -> Labelled:
    image, xml = _one(root, pictures[stem], "images"), None
    if stem in described:
        xml = _one(root, described[stem], "XML files")
    return Labelled(image, xml)


def _one(root: Path, files: list[Path], what: str) -> str:
    if len(files) > 1:
        names = " and ".join(path.name for path in files)
        problem = f"the {what} {names} have one name but for the suffix"
        raise data_error(files[0], "name of the file", problem, "rename or remove one of them")
    return inside(root, files[0], files[0], "name of the file")


def read(path: Path) -> tuple[list[Thing], tuple[int, int] | None]:
    """The objects of an XML file, and the width and height that it gives its image, if it does.

    The name of the image in it is not read: copies and renamed files keep an old one.

    Raises:
        DataError: it is no VOC annotation, or has no valid class or box of an object.
    """
    tree = _parse(path)
    size = [tree.findtext(f"size/{side}", "").strip() for side in ("width", "height")]
    width, height = (int(side) if side.isdecimal() else 0 for side in size)
    things = [_thing(path, number, entry) for number, entry in enumerate(tree.findall("object"))]
    return things, (width, height) if width and height else None


def _parse(path: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        parser.feed(path.read_bytes())
        tree = parser.close()
    except ElementTree.ParseError as error:
        problem = f"not valid XML: {error}"
        raise data_error(path, "whole file", problem, "export or write the file again") from error
    except (OSError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        problem = f"cannot be read as XML: {error}"
        raise data_error(path, "whole file", problem, "export or write the file again") from error
    if tree.tag != "annotation":
        problem = f"expected the element annotation, found {shown(tree.tag)}"
        raise data_error(path, "whole file", problem, "use XML files as Pascal VOC and LabelImg have them")
    return tree


def _thing(path: Path, number: int, entry: ElementTree.Element) -> Thing:
    key = f"object[{number}]"
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise data_error(path, f"{key}.name", "absent or empty", "write the class of the object")
    box = entry.find("bndbox")
    if box is None:
        hint = "draw a box; polygons and turned boxes are not read"
        raise data_error(path, f"{key}.bndbox", "absent", hint)
    x1, y1, x2, y2 = (number_of(box.findtext(side), path, f"{key}.bndbox.{side}") for side in _SIDES)
    if x2 < x1 or y2 < y1:
        problem = f"ends before it begins: {_SIDES} are {(x1, y1, x2, y2)}"
        raise data_error(path, f"{key}.bndbox", problem, "correct the box or remove the object")
    difficult = (entry.findtext("difficult") or "0").strip()
    return Thing(key, name, (x1 - 1, y1 - 1, x2, y2), difficult not in ("0", ""))
