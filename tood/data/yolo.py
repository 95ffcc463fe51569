"""YOLO as Ultralytics and Roboflow write it: a YAML file with names and splits, a text file for each image.

A line of such a text has a class, counted from 0, and in shares of the image the centre, width and height of
a box, or the points of a polygon, whose box is taken.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tood.data.annotations import data_error, described, shown
from tood.data.labelled import (
    Labelled,
    Thing,
    files_below,
    inside,
    is_image,
    leads_out,
    number_of,
    read_lines,
    require_once,
)

SUFFIXES = (".yaml", ".yml")
_OTHER_NAMES = {"val": ("val", "validation", "valid"), "validation": ("validation", "val", "valid")}
_BEYOND = 0.01  # in shares of the image; programs round, and boxes of objects at the border reach over it
_CLASSES = "classes.txt"  # LabelImg writes it beside the labels


def file_and_entry(word: str, key: str) -> tuple[str, str]:
    """The YAML file and the entry of it that a word such as `data.yaml` or `data.yaml:test` means.

    Args:
        word: what the option has.
        key: the option, whose name the entry has if the word names none.
    """
    file, _, entry = word.partition(":")
    return file, entry or key


def read_description(path: Path) -> Mapping[str, Any]:
    """The content of a YAML file; nothing in it is executed.

    Raises:
        DataError: it is no YAML, or no table of keys.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it has aliases (*NAME), which can stand for gigabytes; write the values out")
        content = yaml.safe_load(text)
    except FileNotFoundError as error:
        hint = "name the YAML file of the dataset by its path in data_root, such as train=data.yaml"
        raise data_error(path, "whole file", "no such file under data_root", hint) from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problem = f"cannot be read as YAML: {' '.join(str(error).split())}"
        raise data_error(path, "whole file", problem, "correct or export the file again") from error
    if not isinstance(content, dict):
        hint = "write names:, train: and val: as Ultralytics describes them"
        raise data_error(path, "whole file", f"expected keys, found {described(content)}", hint)
    if content.get("kpt_shape") is not None:
        hint = "export boxes alone"
        raise data_error(path, "kpt_shape", "its labels have key points, which are not read", hint)
    return content


def read_names(path: Path) -> dict[int, str]:
    """The names of the classes by their numbers.

    Raises:
        DataError: there are none, or one has no name of its own.
    """
    content = read_description(path)
    given = content.get("names")
    entries = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(entries, dict) or not entries:
        hint = "write `names: [cat, dog]`, in the order of their numbers"
        raise data_error(
            path, "names", f"expected a list or a table of names, found {described(given)}", hint
        )
    names: dict[int, str] = {}
    for number, name in entries.items():
        key = f"names[{number}]"
        if type(number) is not int or number < 0:
            hint = "write the number of each class before its name, from 0"
            raise data_error(path, key, f"expected a number from 0, found {described(number)}", hint)
        if type(name) is int:
            name = str(name)
        if not isinstance(name, str) or not name.strip():
            problem = f"expected a name, found {described(name)}"
            raise data_error(path, key, problem, "put the name in quotes")
        if name in names.values():
            raise data_error(path, key, f"duplicate name {shown(name)}", "give each class a name of its own")
        names[number] = name
    if isinstance(count := content.get("nc"), int) and count != len(names):
        hint = "correct one of the two"
        raise data_error(path, "nc", f"it is {count}, and names has {len(names)}", hint)
    return names


class _Split(NamedTuple):
    """What a YAML file says of a split."""

    path: Path  # of the YAML file
    entry: str  # its key
    places: list[str]  # as the key has them
    folders: list[Path]  # of images
    lists: list[tuple[Path, Path]]  # each behind the folder that its lines may be relative to


def find(root: Path, word: str, key: str) -> list[Labelled]:
    """The images of a split and their label files.

    Args:
        root: folder of the dataset.
        word: as for `file_and_entry`.
        key: the option that has the word.

    Raises:
        DataError: the YAML file, the split in it, or an image is absent, or two images share their labels.
    """
    split = _split(root, word, key)
    images = {image: _labels_of(image) for image in _images(root, split)}
    if not images:
        problem = f"no image in {', '.join(map(repr, split.places))}"
        raise data_error(split.path, split.entry, problem, "name a folder with images, or a list of them")
    found = [Labelled(image, file if (root / file).is_file() else None) for image, file in images.items()]
    if not any(labelled.labels for labelled in found):
        first = next(iter(images.values()))
        problem = f"no image of it has a file of labels; {first} was looked for first"
        hint = "put the text files into labels/ beside images/, or beside the images"
        raise data_error(split.path, split.entry, problem, hint)
    owners: dict[str, str] = {}
    for image, file in found:
        if file and (owner := owners.setdefault(file, image)) != image:
            problem = f"the images {owner} and {image} share these labels"
            hint = "rename or remove one of the images"
            raise data_error(root / file, "name of the file", problem, hint)
    return found


def texts_without_image(root: Path, word: str, key: str, found: Iterable[Labelled]) -> list[str]:
    """The text files where the labels of a split's folders are that belong to no image of the split.

    A list may name some images of a folder, so lists are not asked for the other labels.

    Args:
        root, word, key: as for `find`.
        found: what `find` gives for them.
    """
    split = _split(root, word, key)
    images = (inside(root, folder / "image", split.path, split.entry) for folder in split.folders)
    folders = [folder for image in images if (folder := (root / _labels_of(image)).parent).is_dir()]
    texts = {Path(os.path.relpath(path, root)).as_posix() for path in files_below(folders, _is_text)}
    return sorted(texts - {_labels_of(labelled.image) for labelled in found})


def _is_text(name: str) -> bool:
    return name.lower().endswith(".txt") and not name.startswith(".") and name != _CLASSES


def _split(root: Path, word: str, key: str) -> _Split:
    file, entry = file_and_entry(word, key)
    path = root / file
    inside(root, path, root, key)
    content = read_description(path)
    entry = next((name for name in _OTHER_NAMES.get(entry, (entry,)) if content.get(name)), entry)
    places = content.get(entry)
    places = [places] if isinstance(places, str) else places
    if not isinstance(places, list) or not places or not all(isinstance(place, str) for place in places):
        problem = f"expected the folder or the list of its images, found {described(content.get(entry))}"
        hint = f"write `{entry}: images/{entry}`, or name another key: {key}={file}:KEY"
        raise data_error(path, entry, problem, hint)
    split = _Split(path, entry, places, [], [])
    for place in places:
        base, there = _resolved(root, path, content, entry, place)
        inside(root, there, path, entry)
        if there.is_dir():
            split.folders.append(there)
        else:
            split.lists.append((base, there))
    return split


def _images(root: Path, split: _Split) -> Iterator[str]:
    """The images of a split: those in and below its folders, and those that its lists name."""
    for path in files_below(split.folders, is_image):
        yield inside(root, path, split.path, split.entry)
    for base, listing in split.lists:
        named = [(number, line) for number, line in enumerate(read_lines(listing), 1) if line]
        require_once(listing, named)
        for number, line in named:
            tried = [folder / line for folder in dict.fromkeys((listing.parent, base, split.path.parent))]
            image = min(filter(Path.is_file, tried), key=partial(leads_out, root), default=None)
            if image is None:
                problem = f"no such image: {_normal(tried)}"
                hint = "copy the image there, or remove the line"
                raise data_error(listing, f"line {number}", problem, hint)
            yield inside(root, image, listing, f"line {number}")


def _resolved(
    root: Path, path: Path, content: Mapping[str, Any], entry: str, place: str
) -> tuple[Path, Path]:
    """The folder of the dataset by its YAML file, and the place below it; one inside of `root` goes first.

    `path:` is often of another machine, and Roboflow writes `../train/images` for `train/images`; so the
    folder of the YAML file is tried too, and the place without `../`.
    """
    stated = content.get("path")
    bases = [path.parent / stated] if isinstance(stated, str) else []
    tried = [
        (base, base / name)
        for base in [*bases, path.parent]
        for name in dict.fromkeys((place, place.removeprefix("../")))
    ]
    if there := [found for found in tried if found[1].exists()]:
        return min(there, key=lambda found: leads_out(root, found[1]))
    problem = f"not there: {_normal(there for _, there in tried)}"
    raise data_error(path, entry, problem, "correct the path; it is relative to `path:`, or to the YAML file")


def _normal(paths: Iterable[Path]) -> str:
    return ", ".join(dict.fromkeys(map(os.path.normpath, paths)))


def _labels_of(image: str) -> str:
    """Where Ultralytics looks for the labels of an image: in `labels` for the last `images` of its path."""
    parts = list(Path(image).with_suffix(".txt").parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).as_posix()


def read(path: Path, names: Mapping[int, str], width: int, height: int) -> list[Thing]:
    """The objects of a label file.

    Args:
        path: of the file.
        names: of the classes.
        width, height: of the image, in pixels.

    Raises:
        DataError: a line is no object of these classes in this image.
    """
    lines = enumerate(read_lines(path), 1)
    return [
        _thing(path, f"line {number}", line.split(), names, width, height) for number, line in lines if line
    ]


def _thing(
    path: Path, key: str, words: list[str], names: Mapping[int, str], width: int, height: int
) -> Thing:
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        problem = (
            "expected a class with x, y, width and height of a box, or with three or more points of a "
            f"polygon, found {len(words)} words"
        )
        hint = "six are a detection with its score" if len(words) == 6 else "correct or remove the line"
        raise data_error(path, key, problem, hint)
    number, *values = (number_of(word, path, key) for word in words)
    if number not in names:
        problem = f"class {words[0]} is not one of names, which has {_ranges(names)}"
        raise data_error(path, key, problem, "add its name to the YAML file, or correct the line")
    if not all(-_BEYOND <= value <= 1 + _BEYOND for value in values):
        problem = f"expected shares of the image from 0 to 1, found {shown(' '.join(words[1:]))}"
        raise data_error(
            path, key, problem, "divide x and widths by the image's width, y and heights by its height"
        )
    if len(values) == 4:
        x, y, w, h = values
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        left, right = min(values[::2]), max(values[::2])
        top, bottom = min(values[1::2]), max(values[1::2])
    if right <= left or bottom <= top:
        problem = f"the box has no area: {shown(' '.join(words[1:]))}"
        raise data_error(path, key, problem, "correct or remove the line")
    return Thing(key, names[int(number)], (left * width, top * height, right * width, bottom * height))


def _ranges(names: Iterable[int]) -> str:
    numbers = sorted(names)
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]} to {numbers[-1]}" if whole else ", ".join(map(str, numbers))
