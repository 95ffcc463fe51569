"""The names, sizes, times and SHA-256 of files at the check of a dataset, to find later changes.

Nothing is compared with a clock: times of files may lie in the future, and clocks of machines differ.
"""

import base64
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

_BYTES = 4  # of a mark: the marks of COCO's 123,000 images need half a megabyte


def file_digest(path: Path, seen: Sequence | None = None) -> str:
    """SHA-256 of a file, which is read only if its size or time is another than seen.

    Args:
        path: of the file.
        seen: size, time in nanoseconds and SHA-256 of the file at another time.

    Raises:
        OSError: the file cannot be read.
    """
    size, time = _stamp(path.stat())
    if seen is not None and [size, time] == list(seen[:2]):
        return str(seen[2])
    return _digest_of(path, size, time)


@functools.cache  # many runs of a study need the same files
def _digest_of(path: Path, size: int, time: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(state: os.stat_result) -> tuple[int, int]:
    return state.st_size, state.st_mtime_ns


def marks_of(folder: Path, names: Iterable[str]) -> str:
    """A mark of the name, size and time of each file, in base64.

    Args:
        folder: holds the files.
        names: relative to it.

    Raises:
        OSError: a file is not there.
    """
    return base64.b64encode(b"".join(_mark(name, (folder / name).stat()) for name in names)).decode()


def first_changed(folder: Path, marks: str, names: Callable[[], Iterable[str]]) -> Path | None:
    """A file that has changed since it was marked; None if there is none.

    Args:
        folder: holds the files, and perhaps others.
        marks: result of `marks_of`.
        names: gives the names that were marked; called only if not all marks are found in the folder.
    """
    content = base64.b64decode(marks)
    expected = {content[start : start + _BYTES] for start in range(0, len(content), _BYTES)}
    if expected <= {_mark(name, state) for name, state in _files(str(folder))}:
        return None
    for name in names():  # a file may have a name that the walk does not find, such as through a link
        try:
            if _mark(name, (folder / name).stat()) not in expected:
                return folder / name
        except (OSError, ValueError):
            return folder / name
    return None


def _mark(name: str, state: os.stat_result) -> bytes:
    size, time = _stamp(state)
    content = f"{os.path.normpath(name)}\0{size}\0{time}".encode(errors="surrogatepass")
    return hashlib.blake2b(content, digest_size=_BYTES).digest()


def _files(folder: str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Relative name and state of each file below a folder; files that cannot be read are left out."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield f"{prefix}{entry.name}", entry.stat()
        except OSError:
            continue
