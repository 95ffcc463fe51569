"""The one reader of images: the check, trainings, evaluations, commands and figures see the same pixels.

OpenCV decodes JPEG and PNG, as mmdet does it. Pillow decodes the other formats. For all of them:

- pixels are turned upright by the EXIF orientation; if only another place has an orientation, the image is
  refused, because programs disagree about it;
- of 16 bits the upper 8 are used; floats and integers of 32 bits have no known range and are refused;
- transparency is dropped, and the colour under it stays;
- grey, palettes and CMYK become colours; of several frames the first counts.
"""

import contextlib
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from tood.data.annotations import SOURCE_HINT
from tood.runtime.failures import InputError
from tood.runtime.text import single_line

# By content, whatever the suffix. Pillow would hand other formats to programs, such as EPS to Ghostscript.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MOST_PIXELS, LONGEST_SIDE = 2**28, 2**20  # 0.8 GB when decoded; OpenCV's own limit of a side
Image.MAX_IMAGE_PIXELS = None  # MOST_PIXELS is the limit here
PngImagePlugin.MAX_TEXT_CHUNK = 2**26  # some programs write colour profiles and histories above 1 MB
# Errors are raised with a message of this module; Pillow's warnings are not shown.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"  # how they begin
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # segments that say the size
_BY_OPENCV = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with further images behind it
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.flip(cv2.transpose(pixels), -1),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
_TURNED_BY_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*[2-8]""")
_OLD_EXIF = "Raw profile type exif"  # text of a PNG, from before PNG had a chunk for EXIF


class ImageError(InputError):
    """A file that cannot be read unambiguously as an image; the message names it and gives a hint."""


def read_image(path: Path | str) -> np.ndarray:
    """The pixels [H, W, 3] uint8 of an image file, upright, in the order BGR, which mmdet's models take.

    Raises:
        ImageError: as `read_file` and `decode`.
    """
    return decode(read_file(path), path)


def read_file(path: Path | str) -> bytes:
    """The content of a file.

    Raises:
        ImageError: it does not exist, cannot be read, or is not a regular file; a named pipe would hang.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return Path(path).read_bytes()
    except OSError as error:
        raise _error(path, str(error.strerror), "check the name and who may read the file") from error
    raise _error(path, "a folder, pipe or device and no file", "name image files alone")


def decode(content: bytes, path: Path | str) -> np.ndarray:
    """The pixels of an image, as `read_image` returns them.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        ImageError: the content is no image of `FORMATS`, is damaged, cut short or too large, or its pixels or
            orientation are ambiguous.
    """
    try:
        if size := _plain_size(content, path):
            _check_size(*size, path)
            return _decode_by_opencv(content, path)
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(*image.size, path)
            if image.format == "PNG":
                image.load()  # which also reads what follows the pixels
            orientation = _orientation(image, path)
            if image.format not in _BY_OPENCV:
                return _TURNS[orientation](_decode_by_pillow(image, path))
        return _TURNS[orientation](_decode_by_opencv(content, path))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        hint = f"{SOURCE_HINT}, as JPEG or PNG; the formats that are read are {', '.join(FORMATS)}"
        raise _error(path, f"no image of a known format in {len(content)} bytes", hint) from error
    except MemoryError as error:
        raise _error(path, "not enough memory", "cut the image into parts, or scale it down") from error
    except Exception as error:  # on a damaged file decoders raise errors of any type
        if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
            raise _error(path, "not enough memory", "cut the image into parts, or scale it down") from error
        raise _error(path, single_line(str(error)) or type(error).__name__, SOURCE_HINT) from error


def _error(path: Path | str, problem: str, hint: str) -> ImageError:
    return ImageError(f"{path}: cannot be read as an image: {problem}. Hint: {hint}.")


def _check_size(width: int, height: int, path: Path | str) -> None:
    """Refuses an image that would fill the memory, before it is decoded."""
    if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        problem = (
            f"{width} x {height} pixels are {width * height / 1e6:,.0f} megapixels; at most "
            f"{MOST_PIXELS / 1e6:,.0f} are read, and {LONGEST_SIDE:,} pixels on a side"
        )
        raise _error(path, problem, "cut the image into parts, or scale it down, and its boxes with it")


def _orientation(image: Image.Image, path: Path | str) -> int:
    """The EXIF orientation of an image, from 1 (upright) to 8."""
    stated = None
    with contextlib.suppress(Exception):  # EXIF that cannot be read is ignored, as in OpenCV
        if isinstance(image, TiffImageFile):
            stated = image.tag_v2.get(_ORIENTATION)
        else:
            exif = Image.Exif()  # not `getexif`, which adds values of XMP
            exif.load(image.info.get("exif") or b"")
            stated = exif.get(_ORIENTATION)
    if stated is None and (place := _turned_elsewhere(image)):
        problem = f"only its {place} says that it is to be turned, and programs do not agree on that"
        raise _error(path, problem, f"save it upright, as its boxes are, and remove its {place}")
    # Pillow turns a TIFF itself as it decodes it.
    return stated if stated in _TURNS and image.format != "TIFF" else 1


def _turned_elsewhere(image: Image.Image) -> str:
    """The place outside of EXIF that says that an image must be turned; empty if there is none."""
    xmp = image.info.get("xmp") or b""
    if _TURNED_BY_XMP.search(xmp if isinstance(xmp, bytes) else xmp.encode()):
        return "XMP"
    old = _OLD_EXIF in image.info and image.getexif().get(_ORIENTATION, 1) != 1
    return f"text {_OLD_EXIF!r}" if old else ""


def _plain_size(content: bytes, path: Path | str) -> tuple[int, int] | None:
    """Width and height of a JPEG or PNG that has no metadata that could turn it; None for all else.

    Most images have none. Opening them also with Pillow would take a twentieth of the time of loading.

    Raises:
        ImageError: a PNG has no end.
    """
    if content.startswith(_PNG):
        return None if _may_turn(content, path) else struct.unpack_from(">II", content, 16)
    size, position = None, 2
    with contextlib.suppress(struct.error, IndexError):  # beyond the end
        while content.startswith(_JPEG) and content[position] == 0xFF:
            marker, length = struct.unpack_from(">BH", content, position + 1)
            if marker == 0xE1:  # where EXIF and XMP are
                return None
            if marker == 0xDA:  # the pixels begin
                return size
            if marker in _JPEG_FRAMES:
                height, width = struct.unpack_from(">HH", content, position + 5)
                size = width, height
            position += 2 + length
    return None


def _may_turn(content: bytes, path: Path | str) -> bool:
    """Whether a PNG has a chunk that can hold an orientation; it may stand behind the pixels.

    Raises:
        ImageError: it has no end.
    """
    position, turned, texts = 8, False, (b"XML:com.adobe.xmp", _OLD_EXIF.encode())
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        if kind == b"IEND":
            return turned
        turned = turned or kind == b"eXIf" or content.startswith(texts, position + 8)
        position += length + 12  # and the chunk's length, name and checksum
    raise _error(path, f"truncated, its end is missing after {len(content)} bytes", SOURCE_HINT)


def _decode_by_opencv(content: bytes, path: Path | str) -> np.ndarray:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if pixels is None:
        raise _error(path, "truncated or damaged, or a rare variant of its format", SOURCE_HINT)
    return pixels


def _require_plain_tiff(image: TiffImageFile, path: Path | str) -> None:
    """Refuses samples whose meaning Pillow does not report."""
    tags = image.tag_v2
    bits, signed = max(tags.get(258, (1,))), 2 in tags.get(339, (1,))
    negative = image.mode.startswith("I;16") and tags.get(262) == 0
    if bits not in (1, 2, 4, 8, 16, 32, 64) or signed or negative:
        problem = (
            f"its samples have {bits} bits" + ", with a sign" * signed + ", of which 0 is white" * negative
        )
        raise _error(path, problem, "save it with 8 or 16 bits per channel, without a sign, 0 being black")


def _decode_by_pillow(image: Image.Image, path: Path | str) -> np.ndarray:
    grey_map = image.mode == "I" and image.format == "PPM"  # scaled to 16 bits
    if image.mode in ("I", "F") and not grey_map:
        kind = {"I": "integers", "F": "floating-point numbers"}[image.mode]
        hint = "save it with 8 bits per channel, or with 16, scaled to their range"
        raise _error(path, f"its pixels are {kind} of 32 bits, whose range is not known", hint)
    if isinstance(image, TiffImageFile):
        _require_plain_tiff(image, path)
    if image.mode.startswith("I;16") or grey_map:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
