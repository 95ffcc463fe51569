"""A few images of a dataset as their own dataset, for a trial of a few minutes."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tood.data.annotations import read_listing
from tood.data.input_sizes import resized
from tood.data.validation import SMALLEST_SIDE, Split, check_dataset, require_files
from tood.runtime.files import write_json

# Of a sample. Images stay where they are, behind links.
TYPICAL = Split("annotations/typical.json", "train")
LARGEST = Split("annotations/largest.json", "train")
EVALUATED = Split("annotations/evaluated.json", "val")


def take_sample(
    root: Path,
    train: Split,
    val: Split,
    folder: Path,
    *,
    size: Sequence[int],
    typical: int,
    largest: int,
    evaluated: int,
) -> dict[str, Any]:
    """Write the sample and check it like a whole dataset; of the dataset itself only annotations are checked.

    Args:
        root: folder of the dataset.
        train, val: its splits.
        folder: of the sample; has the splits `TYPICAL`, drawn at random, `LARGEST`, which need the most
            memory, and `EVALUATED`, the first ones of `val` with an object.
        size: limits of the (longer, shorter) side of a network's input, in pixels.
        typical, largest, evaluated: most images of each split.

    Returns:
        the manifest of the sample, with `TYPICAL` as its training split, its `root`, and `trained_images`,
        how many images of the dataset a training sees

    Raises:
        DataError: a file is absent, or its content would break a training.
    """
    require_files(root, (train, val))
    for split, smallest in ((train, SMALLEST_SIDE), (val, 1)):
        read_listing(root / split.annotations, root / split.images, smallest)
    content = json.loads((root / train.annotations).read_bytes())
    objects = Counter(annotation["image_id"] for annotation in content["annotations"])
    # The images that the loader keeps in training
    usable = [
        image
        for image in content["images"]
        if objects[image["id"]] and min(image["width"], image["height"]) >= SMALLEST_SIDE
    ]

    def memory(image: dict) -> tuple[int, int]:
        width, height = resized(image["width"], image["height"], size)
        return width * height, objects[image["id"]]

    drawn = random.Random(0).sample(usable, min(typical, len(usable)))
    _write(folder / TYPICAL.annotations, content, drawn)
    _write(folder / LARGEST.annotations, content, sorted(usable, key=memory, reverse=True)[:largest])
    content = json.loads((root / val.annotations).read_bytes())
    annotated = {annotation["image_id"] for annotation in content["annotations"] if not annotation["iscrowd"]}
    first = [image for image in content["images"] if image["id"] in annotated][:evaluated]
    _write(folder / EVALUATED.annotations, content, first)
    for split, link in ((train, TYPICAL.images), (val, EVALUATED.images)):
        (folder / link).unlink(missing_ok=True)
        (folder / link).symlink_to((root / split.images).absolute(), target_is_directory=True)
    check_dataset(folder, LARGEST, EVALUATED, sizes=[size])
    manifest = check_dataset(folder, TYPICAL, EVALUATED, sizes=[size])
    return {"root": str(folder), "trained_images": len(usable), **manifest}


def _write(path: Path, content: dict, images: list[dict]) -> None:
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
    write_json(path, content | {"images": images, "annotations": annotations})
