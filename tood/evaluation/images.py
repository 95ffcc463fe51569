"""Images that a user names: files, folders and patterns, read one by one."""

import glob
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tood.study.declarations import ExperimentError

# What counts as an image in a folder; a file that is named is tried whatever its suffix
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class BrokenImage(ValueError):
    """A file that cannot be read as an image; the message names it."""


def find_images(names: Iterable[str]) -> list[Path]:
    """The files behind names: files themselves, folders with images, and patterns such as `*.jpg`.

    Each file once, in the order of the names, and by name within a folder or pattern.

    Raises:
        ExperimentError: a name is of nothing, or of a folder or pattern without images.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = sorted(one for one in path.iterdir() if one.suffix.lower() in SUFFIXES)
            if not matches:
                raise ExperimentError(f"{path}: has no image; looked for {', '.join(SUFFIXES)}")
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(one for one in map(Path, glob.glob(name)) if one.is_file())
            if not matches:
                raise ExperimentError(f"{name}: no such file or folder, and no file fits it as a pattern")
        found += [one for one in matches if one not in found]
    return found


def read_image(path: Path) -> np.ndarray:
    """The pixels [H, W, 3] uint8 RGB of an image, upright as its EXIF orientation says; of several the first.

    Raises:
        BrokenImage: it is none, or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's plugins raise what they like
        raise BrokenImage(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from error
