"""A dataset in the COCO layout from real photographs that are there wherever the suite is installed.

scikit-learn ships two photographs of 640 x 427 pixels, both under CC BY 2.0: a tower above a lake with boats
("china", by danielbuechele) and a dahlia ("flower", by vultilion). The boxes below were drawn by eye on
magnified views. COCO has a class for boats; it has none for flowers, and "potted plant" is the nearest to
them. Sections of the photographs give images of other shapes and sizes, and one without any object.
"""

import json
from pathlib import Path
from typing import NamedTuple

import sklearn.datasets
from PIL import Image, ImageOps
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

# COCO's 80 classes by their ids, which have gaps up to 90: torchvision's list is indexed by id.
_NAMES = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
CATEGORIES = [
    {"id": number, "name": name}
    for number, name in enumerate(_NAMES)
    if name not in ("__background__", "N/A")
]
BOAT, POTTED_PLANT = 9, 64
WHOLE = (0, 0, 640, 427)


class Thing(NamedTuple):
    """One annotation of a photograph."""

    category: int
    box: tuple[float, float, float, float]  # (x, y, width, height), pixels of the photograph
    crowd: bool = False


THINGS = {
    "china": [
        *(
            Thing(BOAT, box)
            for box in (
                # West of the tower
                (0, 277.5, 4.5, 4),
                (12, 283.5, 5, 4.5),
                (25, 276.5, 6, 4.5),
                (47, 277.5, 4.5, 4),
                (69, 297, 6.5, 5),
                (77, 291, 4, 5),
                # East of it, up to the island
                (367, 238, 5.5, 6),
                (362, 251.5, 4, 3.5),
                (375, 247.5, 3, 3.5),
                (388, 248, 3.5, 2.5),
                (390, 252.5, 3, 3),
                (392, 245, 3, 2.5),
                (394.5, 253, 3, 3),
                (365, 265, 3, 4),
                (371, 265, 3, 4),
                (371, 297.5, 4, 6),
                (382.5, 285, 4.5, 5),
                (405, 282, 6, 5),
                (423.5, 276.5, 3.5, 5),
                # South of the island
                (443.5, 261, 4, 3.5),
                (444.5, 254.5, 3.5, 3.5),
                (460.5, 248.5, 2.5, 3),
                (465.5, 272, 5, 4.5),
                (483.5, 268, 5, 4),
                (497.5, 255, 3.5, 3),
                (541.5, 257, 3.5, 3.5),
            )
        ),
        # Boats too far away to be told apart: before the bridge, and behind the island.
        Thing(BOAT, (350, 236, 71, 8), crowd=True),
        Thing(BOAT, (502, 229, 33, 18), crowd=True),
    ],
    "flower": [
        Thing(POTTED_PLANT, (168.5, 84, 277.5, 276)),
        Thing(POTTED_PLANT, (287.5, 374, 183, 53)),
        Thing(POTTED_PLANT, (580, 392.5, 40, 34.5)),
    ],
}
# Sections of the photographs: (left, top, right, bottom). Of some the longer side meets its limit in the
# paper's input size, 1333 pixels. The sky has no object.
VIEWS = [
    ("china", WHOLE),
    ("flower", WHOLE),
    ("china", (340, 225, 560, 310)),
    ("china", (350, 0, 560, 427)),
    ("china", (0, 90, 330, 427)),
    ("flower", (120, 40, 480, 427)),
    ("china", (340, 0, 640, 200)),
    ("china", (330, 150, 640, 330)),
    ("flower", (200, 20, 430, 427)),
]
SPLITS = ("train2017", "val2017")
_LEAST_SHARE = 0.5  # of an object's box; one that a section shows less of is not annotated


def write_photographs(root: Path) -> Path:
    """Write the dataset at `root`: `train2017` holds the views as they are, `val2017` mirrored ones, and
    `test2017` two without annotations.

    The first validation image is the flower, whose objects are large, the second the tower with the boats.
    """
    folder = Path(sklearn.datasets.__file__).parent / "images"
    photographs = {name: Image.open(folder / f"{name}.jpg").convert("RGB") for name in THINGS}
    (root / "annotations").mkdir(parents=True)
    for split in SPLITS:
        (root / split).mkdir()
        mirrored = split == "val2017"
        content = {"info": {}, "licenses": [], "categories": CATEGORIES, "images": [], "annotations": []}
        views = [VIEWS[1], VIEWS[0], *VIEWS[2:]] if mirrored else VIEWS
        for index, (name, section) in enumerate(views):
            number = (1001 if mirrored else 1) + index
            picture = photographs[name].crop(section)
            width, height = picture.size
            file = f"{number:012}.jpg"
            (ImageOps.mirror(picture) if mirrored else picture).save(root / split / file, quality=95)
            content["images"].append({"id": number, "file_name": file, "width": width, "height": height})
            for thing in visible(THINGS[name], section):
                x, y, w, h = thing.box
                content["annotations"].append(
                    {
                        "id": 1000 * number + len(content["annotations"]),
                        "image_id": number,
                        "category_id": thing.category,
                        "bbox": [width - x - w if mirrored else x, y, w, h],
                        "area": w * h,
                        "iscrowd": int(thing.crowd),
                    }
                )
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    _write_test_images(root, photographs)
    return root


def _write_test_images(root: Path, photographs: dict[str, Image.Image]) -> None:
    """A split without annotations, as COCO's test-dev: the flower, and an upright section of the tower."""
    (root / "test2017").mkdir()
    content = {"info": {}, "licenses": [], "categories": CATEGORIES, "images": []}
    for index, (name, section) in enumerate([VIEWS[1], VIEWS[3]]):
        picture = photographs[name].crop(section)
        file = f"{2001 + index:012}.jpg"
        picture.save(root / "test2017" / file, quality=95)
        width, height = picture.size
        content["images"].append({"id": 2001 + index, "file_name": file, "width": width, "height": height})
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(content))


def visible(things: list[Thing], section: tuple[int, int, int, int]) -> list[Thing]:
    """What a section of a photograph shows, in pixels of the section."""
    left, top, right, bottom = section
    shown = []
    for thing in things:
        x, y, w, h = thing.box
        x1, y1, x2, y2 = max(x, left), max(y, top), min(x + w, right), min(y + h, bottom)
        if x1 < x2 and y1 < y2 and (x2 - x1) * (y2 - y1) >= _LEAST_SHARE * w * h:
            shown.append(thing._replace(box=(x1 - left, y1 - top, x2 - x1, y2 - y1)))
    return shown
