"""Detections on a user's images: drawn, written as COCO results, and timed."""

import colorsys
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
    boxes, seconds = 0, 0.0
    with Progress("detect", len(paths)) as progress:
        for number, (path, name) in enumerate(zip(paths, drawn_names(paths), strict=True), 1):
            try:
                pixels = read_image(path)
                start = time.perf_counter()
                detections = detector.detect(pixels).to("cpu")
                took = time.perf_counter() - start
                shown = detections[detections.scores >= least]
                with atomic_path(folder / name) as temporary:
                    draw(pixels, shown, detector.classes).save(temporary, quality=92)
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
            progress.advance(1)
    pairs = zip(detector.category_ids, detector.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    write_json(folder / "detections.json", results)
    write_json(folder / "images.json", {"images": images, "annotations": [], "categories": categories})
    return Detected(len(images), boxes, seconds, failed)


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


def draw(pixels: np.ndarray, detections: InstanceData, classes: Sequence[str]) -> Image.Image:
    """An image with boxes in the colour of their class, named with their score; the best are on top.

    A small image is enlarged by a whole number, so that names do not hide it. An image that is too large for
    a JPEG is reduced.

    Args:
        pixels: [H, W, 3] uint8 BGR.
        detections: `bboxes` [K, 4] in pixels, `scores` [K], `labels` [K].
        classes: names of the labels.
    """
    shorter, longer = sorted(pixels.shape[:2])
    step = -(-longer // JPEG_SIDE)  # every pixel, or every second, ...
    times = max(min(-(-LEAST_SIDE // shorter), MOST_SIDE // longer), 1)
    pixels = np.ascontiguousarray(pixels[::step, ::step, ::-1])
    if times > 1:
        pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    factor = times / step
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    size = max(min(pixels.shape[:2]) / 32, 10)  # pixels
    font, line = ImageFont.truetype(FONT, size), max(round(size / 7), 1)
    for index in detections.scores.argsort().tolist():
        label = int(detections.labels[index])
        x1, y1, x2, y2 = (detections.bboxes[index] * factor).tolist()
        colour = class_colour(label)
        canvas.rectangle((x1, y1, x2, y2), outline=colour, width=line)
        name = classes[label].encode(errors="replace").decode()  # a single surrogate has no glyph
        text = f"{name} {float(detections.scores[index]):.2f}"
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * line, bottom - top + 2 * line
        # Above the box if there is room, and not beyond the right side
        x = max(min(x1, pixels.shape[1] - width), 0)
        y = y1 - height if y1 >= height else y1
        canvas.rectangle((x, y, x + width, y + height), fill=colour)
        bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
        canvas.text((x + line - left, y + line - top), text, font=font, fill="black" if bright else "white")
    return picture


def class_colour(label: int) -> tuple[int, int, int]:
    """A colour for a class: hues a golden section apart, so that a few classes are easy to distinguish."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
