"""Random annotation files: AP is that of pycocotools with plain ids, or the check says what is wrong."""

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.coco_results import by_pycocotools
from PIL import Image

from tood.data.annotations import DataError
from tood.data.validation import Split, check_dataset
from tood.evaluation.detection import coco_ap

VAL = Split("val.json", "val")
SIZE = (64, 48)  # pixels
IDS: list[Callable[[random.Random, int], int]] = [
    lambda rng, number: number,
    lambda rng, number: number - 1,
    lambda rng, number: -number,
    lambda rng, number: rng.choice((-1, 1)) * number * (1 + rng.choice((2**31, 2**53, 2**63, 2**64, 10**30))),
    lambda rng, number: 1000 - 7 * number,
]  # fmt: skip


def ids(rng: random.Random, count: int) -> list[int]:
    """Different ids of one kind."""
    kind = rng.choice(IDS)
    return [kind(rng, number) for number in range(1, count + 1)]


def random_box(rng: random.Random) -> list[float]:
    """Mostly in the image; sometimes without extent, as large as the image, outside, or half a pixel."""
    kind = rng.random()
    if kind < 0.05:
        return [rng.uniform(0, 60), rng.uniform(0, 40), 0, rng.choice((0, 5.5))]
    if kind < 0.1:
        return [0, 0, *SIZE]
    if kind < 0.15:
        return [rng.choice((-30, 70)), 3, 20, 20]
    if kind < 0.2:
        return [rng.randrange(60), rng.randrange(40), 0.5, 0.5]
    return [rng.randrange(50), rng.randrange(40), rng.randrange(2, 40), rng.randrange(2, 30)]


def random_content(rng: random.Random) -> dict:
    """An annotation file that is right; its ids are of any kind."""
    images, categories = ids(rng, rng.randint(1, 6)), ids(rng, rng.randint(1, 4))
    content: dict = {
        "images": [
            {"id": one, "file_name": f"{number}.png", "width": SIZE[0], "height": SIZE[1]}
            for number, one in enumerate(images)
        ],
        "categories": [{"id": one, "name": f"class {number}"} for number, one in enumerate(categories)],
    }
    annotations = []
    for number in ids(rng, rng.randint(1, 25)):
        box = random_box(rng)
        annotations.append(
            {
                "id": number,
                "image_id": rng.choice(images),
                "category_id": rng.choice(categories),
                "bbox": box,
                "area": rng.choice((box[2] * box[3], 0.6 * box[2] * box[3], 0)),
                "iscrowd": rng.choice((0, 0, 0, 0, 1, False, True)),
            }
            | ({"ignore": rng.randint(0, 1)} if rng.random() < 0.1 else {})
        )
    annotations[0] |= {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0, "ignore": 0}  # one that can be used
    for table in content.values():
        rng.shuffle(table)
    return content | {"annotations": annotations}


def random_detections(rng: random.Random, content: dict) -> list[dict]:
    """Some near objects and some anywhere, with ties of scores; images may have none, or more than count."""
    found = []
    for image in content["images"]:
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        for _ in range(rng.choice((0, 3, 20, 130))):
            near = rng.choice(own) if own and rng.random() < 0.7 else None
            box = [side + rng.uniform(-2, 2) for side in near["bbox"]] if near else random_box(rng)
            category = near["category_id"] if near and rng.random() < 0.8 else None
            found.append(
                {
                    "image_id": image["id"],
                    "category_id": category
                    if category is not None
                    else rng.choice(content["categories"])["id"],
                    "bbox": [*box[:2], max(box[2], 0), max(box[3], 0)],
                    "score": rng.choice((rng.random(), round(rng.random(), 1))),
                }
            )
    return found  # fmt: skip


def plain(content: dict, detections: list[dict]) -> tuple[dict, list[dict]]:
    """Copies with ids 1, 2, 3, ... in the order of the given ones."""
    content, detections = copy.deepcopy((content, detections))
    for table, key in (("images", "image_id"), ("categories", "category_id")):
        order = sorted(entry["id"] for entry in content[table])
        for entry in content[table]:
            entry["id"] = order.index(entry["id"]) + 1
        for entry in [*content["annotations"], *detections]:
            entry[key] = order.index(entry[key]) + 1
    for number, annotation in enumerate(content["annotations"], 1):
        annotation["id"] = number
    return content, detections


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("random")
    (root / "val").mkdir()
    for number in range(6):
        Image.new("RGB", SIZE).save(root / f"val/{number}.png")
    return root


@pytest.mark.parametrize("part", range(4))
def test_ap_is_that_of_pycocotools(root, part):
    compared = 0
    for seed in range(50 * part, 50 * (part + 1)):
        rng = random.Random(seed)
        content = random_content(rng)
        detections = random_detections(rng, content)
        (root / VAL.annotations).write_text(json.dumps(content))
        check_dataset(root, None, VAL)
        chosen = [image["id"] for image in content["images"]]
        found = coco_ap(root / VAL.annotations, detections, chosen)
        if not detections:
            assert found["AP"] == 0 or math.isnan(found["AP"]), seed
            continue
        dense, results = plain(content, detections)
        (root / "plain.json").write_text(json.dumps(dense))
        expected = by_pycocotools(root / "plain.json", results, [image["id"] for image in dense["images"]])
        expected = {name: value if value >= 0 else math.nan for name, value in expected.items()}
        assert found == pytest.approx(expected, abs=1e-9, nan_ok=True), seed
        compared += expected["AP"] > 0
    assert compared > 30


VALUES = [
    *(None, True, False, 0, -1, 3.0, 0.5, 1e308, -1e308, 1e39, 10**400, math.nan, math.inf, -math.inf),
    *("", "12", "a", "../a.png", "/", "\ud800", "a\0b", [], [1], [1, 2, 3, 4], ["1", 2, 3, 4], {}, {"a": 1}),
    *(
        [1e308, 0, 1e308, 1],
        [math.nan] * 4,
        [0, 0, 10**400, 1],
        [True] * 4,
        [-1, -1, -1, -1],
        [0, 0, 1e20, 1],
    ),
]


def damage(rng: random.Random, content: dict) -> object:
    """Change something at random: a value, a key, an entry, a table, or the whole."""
    table = rng.choice(("images", "annotations", "annotations", "categories"))
    entry = rng.choice(content[table])
    key = rng.choice(sorted(entry))
    kind = rng.random()
    if kind < 0.6:
        entry[key] = rng.choice(VALUES)
    elif kind < 0.7:
        del entry[key]
    elif kind < 0.75:
        content[table].append(copy.deepcopy(entry))
    elif kind < 0.8:
        content[table].append(rng.choice(VALUES))
    elif kind < 0.85:
        content[table] = rng.choice(VALUES)
    elif kind < 0.9:
        del content[table]
    elif kind < 0.95 and isinstance(entry.get("bbox"), list):
        entry["bbox"][rng.randrange(len(entry["bbox"]))] = rng.choice(VALUES)
    else:
        return rng.choice(VALUES)
    return content


def test_what_is_wrong_is_said_and_nothing_else_happens(root):
    file, messages = root / VAL.annotations, {}
    for seed in range(400):
        rng = random.Random(seed)
        text = json.dumps(damage(rng, random_content(rng)))
        raw = text.encode(errors="surrogatepass")
        if seed % 10 == 0:
            raw = raw[: rng.randrange(len(raw))]
        elif seed % 10 == 5:
            place = rng.randrange(len(raw))
            raw = raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
        file.write_bytes(raw)
        try:
            manifest = check_dataset(root, None, VAL)
        except DataError as error:
            messages[seed] = str(error)
        else:
            assert json.loads(json.dumps(manifest, allow_nan=False)) == manifest, seed
            accepted = json.loads(raw)
            ap = coco_ap(file, [], [image["id"] for image in accepted["images"]])["AP"]
            assert ap == 0, seed
    assert 200 < len(messages) < 390
    for seed, message in messages.items():
        assert VAL.annotations in message or f"{root}/val/" in message, (seed, message)
        assert "Hint: " in message, (seed, message)
        assert len(message) < 1000, (seed, message)
