"""Detections on a user's images: drawn, written as COCO results, and timed."""

import colorsys
import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from tood.analysis.label_places import free_place
from tood.data.images import ImageError, read_image
from tood.evaluation.detection import coco_results
from tood.evaluation.detector import Detector
from tood.runtime.files import atomic_path, write_json
from tood.runtime.progress import Progress
from tood.runtime.text import one_line

LEAST_SIDE, MOST_SIDE = 400, 4000  # pixels: enlarge a drawing to the first, not beyond the second
JPEG_SIDE = 65_500  # pixels on a side of a JPEG
NAME_BYTES = 200  # of a drawing's name before its suffix; file systems have a limit of 255
FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


class Detected(NamedTuple):
    """The result for the images."""

    images: int  # that were done
    boxes: int  # that were drawn
    seconds: float  # for the network and NMS on all images, one by one, without reading and drawing
    failed: list[str]  # the error of each of the others
    empty: dict[Path, float]  # of images without a box that was drawn: their highest score, 0 without any


def detect_images(detector: Detector, paths: Sequence[Path], folder: Path, least: float) -> Detected:
    """Detect on each image; if an image fails for any reason, continue with the next.

    Args:
        detector: a model.
        paths: of the images.
        folder: receives `detections.json`, COCO results; `images.json`, their images and categories; and each
            image as `NAME.jpg` with its detections drawn.
        least: lowest score of a detection that is drawn; the results also have detections below it, down to
            the model's own threshold.
    """
    images, results, failed = [], [], []
    empty: dict[Path, float] = {}
    boxes, seconds = 0, 0.0
    with Progress("detect", len(paths)) as progress:
        for number, (path, name) in enumerate(zip(paths, drawn_names(paths), strict=True), 1):
            try:
                pixels = read_image(path)
                start = time.perf_counter()
                detections = detector.detect(pixels).to("cpu")
                took = time.perf_counter() - start
                shown = detections[detections.scores >= least]
                highest = float(detections.scores.max()) if len(detections) else 0.0
                note = "" if len(shown) else nothing_shown(least, highest)
                with atomic_path(folder / name) as temporary:
                    draw(pixels, shown, detector.classes, note).save(temporary, quality=92)
            except ImageError as error:
                failed.append(str(error))
            except Exception as error:  # such as too little memory: the other images may fit
                failed.append(f"{path}: {one_line(error)}")
            else:
                height, width = pixels.shape[:2]
                images.append({"id": number, "file_name": str(path), "width": width, "height": height})
                results += coco_results(number, detections, detector.category_ids)
                boxes += len(shown)
                seconds += took
                if not len(shown):
                    empty[path] = highest
            progress.advance(1)
    pairs = zip(detector.category_ids, detector.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    write_json(folder / "detections.json", results)
    write_json(folder / "images.json", {"images": images, "annotations": [], "categories": categories})
    return Detected(len(images), boxes, seconds, failed, empty)


def nothing_shown(least: float, highest: float) -> str:
    """What to say of an image without a drawn detection.

    Args:
        least: lowest score that is drawn.
        highest: of the image; 0 if the model has no detection at all.
    """
    if not highest:
        return "no detection at all"
    return f"no score of at least {least:g}; the highest is {lower_threshold(highest)}"


def nothing_drawn(done: Detected, least: float) -> str:
    """What to say of images on which no detection was drawn, and which threshold would draw something.

    Args:
        done: has such images.
        least: lowest score that was drawn.
    """
    path, highest = max(done.empty.items(), key=lambda item: item[1])
    which = str(path) if done.images == 1 else f"{len(done.empty)} of {done.images} images"
    if not highest:
        return f"nothing is drawn on {which}: the model has no detection there"
    where = "there" if len(done.empty) == 1 else f"there, on {path},"
    return (
        f"nothing is drawn on {which}: no score of at least {least:g}. The highest score {where} is "
        f"{highest:.3g}; `--score {lower_threshold(highest)}` draws it"
    )


def lower_threshold(highest: float) -> str:
    """A short number that is not above a score, so that as a threshold it lets the score pass."""
    digits = 2 if highest >= 0.01 else 1 - math.floor(math.log10(highest))
    return f"{math.floor(highest * 10**digits) / 10**digits:.{digits}f}"


def drawn_names(paths: Sequence[Path]) -> list[str]:
    """Unique names of the drawings of images; equal names get suffixes or numbers."""
    of_stem, of_name = Counter(path.stem for path in paths), Counter(path.name for path in paths)
    names: dict[int, str] = {}  # by place
    taken: set[str] = set()
    # A stem that occurs once is always the drawing's name.
    for place in sorted(range(len(paths)), key=lambda place: of_stem[paths[place].stem] > 1):
        path, stem = paths[place], _cut(paths[place].stem)
        if of_stem[path.stem] == 1:
            name = stem
        elif of_name[path.name] == 1:
            name = f"{stem}_{path.suffix[1:]}"
        else:
            name = f"{stem}_{place + 1}"
        while name in taken:
            name += f"_{place + 1}"
        taken.add(name)
        names[place] = f"{name}.jpg"
    return [names[place] for place in range(len(paths))]


def _cut(stem: str) -> str:
    while len(os.fsencode(stem)) > NAME_BYTES:
        stem = stem[:-1]
    return stem


def missing_glyphs(classes: Iterable[str]) -> str:
    """The characters of names of classes that the font of the drawings lacks."""
    font = FT2Font(str(FONT))
    return "".join(
        sorted({each for name in classes for each in name if not font.get_char_index(ord(each))} - {"\n"})
    )


class Label(NamedTuple):
    """A text on a ground of a colour, and where it is on an image."""

    text: str
    colour: tuple[int, int, int]
    place: tuple[float, float, float, float]  # (left, top, right, bottom) in pixels
    line_to: tuple[float, float] | None  # corner of its box, where that is away from the label


def draw(pixels: np.ndarray, detections: InstanceData, classes: Sequence[str], note: str = "") -> Image.Image:
    """An image with boxes in the colour of their class, named with their score; the best are on top.

    A small image is enlarged by a whole number, so that names do not hide it. An image that is too large for
    a JPEG is reduced. No name covers another: the best detections choose their places first, a line leads
    from a name to its box where there was none beside it, and a name without a place is left out.

    Args:
        pixels: [H, W, 3] uint8 BGR.
        detections: `bboxes` [K, 4] in pixels, `scores` [K], `labels` [K].
        classes: names of the labels.
        note: is written at the top.
    """
    shorter, longer = sorted(pixels.shape[:2])
    step = -(-longer // JPEG_SIDE)  # every pixel, or every second, ...
    times = max(min(-(-LEAST_SIDE // shorter), MOST_SIDE // longer), 1)
    pixels = np.ascontiguousarray(pixels[::step, ::step, ::-1])
    if times > 1:
        pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    size = max(min(pixels.shape[:2]) / 32, 10)  # pixels
    font, line = ImageFont.truetype(FONT, size), max(round(size / 7), 1)
    boxes = (detections.bboxes * (times / step)).tolist()
    wanted: list[tuple[str, tuple[int, int, int], Sequence[float]]] = []
    for index in detections.scores.argsort().tolist():
        label = int(detections.labels[index])
        name = classes[label].encode(errors="replace").decode()  # a single surrogate has no glyph
        wanted.append((f"{name} {float(detections.scores[index]):.2f}", class_colour(label), boxes[index]))
        canvas.rectangle(boxes[index], outline=class_colour(label), width=line)
    if note:
        wanted.append((note, (255, 255, 255), (0.0, 0.0, 0.0, 0.0)))
    labels: list[Label] = []
    for text, colour, box in reversed(wanted):
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        extent = right - left + 2 * line, bottom - top + 2 * line
        if place := free_place(box, extent, picture.size, [placed.place for placed in labels]):
            labels.append(Label(text, colour, *place))
    for placed in labels:
        if placed.line_to:
            left, top, right, bottom = placed.place
            line_ends = ((left + right) / 2, (top + bottom) / 2, *placed.line_to)
            canvas.line(line_ends, fill=placed.colour, width=line)
    for placed in labels:
        canvas.rectangle(placed.place, fill=placed.colour)
        bright = np.dot(placed.colour, (0.299, 0.587, 0.114)) > 140
        left, top, *_ = canvas.textbbox((0, 0), placed.text, font=font)
        corner = (placed.place[0] + line - left, placed.place[1] + line - top)
        canvas.text(corner, placed.text, font=font, fill="black" if bright else "white")
    return picture


def class_colour(label: int) -> tuple[int, int, int]:
    """A colour for a class: hues a golden section apart, so that a few classes are easy to distinguish."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
