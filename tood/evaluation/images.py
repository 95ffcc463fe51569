"""Images that a user names: files, folders and patterns."""

import glob
from collections.abc import Iterable
from pathlib import Path

from tood.data.labelled import SUFFIXES, is_image
from tood.study.declarations import ExperimentError


def find_images(names: Iterable[str]) -> list[Path]:
    """The files behind names: files themselves, folders with images, and patterns such as `*.jpg`.

    Each file occurs once, in the order of the names, and by name within a folder or pattern. Folders and
    hidden files in a folder are ignored. A file that is named may have any suffix.

    Raises:
        ExperimentError: a name matches nothing, or is a folder or pattern without images.
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = sorted(file for file in path.iterdir() if is_image(file.name) and not file.is_dir())
            if not matches:
                raise ExperimentError(f"{path}: has no image; looked for {', '.join(SUFFIXES)}")
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(file for file in map(Path, glob.glob(name)) if not file.is_dir())
            if not matches:
                raise ExperimentError(f"{name}: no such file or folder, and no file fits it as a pattern")
        paths += matches
    return list(dict.fromkeys(paths))
