"""What the readers of VOC and YOLO give of an image, and what they share."""

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tood.data.annotations import data_error

# As Pillow has them for the formats that `tood.data.images` reads; a folder may hold other files. Not .pfm,
# whose floats are refused
SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
    *(".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
DIGITS = 3  # of a pixel, after the point; labels of YOLO have no more


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


def corners_within(thing: Thing, width: int, height: int, path: Path) -> list[float]:
    """The corners of an object, clipped to its image of `width` x `height` pixels, and rounded.

    Raises:
        DataError: nothing is left of the box; the message names `path`, the file of the object.
    """
    sides = zip(thing.corners, (width, height) * 2, strict=True)
    x1, y1, x2, y2 = rounded = [round(min(max(value, 0), side), DIGITS) for value, side in sides]
    if x2 > x1 and y2 > y1:
        return rounded
    problem = f"the box lies outside of the image, which has {width} x {height} pixels"
    hint = "correct the box or remove the object; an EXIF orientation turns the image upright"
    x1, y1, x2, y2 = thing.corners
    if min(x2 - x1, y2 - y1) < 10**-DIGITS:
        problem = f"the box is too small: it has {x2 - x1:.3g} x {y2 - y1:.3g} pixels"
        hint = "correct the box or remove the object"
    raise data_error(path, thing.key, problem, hint)


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix; hidden files are none."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def files_below(folders: Iterable[Path], wanted: Callable[[str], bool]) -> Iterator[Path]:
    """The wanted files of folders and of all folders below them, also of those behind links.

    Hidden folders are skipped. A folder with several paths counts once, by a path without links if it has
    one. A link to a folder that the link itself is in is no further path.

    Args:
        folders: that exist.
        wanted: says by the name of a file whether it is wanted.

    Raises:
        DataError: a folder cannot be read, or a link leads nowhere.
    """
    seen: set[str] = set()
    waiting = list(folders)
    while waiting:
        links = []
        for top in waiting:
            for folder, below, files in os.walk(top, onerror=_refuse):
                if (real := os.path.realpath(folder)) in seen:
                    below.clear()
                    continue
                seen.add(real)
                below[:] = sorted(name for name in below if not name.startswith("."))
                linked = (Path(folder, name) for name in below)
                links += [path for path in linked if path.is_symlink() and not _holds(path, real)]
                for path in (Path(folder, name) for name in sorted(files)):
                    if wanted(path.name):
                        yield path
                    elif path.is_symlink() and not path.exists() and not path.name.startswith("."):
                        problem = f"a link to {os.readlink(path)}, which does not exist"
                        raise data_error(path, "name of the file", problem, "mend or remove the link")
        waiting = links


def _refuse(error: OSError) -> None:
    problem = f"cannot be read: {error.strerror}"
    raise data_error(Path(error.filename), "whole folder", problem, "see who may read it") from error


def _holds(link: Path, folder: str) -> bool:
    return Path(folder).is_relative_to(os.path.realpath(link))


def normal(name: str) -> str:
    """A name in one of the ways to write its accents: macOS has another one in file names than editors."""
    return unicodedata.normalize("NFC", name)


def leads_out(root: Path, path: Path) -> bool:
    """Whether a path leads out of the folder of the dataset; where links lead does not matter."""
    return _is_out(os.path.relpath(path, root))


def _is_out(relative: str) -> bool:
    return relative.split(os.sep)[0] == os.pardir


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
    if _is_out(relative):
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
