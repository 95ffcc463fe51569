"""Draws synthetic data: a detection dataset in the COCO layout, deterministic for a seed.

Eight classes of silhouettes lie on tables, among plates, napkins and shapes of no class. Objects of any class
have any hue, so the shape alone tells classes apart. Four classes have most of their area far from the middle
of their box. This is the case that motivates TOOD: the point that classifies an object best is not the point
that localises it best.

As in COCO, some images have no objects, and some have a crowd region: many small instances under one
`iscrowd` annotation. Unlike in COCO, an occluded object keeps the box of its whole silhouette, clipped to the
image. An object that would be mostly hidden is not drawn, so every annotation can be learned.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from tood.data.painting import Light, lay, lay_plate, pale, soft_light, surface, vivid
from tood.data.shapes import (
    CLASSES,
    DISTRACTORS,
    NAPKIN,
    OFF_CENTRE,
    PLATE,
    SILHOUETTES,
    Polygons,
    clip,
    coverage,
    extent,
    turned,
)

Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=32)]

SPLITS = ("train2017", "val2017")
# Validation ids start here and not after the last training id. So an image keeps its name and content when
# the number of images changes.
VAL_ID_OFFSET = 1_000_000
SPEC_FILE = "drawing.json"  # the spec, beside the data; a folder that has it may be replaced

LONG_SIDE = (0.16, 0.80)  # of an object's unclipped box, relative to the image's shorter side
DISTRACTOR_SIDE = (0.15, 0.50)
CROWD_MEMBER_SIDE = (0.10, 0.16)
DISH_SIDE = (0.60, 1.30)
SUNKEN = 0.72  # part of a dish's side
THICKNESS = 0.02  # of an object, relative to the image's shorter side
MAX_TRUNCATION = 0.15  # of a box's width or height, outside the image


class DrawingSpec(BaseModel):
    """What to draw. Equal specs give equal bytes under equal versions of numpy and Pillow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    train_images: int = Field(ge=1, le=VAL_ID_OFFSET)
    val_images: int = Field(ge=1, le=VAL_ID_OFFSET)
    image_size: tuple[Pixels, Pixels] = Field(description="width and height in pixels")
    objects_per_image: float = Field(
        2.4, ge=1, le=20, description="mean number in an image that is not empty"
    )
    distractors_per_image: float = Field(1.0, ge=0, le=20, description="mean number of shapes of no class")
    dishes_per_image: float = Field(0.8, ge=0, le=50, description="mean number of plates and napkins")
    empty_share: Share = Field(0.04, description="images without any object, evenly spaced")
    crowd_share: Share = Field(0.05, description="images with a crowd region, evenly spaced")
    max_tilt: float = Field(0.5, ge=0, le=0.5, description="of an object from upright, in turns")
    max_hidden: Share = Field(0.6, description="an object hidden beyond this share is not drawn")


@dataclass(frozen=True)
class _Layer:
    """One shape laid on an image; `category` is None for a distractor."""

    category: int | None
    crowd: bool
    polygons: Polygons  # in pixels, clipped to the image
    coverage: np.ndarray  # [H, W] share of each pixel that the shape covers
    colour: np.ndarray  # [3] RGB in [0, 1]


def generate(root: Path, spec: DrawingSpec) -> None:
    """Writes the dataset to `root`, completely or not at all.

    The layout is COCO's: `annotations/instances_{train,val}2017.json`, `{train,val}2017/*.png`.
    An earlier synthetic dataset at `root` is replaced when the new one is complete.

    Raises:
        FileExistsError: `root` holds files that this module did not write.
    """
    root = Path(root).resolve()
    if root.exists() and not _is_replaceable(root):
        raise FileExistsError(f"{root} holds files but no {SPEC_FILE}: not a synthetic dataset")
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside `root`, so that the last step is a rename within one file system.
    with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as scratch:
        fresh = Path(scratch, "fresh")
        (fresh / "annotations").mkdir(parents=True)
        (fresh / SPEC_FILE).write_text(spec.model_dump_json(indent=2) + "\n")
        for split, count in zip(SPLITS, (spec.train_images, spec.val_images), strict=True):
            _write_split(fresh, split, count, spec)
        if root.exists():
            root.rename(Path(scratch, "replaced"))
        fresh.rename(root)


def _is_replaceable(root: Path) -> bool:
    return root.is_dir() and ((root / SPEC_FILE).is_file() or all(path.is_dir() for path in root.rglob("*")))


def _write_split(root: Path, split: str, count: int, spec: DrawingSpec) -> None:
    width, height = spec.image_size
    (root / split).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        pixels, objects = draw_image(spec, split, index)
        image_id = SPLITS.index(split) * VAL_ID_OFFSET + index + 1
        file_name = f"{image_id:012d}.png"
        Image.fromarray(pixels).save(root / split / file_name, compress_level=6)
        images.append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height, "license": 1}
        )
        for annotation in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    content = {
        "info": {"description": f"Generated silhouettes, {split}", "version": "1.0"},
        "licenses": [{"id": 1, "name": "Public domain", "url": ""}],
        "categories": [
            {
                "id": number,
                "name": name,
                "supercategory": "off-centre" if name in OFF_CENTRE else "centred",
            }
            for number, name in enumerate(CLASSES, start=1)
        ],
        "images": images,
        "annotations": annotations,
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def draw_image(spec: DrawingSpec, split: str, index: int) -> tuple[np.ndarray, list[dict]]:
    """Draws one image, which depends on (seed, split, index) alone.

    Returns:
        The pixels, [H, W, 3] uint8, and the COCO annotations without `id` and `image_id`. Boxes are
        (x, y, w, h) in pixels. `area` counts pixels; a pixel at the rim counts by the share that is covered.
    """
    key = (SPLITS.index(split), index)
    rng = np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=key))
    canvas, light = surface(spec.image_size, rng), soft_light(rng)
    _lay_dishes(canvas, spec, rng, light)
    layers = _drop_hidden(list(_layers(spec, index, rng)), spec.max_hidden)
    for layer in layers:
        lay(canvas, layer.coverage, layer.colour, light, THICKNESS * min(spec.image_size))
    canvas += rng.normal(0, 0.015, canvas.shape)  # sensor noise
    pixels = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels, _annotations(layers)


def _lay_dishes(canvas: np.ndarray, spec: DrawingSpec, rng: np.random.Generator, light: Light) -> None:
    for _ in range(rng.poisson(spec.dishes_per_image)):
        shape, side = (PLATE, NAPKIN)[rng.integers(2)], _log_uniform(rng, *DISH_SIDE) * min(spec.image_size)
        centre, dish = rng.uniform(0, spec.image_size), turned(shape, rng, tilt=0.5)
        whole, inner = (
            coverage(_scaled(dish, part * side, centre), spec.image_size) for part in (1.0, SUNKEN)
        )
        lay_plate(canvas, whole, inner, pale(rng), light)


def _layers(spec: DrawingSpec, index: int, rng: np.random.Generator) -> Iterator[_Layer]:
    """Shapes of one image, from back to front."""
    labels: list[int | None] = [None] * rng.poisson(spec.distractors_per_image)
    # Evenly spaced, not random: a small split too has an empty image and a crowd.
    is_empty = _is_due(index, spec.empty_share, phase=0.75)
    if not is_empty:
        count = 1 + rng.poisson(spec.objects_per_image - 1)
        labels += rng.integers(1, len(CLASSES) + 1, count).tolist()
    for label in [labels[i] for i in rng.permutation(len(labels))]:
        if label is None:
            shape, side = DISTRACTORS[rng.integers(len(DISTRACTORS))], _log_uniform(rng, *DISTRACTOR_SIDE)
        else:
            shape, side = SILHOUETTES[CLASSES[label - 1]], _object_side(rng, label)
        yield _place(spec, rng, shape, side, label)
    # In front, as any other object would hide its small members.
    if not is_empty and _is_due(index, spec.crowd_share, phase=0.5):
        yield from _crowd(spec, rng)


def _is_due(index: int, share: float, phase: float) -> bool:
    """Whether `index` is one of those that take an even `share` of all indices."""
    return (index * share + phase) % 1 < share


def _crowd(spec: DrawingSpec, rng: np.random.Generator) -> Iterator[_Layer]:
    """A dense cluster of small instances of one class."""
    label = int(rng.integers(1, len(CLASSES) + 1))
    shape = SILHOUETTES[CLASSES[label - 1]]
    size = np.array(spec.image_size)
    middle = rng.uniform(0.3, 0.7, 2) * size
    spread = rng.uniform(0.09, 0.15, 2) * size
    for _ in range(rng.integers(12, 21)):
        side = rng.uniform(*CROWD_MEMBER_SIDE)
        centre = rng.normal(middle, spread).clip(0.1 * size, 0.9 * size)
        yield _place(spec, rng, shape, side, label, crowd_centre=centre)


def _object_side(rng: np.random.Generator, label: int) -> float:
    """Long side relative to the image, on a log scale, more often near the middle of the range.

    Off-centre silhouettes fill less of their box. A larger box makes them as easy to distinguish.
    """
    low, high = np.log(LONG_SIDE)
    side = np.exp(low + (high - low) * rng.beta(2.8, 2.2))
    return min(side * (1.25 if CLASSES[label - 1] in OFF_CENTRE else 1.0), LONG_SIDE[1])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _place(
    spec: DrawingSpec,
    rng: np.random.Generator,
    shape: Polygons,
    side: float,
    category: int | None,
    crowd_centre: np.ndarray | None = None,
) -> _Layer:
    """Turns, mirrors, stretches and moves a shape so that its box has the given long side."""
    shape, colour, image_size = turned(shape, rng, spec.max_tilt), vivid(rng), spec.image_size
    low, high = extent(shape)
    long_side = side * min(image_size)
    margin = (high - low) / (high - low).max() * long_side * (0.5 - MAX_TRUNCATION)
    centre = rng.uniform(margin, np.array(image_size) - margin)
    if crowd_centre is not None:
        centre = crowd_centre
    # Two decimals, as in COCO. Rounded before drawing, so that image and annotation agree.
    clipped = [clip(polygon, image_size).round(2) for polygon in _scaled(shape, long_side, centre)]
    polygons = [polygon for polygon in clipped if len(polygon) >= 3]
    return _Layer(category, crowd_centre is not None, polygons, coverage(polygons, image_size), colour)


def _scaled(shape: Polygons, long_side: float, centre: np.ndarray) -> list[np.ndarray]:
    """The shape with its box around the centre, in pixels."""
    low, high = extent(shape)
    return [(polygon - (low + high) / 2) * (long_side / (high - low).max()) + centre for polygon in shape]


def _drop_hidden(layers: list[_Layer], max_hidden: float) -> list[_Layer]:
    """Drops layers of which others in front hide more than `max_hidden`; a dropped layer hides nothing."""
    kept = []
    free: np.ndarray | float = 1.0  # [H, W] share of each pixel that is not covered yet
    for layer in reversed(layers):
        visible = (layer.coverage * free).sum()
        if visible > 0 and visible >= (1 - max_hidden) * layer.coverage.sum():
            kept.append(layer)
            free = free * (1 - layer.coverage)
    return kept[::-1]


def _annotations(layers: list[_Layer]) -> list[dict]:
    single = [_annotate(layer) for layer in layers if layer.category and not layer.crowd]
    crowd = [layer for layer in layers if layer.crowd]
    return single + ([_annotate_crowd(crowd)] if crowd else [])


def _annotate(layer: _Layer) -> dict:
    corners = np.concatenate(layer.polygons)
    low, high = corners.min(axis=0), corners.max(axis=0)
    return {
        "category_id": layer.category,
        "bbox": np.concatenate([low, high - low]).round(2).tolist(),
        "area": round(float(layer.coverage.sum()), 2),
        "iscrowd": 0,
        "segmentation": [polygon.ravel().tolist() for polygon in layer.polygons],
    }


def _annotate_crowd(members: list[_Layer]) -> dict:
    mask = np.max([layer.coverage for layer in members], axis=0) >= 0.5  # [H, W]
    ys, xs = np.nonzero(mask)
    corner, extent = (xs.min(), ys.min()), (np.ptp(xs) + 1, np.ptp(ys) + 1)
    return {
        "category_id": members[0].category,
        "bbox": [float(value) for value in corner + extent],
        "area": float(mask.sum()),
        "iscrowd": 1,
        "segmentation": run_lengths(mask),
    }


def run_lengths(mask: np.ndarray) -> dict:
    """Encodes a mask, [H, W] of bool, as COCO's uncompressed run-length dictionary."""
    column_major = mask.ravel(order="F").tolist()
    counts = [len(list(run)) for _, run in groupby(column_major)]
    # The first run is background, even where it is empty.
    return {"size": list(mask.shape), "counts": [0, *counts] if column_major[0] else counts}
