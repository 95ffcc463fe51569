"""How fast one process loads and augments images for a training."""

import json
import tempfile
from pathlib import Path

import numpy as np
import sklearn.datasets
import torch
from PIL import Image

from benchmarks.pair import Pair
from tood.data.loading import batches_from, build_dataset

IMAGES, OBJECTS, BATCH = 16, 7, 2
COCO_SIZE = (640, 480)  # of most of COCO's images


def loader(size: tuple[int, int], device: torch.device) -> Pair:
    """One epoch over photographs of COCO's size: JPEG decoded, resized, flipped, collated in uint8.

    What the training process does itself, to normalise and to pad, is not in it.
    """
    root = Path(tempfile.mkdtemp())
    _photographs(root)
    dataset = build_dataset(root, "train.json", "images", ["thing"], (size[1], size[0]), 0.5)

    def run() -> list[int]:
        batches = batches_from(0, dataset, BATCH, BATCH, seed=0, epochs=1, workers=0)
        replicas = [replica for _, batch in batches for replica in batch.replicas]
        return [meta["img_id"] for replica in replicas for meta in replica.metas]

    def same(ours: list[int], theirs: list[int]) -> None:
        assert ours == theirs

    needed = IMAGES * 3 * size[0] * size[1]
    return Pair(run, None, same, bytes=needed, skipped="the transforms are mmdet's", images=IMAGES)


def _photographs(root: Path) -> None:
    (root / "images").mkdir()
    width, height = COCO_SIZE
    picture = Image.fromarray(sklearn.datasets.load_sample_image("china.jpg")).resize(COCO_SIZE)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(IMAGES):
        name = f"{index}.jpg"
        picture.rotate(int(rng.integers(-5, 6))).save(root / "images" / name, quality=90)
        images.append(dict(id=index, file_name=name, width=width, height=height))
        for _ in range(OBJECTS):
            x, y = (int(rng.integers(0, side // 2)) for side in COCO_SIZE)
            annotation = dict(id=len(annotations), image_id=index, category_id=1, bbox=[x, y, 99, 99])
            annotations.append(annotation | dict(area=9801, iscrowd=0))
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="thing")])
    (root / "train.json").write_text(json.dumps(content))
