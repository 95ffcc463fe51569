"""Images of odd sizes with random pixels; the ids of their classes have gaps and another order."""

import json
from pathlib import Path

import numpy as np
from mmengine.dataset import BaseDataset
from PIL import Image

from tood.data.loading import build_dataset
from tood.study.scales import load_scale

VAL = load_scale("smoke").val
ODD = [{"id": 7, "name": "truck"}, {"id": 2, "name": "bird"}, {"id": 90, "name": "cat"}]
# Image id: (width, height), boxes as (category id, x, y, w, h, iscrowd)
ODD_IMAGES = {
    31: ((96, 64), [(2, 10, 8, 40, 30, 0), (90, 50, 20, 44, 40, 0)]),
    12: ((48, 80), [(7, 4, 30, 36, 44, 0)]),
    5: ((64, 64), []),
    8: ((90, 61), [(90, 3, 5, 33, 50, 0), (7, 40, 10, 30, 30, 0), (2, 60, 30, 20, 30, 1)]),
    44: ((60, 70), [(2, 20, 11, 38, 52, 0)]),
    45: ((52, 75), [(7, 0, 0, 52, 75, 0)]),
    60: ((100, 50), [(90, 33, 7, 41, 36, 0)]),
    70: ((50, 90), [(2, 11, 40, 33, 21, 0)]),
}


def write_coco(path: Path, images: dict, categories: list[dict]) -> Path:
    """An annotation file of images as in `ODD_IMAGES`."""
    boxes = [(image, *box) for image, (_, listed) in images.items() for box in listed]
    content = {
        "images": [
            {"id": image, "file_name": f"{image}.png", "width": width, "height": height}
            for image, ((width, height), _) in images.items()
        ],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "iscrowd": crowd}
            | {"bbox": [x, y, w, h], "area": w * h}
            for number, (image, category, x, y, w, h, crowd) in enumerate(boxes, 1)
        ],
        "categories": categories,
    }
    path.write_text(json.dumps(content))
    return path


def write_images(root: Path, images: dict) -> Path:
    """A dataset of images as in `ODD_IMAGES`, with validation images alone."""
    (root / "annotations").mkdir(parents=True)
    write_coco(root / VAL.annotations, images, ODD)
    (root / VAL.images).mkdir()
    generator = np.random.default_rng(0)
    for image, ((width, height), _) in images.items():
        pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / VAL.images / f"{image}.png")
    return root


def odd_dataset(root: Path, flip: float | None, size=(96, 96)) -> BaseDataset:
    """What `write_images` wrote; for testing without a flip, for training with its probability."""
    return build_dataset(root, *VAL, [category["name"] for category in ODD], size, flip)
