"""Detections on a user's images: drawn, written as COCO results, and timed."""

import colorsys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from tood.evaluation.detection import coco_results
from tood.evaluation.detector import Detector
from tood.evaluation.images import BrokenImage, read_image
from tood.runtime.files import atomic_path, write_json
from tood.runtime.progress import Progress

LEAST_SIDE = 400  # pixels of the shorter side of a drawing


class Detected(NamedTuple):
    """What became of the images."""

    images: int  # that were done
    boxes: int  # that were drawn
    seconds: float  # for the network and NMS on all of them, image by image, without reading and drawing
    broken: list[str]  # what was wrong with each of the others


def detect_images(detector: Detector, paths: Sequence[Path], folder: Path, least: float) -> Detected:
    """Detect on each image, and go on after one that is broken.

    Args:
        detector: a model.
        paths: of the images.
        folder: written are `detections.json`, COCO results, and `images.json`, the images and categories that
            these are of; and each image as `NAME.jpg` with its detections drawn.
        least: score of a detection that is drawn; the results hold those below too, down to the model's own
            threshold.
    """
    images, results, broken = [], [], []
    boxes, seconds = 0, 0.0
    with Progress("detect", len(paths)) as progress:
        for number, path in enumerate(paths, 1):
            try:
                pixels = read_image(path)
            except BrokenImage as error:
                broken.append(str(error))
            else:
                start = time.perf_counter()
                found = detector.detect(pixels).to("cpu")
                seconds += time.perf_counter() - start
                height, width = pixels.shape[:2]
                images.append({"id": number, "file_name": str(path), "width": width, "height": height})
                results += coco_results(number, found, detector.category_ids)
                shown = found[found.scores >= least]
                boxes += len(shown)
                with atomic_path(folder / drawn_name(path, paths)) as temporary:
                    draw(pixels, shown, detector.classes).save(temporary, quality=92)
            progress.advance(1)
    pairs = zip(detector.category_ids, detector.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    write_json(folder / "detections.json", results)
    write_json(folder / "images.json", {"images": images, "annotations": [], "categories": categories})
    return Detected(len(images), boxes, seconds, broken)


def drawn_name(path: Path, paths: Sequence[Path]) -> str:
    """Name of the drawing of one of the images; with its suffix or number where names would be equal."""
    if sum(other.stem == path.stem for other in paths) == 1:
        return f"{path.stem}.jpg"
    if sum(other.name == path.name for other in paths) == 1:
        return f"{path.stem}_{path.suffix[1:]}.jpg"
    return f"{path.stem}_{paths.index(path) + 1}.jpg"


def draw(pixels: np.ndarray, found: InstanceData, classes: Sequence[str]) -> Image.Image:
    """An image with boxes in the colour of their class, named with their score; the best are on top.

    A small image is enlarged by a whole number, so that names do not hide it.

    Args:
        pixels: [H, W, 3] uint8 RGB.
        found: `bboxes` [K, 4] in pixels, `scores` [K], `labels` [K].
        classes: names of the labels.
    """
    factor = -(-LEAST_SIDE // min(pixels.shape[:2]))
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    picture = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(picture)
    size = max(min(pixels.shape[:2]) / 32, 10)  # pixels
    font, line = ImageFont.load_default(size), max(round(size / 7), 1)
    for index in found.scores.argsort().tolist():
        label = int(found.labels[index])
        x1, y1, x2, y2 = (found.bboxes[index] * factor).tolist()
        colour = class_colour(label)
        canvas.rectangle((x1, y1, x2, y2), outline=colour, width=line)
        text = f"{classes[label]} {float(found.scores[index]):.2f}"
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
    """A colour for a class: hues a golden section apart, so that any few are told apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
