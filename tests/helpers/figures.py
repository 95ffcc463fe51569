"""What a figure shows: read from the file that it was written to, or from the object before it is written."""

import io
import re
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image


def watch_figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved from now on; they are saved all the same."""
    saved, save = [], Figure.savefig

    def spy(figure: Figure, *args, **options) -> None:
        saved.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved


def rendered(figure: Figure, dpi: float) -> np.ndarray:
    """Pixels [H, W, 3] of a figure."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi, format="png")
    return pixels(file)


def text_of_pdf(path: Path) -> str:
    """The text that matplotlib wrote into a PDF, one drawn string per line, without glyphs beyond ASCII."""
    lines = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", path.read_bytes(), re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        if b"BT\n/" not in content:  # pixels or a glyph; of an even grey of 40, "(", reading takes a minute
            continue
        for single, pieces in re.findall(rb"(\((?:\\.|[^\\)])*\))\s+Tj|\[((?:[^\]\\]|\\.)*)\]\s+TJ", content):
            parts = re.findall(rb"\(((?:\\.|[^\\)])*)\)", single or pieces)
            lines.append(re.sub(rb"\\(.)", rb"\1", b"".join(parts)).decode("latin-1"))
    return "\n".join(lines)


def likeness(picture: np.ndarray, image: np.ndarray, widths: range) -> np.ndarray:
    """Where and how well an image is found in a picture.

    Args:
        picture: [H, W, 3] uint8, such as one figure of several panels.
        image: [h, w, 3] uint8; it is looked for whole and upright.
        widths: the widths to try, pixels of `picture`.

    Returns:
        [H', W'] for the width that fits best: the correlation in [-1, 1] by place of the upper left corner.
    """
    best = np.array([[-1.0]])
    for width in widths:
        height = round(image.shape[0] * width / image.shape[1])
        if height > picture.shape[0] or width > picture.shape[1]:
            break
        scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        found = cv2.matchTemplate(picture, scaled, cv2.TM_CCOEFF_NORMED)
        if found.max() > best.max():
            best = found
    return best


def pixels(file: Path | io.BytesIO, width: int | None = None) -> np.ndarray:
    """An image file as [H, W, 3] uint8 RGB, on request scaled to a width."""
    with Image.open(file) as image:
        image = image.convert("RGB")
        if width is not None:
            image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.BOX)
        return np.asarray(image)
