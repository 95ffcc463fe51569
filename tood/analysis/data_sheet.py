"""What a drawn dataset holds: counts, sizes, anchors within objects, and what hue alone says of the class."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from sklearn.neighbors import KNeighborsClassifier

from tood.data.synthetic import SPEC_FILE, SPLITS
from tood.ledger.records import SIZES

AREAS = dict(zip(("small", "medium", "large"), SIZES.values(), strict=True))  # of masks
PERCENTILES = (10, 50, 90)
NEIGHBOURS = 25  # of the classifier


def data_sheet(root: Path, strides: Sequence[int], counts: Sequence[int]) -> dict[str, Any]:
    """All of it, JSON-ready.

    Args:
        root: folder of the dataset, as `tood.data.synthetic.generate` writes it.
        strides: of the detectors' levels, pixels.
        counts: numbers m of anchors that an assignment selects for an object.
    """
    content = {
        split: json.loads((root / f"annotations/instances_{split}.json").read_text()) for split in SPLITS
    }
    return {
        "drawing": json.loads((root / SPEC_FILE).read_text()),
        "splits": {split: _of_split(content[split], strides, counts) for split in SPLITS},
        "hue": hue_says(*(_hues(root / split, content[split]) for split in SPLITS)),
    }


def _of_split(content: dict, strides: Sequence[int], counts: Sequence[int]) -> dict[str, Any]:
    objects = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    names = {category["id"]: category["name"] for category in content["categories"]}
    areas = np.array([annotation["area"] for annotation in objects])
    boxes = np.array([annotation["bbox"] for annotation in objects])
    inside = np.array([centres_inside(box, strides) for box in boxes])
    of_class = Counter(names[annotation["category_id"]] for annotation in objects)
    return {
        "images": len(content["images"]),
        "images_without_objects": len(content["images"])
        - len({a["image_id"] for a in content["annotations"]}),
        "crowds": len(content["annotations"]) - len(objects),
        "objects": len(objects),
        "objects_by_class": {name: of_class[name] for name in names.values()},
        "objects_by_size": {
            name: int(((low <= areas) & (areas < high)).sum()) for name, (low, high) in AREAS.items()
        },
        "mask_area": _percentiles(areas),
        "box_side": _percentiles(np.sqrt(boxes[:, 2] * boxes[:, 3])),
        "centres_inside": _percentiles(inside),
        "share_with_fewer_centres": {str(m): round(float((inside < m).mean()), 4) for m in counts},
    }


def centres_inside(box: np.ndarray, strides: Sequence[int]) -> int:
    """How many anchor centres of all levels, at multiples of the strides, lie in a box (x, y, w, h)."""
    (x, y, w, h), steps = box, np.array(strides)
    counts = [
        np.ceil((low + side) / steps) - np.floor(low / steps) - 1 for low, side in ((x, w), (y, h))
    ]  # [levels] each; a centre at the border is not inside
    return int((counts[0].clip(0) * counts[1].clip(0)).sum())


def _percentiles(values: np.ndarray) -> dict[str, float]:
    numbers = np.percentile(values, PERCENTILES)
    return {str(percent): round(float(value), 1) for percent, value in zip(PERCENTILES, numbers, strict=True)}


def _hues(folder: Path, content: dict) -> tuple[np.ndarray, np.ndarray]:
    """Mean hue of each object as a point [N, 2] near the unit circle, and its class [N]."""
    files = {image["id"]: folder / image["file_name"] for image in content["images"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    points, labels = [], []
    for annotation in content["annotations"]:
        if annotation["iscrowd"]:
            continue
        image = annotation["image_id"]
        mask = rle.decode(rle.merge(rle.frPyObjects(annotation["segmentation"], *sizes[image]))) > 0
        if mask.any():
            with Image.open(files[image]) as picture:
                hues = np.asarray(picture.convert("HSV"))[..., 0][mask] * (2 * np.pi / 256)
            points.append([np.cos(hues).mean(), np.sin(hues).mean()])
            labels.append(annotation["category_id"])
    return np.array(points), np.array(labels)


def hue_says(known: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    """How often hue alone tells the class: the accuracy of nearest neighbours, and that of the largest class.

    Args:
        known: hues [N, 2] and classes [N] to learn from.
        others: of other objects.
    """
    classifier = KNeighborsClassifier(NEIGHBOURS).fit(*known)
    most = Counter(others[1].tolist()).most_common(1)[0][1]
    return {
        "accuracy": round(float(classifier.score(*others)), 4),
        "largest_class": round(most / len(others[1]), 4),
    }


def contact_sheet(root: Path, split: str, columns: int, rows: int, magnified: int = 2) -> Image.Image:
    """The first images of a split side by side."""
    files = sorted((root / split).iterdir())[: columns * rows]
    images = [Image.open(file).convert("RGB") for file in files]
    width, height = (magnified * side for side in images[0].size)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, image in enumerate(images):
        corner = (index % columns * width, index // columns * height)
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), corner)
    return sheet
