"""What the readers of VOC and YOLO give of an image, and what they share."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tood.data.annotations import data_error

# As Pillow has them for the formats that `tood.data.images` reads; a folder may hold other files. Not .pfm,
# whose floats are refused
SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
    *(".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)


class Labelled(NamedTuple):
    """An image and the file of its objects, both relative to the folder of the dataset."""

    image: str
    labels: str | None  # None: there is no file, as the image has no object


class Thing(NamedTuple):
    """An object of an image."""

    key: str  # its place in the file, for messages
    name: str  # of its class
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels; the image begins at 0
    difficult: bool = False


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix; hidden files are none."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def normal(name: str) -> str:
    """A name in one of the ways to write its accents: macOS has another one in file names than editors."""
    return unicodedata.normalize("NFC", name)


def inside(root: Path, path: Path, file: Path, key: str) -> str:
    """A path relative to the folder of the dataset.

    Args:
        root: the folder.
        path: of which it is asked.
        file, key: that name the path, for the message.

    Raises:
        DataError: it leads out of the folder.
    """
    relative = os.path.relpath(path, root)
    if relative.split(os.sep)[0] == os.pardir:
        hint = "let data_root be the folder that holds all files of the dataset"
        raise data_error(file, key, f"{str(path)!r} leads out of data_root", hint)
    return relative


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, with empty ones as empty texts, without spaces around them.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    try:
        return [line.strip() for line in path.read_bytes().decode("utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise data_error(
            path, "whole file", f"cannot be read: {error}", "save it as text in UTF-8"
        ) from error


def require_once(path: Path, names: Iterable[tuple[int, str]]) -> None:
    """See that no name is twice in a list.

    Args:
        path: of the list.
        names: each with the number of its line.
    """
    seen: dict[str, int] = {}
    for number, name in names:
        if (first := seen.setdefault(name, number)) != number:
            hint = "keep one of the two lines"
            raise data_error(path, f"line {number}", f"{name!r} is in line {first} already", hint)


def number_of(text: str | None, path: Path, key: str) -> float:
    """A finite number that a file has as text.

    Raises:
        DataError: it is none.
    """
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if abs(value) < float("inf") and "_" not in str(text):  # false for nan; Python reads 1_0 as 10
        return value
    raise data_error(path, key, f"expected a finite number, found {text!r}", "correct the file")
