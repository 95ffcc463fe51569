"""Small datasets in the layouts of VOC and YOLO. Each object is painted, so pixels say where its box is."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw


class Painted(NamedTuple):
    """A rectangle of pixels, all of one grey value that no other object of the image has."""

    name: str
    x: int
    y: int
    width: int
    height: int
    difficult: int = 0


class Picture(NamedTuple):
    width: int
    height: int
    objects: tuple[Painted, ...] = ()


# By the name of the file without suffix. Each split has a class of its own, and an image without objects.
TRAIN = {
    "plain": Picture(64, 48, (Painted("cat", 10, 8, 40, 30), Painted("dog", 52, 40, 12, 8))),
    "with a space": Picture(50, 70, (Painted("dog", 0, 0, 50, 70),)),
    "größe 图.v2": Picture(40, 40, (Painted("cat", 39, 39, 1, 1), Painted("hot dog", 3, 5, 20, 10, 1))),
    "nothing": Picture(33, 35),
}
VAL = {
    "held_out": Picture(47, 61, (Painted("dog", 7, 11, 13, 17), Painted("ant", 20, 30, 27, 31))),
    "nothing here": Picture(36, 36),
}
SPLITS = {"train": TRAIN, "val": VAL}
NAMES = ["dog", "hot dog", "cat", "ant", "unused"]  # in YOLO's order


def paint(path: Path, picture: Picture) -> None:
    image = Image.new("L", (picture.width, picture.height), 0)
    for number, (_, x, y, width, height, _) in enumerate(picture.objects, 1):
        ImageDraw.Draw(image).rectangle((x, y, x + width - 1, y + height - 1), fill=60 * number)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def seen_boxes(path: Path) -> list[list[int]]:
    """The boxes (x, y, width, height) of an image that `paint` wrote, as its pixels have them."""
    pixels = np.asarray(Image.open(path))
    boxes = []
    for value in sorted({*pixels.ravel().tolist()} - {0}):
        rows, columns = np.nonzero(pixels == value)
        x, y = int(columns.min()), int(rows.min())
        boxes.append([x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1])
    return boxes


def xml_of(picture: Picture, filename: str = "old name.jpg", size: tuple[int, int] | None = None) -> str:
    """As VOC has it: pixels are counted from 1, and the last one belongs to the box."""
    width, height = size or (picture.width, picture.height)
    objects = "".join(
        f"<object><name>{escape(thing.name)}</name><difficult>{thing.difficult}</difficult>"
        f"<bndbox><xmin>{thing.x + 1}</xmin><ymin>{thing.y + 1}</ymin>"
        f"<xmax>{thing.x + thing.width}</xmax><ymax>{thing.y + thing.height}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>\n"
        for thing in picture.objects
    )
    return (
        f"<annotation><filename>{filename}</filename>"
        f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>\n{objects}</annotation>"
    )


def write_voc(base: Path, splits: Mapping[str, Mapping[str, Picture]] = SPLITS) -> Path:
    """VOC's folders, with a list of images for each split."""
    for name, pictures in splits.items():
        write_text(base / f"ImageSets/Main/{name}.txt", "\n".join(pictures) + "\n")
        for stem, picture in pictures.items():
            paint(base / f"JPEGImages/{stem}.png", picture)
            write_text(base / f"Annotations/{stem}.xml", xml_of(picture))
    return base


def write_flat(folder: Path, pictures: Mapping[str, Picture]) -> Path:
    """Images with XML files beside them, as LabelImg leaves them: none for an image without objects."""
    for stem, picture in pictures.items():
        paint(folder / f"{stem}.png", picture)
        if picture.objects:
            write_text(folder / f"{stem}.xml", xml_of(picture))
    return folder


def lines_of(picture: Picture, names: Iterable[str] = NAMES) -> str:
    numbers = {name: number for number, name in enumerate(names)}
    return "".join(
        f"{numbers[thing.name]} {(thing.x + thing.width / 2) / picture.width:.6f} "
        f"{(thing.y + thing.height / 2) / picture.height:.6f} {thing.width / picture.width:.6f} "
        f"{thing.height / picture.height:.6f}\n"
        for thing in picture.objects
    )


def write_yolo(root: Path, images: str = "images/{split}", described: str | None = None) -> Path:
    """A YAML file, folders of images, and labels in `labels` for `images`.

    Args:
        images: folder of a split.
        described: what the YAML file says of it; None: the same.
    """
    splits = "".join(f"{name}: {(described or images).format(split=name)}\n" for name in SPLITS)
    write_text(root / "data.yaml", f"{splits}nc: {len(NAMES)}\nnames: {NAMES}\n")
    for name, pictures in SPLITS.items():
        folder = images.format(split=name)
        for stem, picture in pictures.items():
            paint(root / folder / f"{stem}.png", picture)
            if picture.objects:
                write_text(root / folder.replace("images", "labels") / f"{stem}.txt", lines_of(picture))
    return root


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
