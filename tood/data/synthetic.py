"""Draws synthetic data: a detection dataset in the COCO layout, deterministic for a seed.

Eight classes of silhouettes lie on near-grey textured backgrounds, among clutter and shapes of no class. Four
classes have most of their area far from the middle of their box. This is the case that motivates TOOD: the
point that classifies an object best is not the point that localises it best.

As in COCO, some images have no objects, and some have a crowd region: many small instances under one
`iscrowd` annotation. Unlike in COCO, an occluded object keeps the box of its whole silhouette, clipped to the
image. An object that would be mostly hidden is not drawn, so every annotation can be learned.
"""

import colorsys
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=32)]
Polygons = Sequence[np.ndarray]  # each [N, 2], (x, y); their union is the shape

SPLITS = ("train2017", "val2017")
# Validation ids start here and not after the last training id. So an image keeps its name and content when
# the number of images changes.
VAL_ID_OFFSET = 1_000_000
SPEC_FILE = "drawing.json"  # the spec, beside the data; a folder that has it may be replaced
SUPERSAMPLING = 8  # sub-pixels along a pixel's side

LONG_SIDE = (0.08, 0.80)  # of an object's unclipped box, relative to the image's shorter side
DISTRACTOR_SIDE = (0.10, 0.50)
CROWD_MEMBER_SIDE = (0.09, 0.15)
CLUTTER_SIDE = (0.10, 0.70)
MAX_TRUNCATION = 0.15  # of a box's width or height, outside the image


class DrawingSpec(BaseModel):
    """What to draw. Equal specs give equal bytes under equal versions of numpy and Pillow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(ge=0)
    train_images: int = Field(ge=1, le=VAL_ID_OFFSET)
    val_images: int = Field(ge=1, le=VAL_ID_OFFSET)
    image_size: tuple[Pixels, Pixels] = Field(description="width and height in pixels")
    objects_per_image: float = Field(
        2.7, ge=1, le=20, description="mean number in an image that is not empty"
    )
    distractors_per_image: float = Field(1.0, ge=0, le=20, description="mean number of shapes of no class")
    clutter_per_image: float = Field(5.0, ge=0, le=50, description="mean number of grey patches")
    empty_share: Share = Field(0.04, description="images without any object, evenly spaced")
    crowd_share: Share = Field(0.05, description="images with a crowd region, evenly spaced")
    max_hidden: Share = Field(0.7, description="an object hidden beyond this share is not drawn")
    hue_jitter: float = Field(
        0.025, ge=0, le=0.5, description="standard deviation of an object's hue from its class's, in turns"
    )


def _arc(radius: float = 1.0, turn: float = 1.0) -> np.ndarray:
    """Points [33, 2] on a circle around the origin; a `turn` of 1 closes it."""
    angles = 2 * np.pi * np.linspace(0, turn, 33)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _band(inner: float, turn: float = 1.0) -> np.ndarray:
    """A ring or a part of it. A COCO polygon cannot have a hole: the whole ring has a seam."""
    return np.concatenate([_arc(turn=turn), _arc(inner, turn=turn)[::-1]])


def _bar(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _star(points: int, inner: float) -> np.ndarray:
    angles = np.pi * np.arange(2 * points) / points
    radii = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


# Upright, y down, in any unit: `_place` scales a silhouette.
OFF_CENTRE: dict[str, Polygons] = {
    "lollipop": (_arc(0.30), _bar(-0.08, 0.25, 0.08, 1.0)),
    "hammer": (_bar(-0.38, 0.0, 0.38, 0.34), _bar(-0.08, 0.3, 0.08, 1.15)),
    "comet": (  # blunt streaks: an invisible tip, thinner than a pixel, would stretch the box
        _arc(0.34),
        np.array([[-0.16, 0.25], [0.16, 0.25], [0.07, 1.4], [-0.07, 1.4]]),
        np.array([[-0.34, 0.0], [-0.14, 0.2], [-0.3, 0.75], [-0.4, 0.75]]),
        np.array([[0.34, 0.0], [0.14, 0.2], [0.3, 0.75], [0.4, 0.75]]),
    ),
    "flag": (
        _bar(0.0, 0.0, 0.16, 1.3),
        np.array([[0.1, 0.0], [0.85, 0.0], [0.68, 0.26], [0.85, 0.52], [0.1, 0.52]]),
    ),
}
CENTRED: dict[str, Polygons] = {
    "disc": (_arc(),),
    "ring": (_band(0.55),),
    "square": (_bar(0, 0, 1, 1),),
    "cross": (_bar(-0.17, -0.5, 0.17, 0.5), _bar(-0.5, -0.17, 0.5, 0.17)),
}
# Off-centre and centred classes alternate, so that neighbouring hues belong to different kinds.
CLASSES = tuple(name for pair in zip(OFF_CENTRE, CENTRED, strict=True) for name in pair)
_SILHOUETTES = OFF_CENTRE | CENTRED
_DISTRACTORS: tuple[Polygons, ...] = (
    (_star(5, 0.42),),
    (_star(4, 0.3),),
    (_band(0.7, turn=0.4),),
    (_bar(0, 0, 0.1, 1),),
)
_CLUTTER: tuple[Polygons, ...] = ((_arc(),), (_bar(0, 0, 1, 1),), (_bar(0, 0, 0.12, 1),))


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
    canvas = _background(spec, rng)
    layers = _drop_hidden(list(_layers(spec, index, rng)), spec.max_hidden)
    for layer in layers:
        _paint(canvas, layer, rng)
    canvas += rng.normal(0, 0.015, canvas.shape)  # sensor noise
    pixels = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels, _annotations(layers)


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
            shape = _DISTRACTORS[rng.integers(len(_DISTRACTORS))]
            side, colour = _log_uniform(rng, *DISTRACTOR_SIDE), _colour(rng, rng.uniform())
        else:
            shape = _SILHOUETTES[CLASSES[label - 1]]
            side, colour = _object_side(rng, label), _class_colour(spec, rng, label)
        yield _place(spec.image_size, rng, shape, side, colour, label)
    # In front, as any other object would hide its small members.
    if not is_empty and _is_due(index, spec.crowd_share, phase=0.5):
        yield from _crowd(spec, rng)


def _is_due(index: int, share: float, phase: float) -> bool:
    """Whether `index` is one of those that take an even `share` of all indices."""
    return (index * share + phase) % 1 < share


def _crowd(spec: DrawingSpec, rng: np.random.Generator) -> Iterator[_Layer]:
    """A dense cluster of small instances of one class."""
    label = int(rng.integers(1, len(CLASSES) + 1))
    shape = _SILHOUETTES[CLASSES[label - 1]]
    size = np.array(spec.image_size)
    middle = rng.uniform(0.3, 0.7, 2) * size
    spread = rng.uniform(0.09, 0.15, 2) * size
    for _ in range(rng.integers(12, 21)):
        side = rng.uniform(*CROWD_MEMBER_SIDE)
        colour = _class_colour(spec, rng, label)
        centre = rng.normal(middle, spread).clip(0.1 * size, 0.9 * size)
        yield _place(spec.image_size, rng, shape, side, colour, label, crowd_centre=centre)


def _object_side(rng: np.random.Generator, label: int) -> float:
    """Long side relative to the image, on a log scale, more often near the middle of the range.

    Off-centre silhouettes fill less of their box. A larger box makes them as easy to distinguish.
    """
    low, high = np.log(LONG_SIDE)
    side = np.exp(low + (high - low) * rng.beta(2.8, 2.2))
    return min(side * (1.25 if CLASSES[label - 1] in OFF_CENTRE else 1.0), LONG_SIDE[1])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _class_colour(spec: DrawingSpec, rng: np.random.Generator, label: int) -> np.ndarray:
    return _colour(rng, (label - 1) / len(CLASSES) + rng.normal(0, spec.hue_jitter))


def _colour(rng: np.random.Generator, hue: float) -> np.ndarray:
    """RGB [3] in [0, 1]; the hue is in turns."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, rng.uniform(0.45, 0.8), rng.uniform(0.55, 0.95)))


def _place(
    image_size: tuple[int, int],
    rng: np.random.Generator,
    shape: Polygons,
    side: float,
    colour: np.ndarray,
    category: int | None,
    crowd_centre: np.ndarray | None = None,
) -> _Layer:
    """Turns, mirrors, stretches and moves a shape so that its box has the given long side."""
    angle, stretch = rng.uniform(0, 2 * np.pi), _log_uniform(rng, 0.8, 1.25)
    mirror = rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = [polygon * (mirror * stretch, 1) @ turn.T for polygon in shape]
    corners = np.concatenate(turned)
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = side * min(image_size) / (high - low).max()
    margin = (high - low) * scale * (0.5 - MAX_TRUNCATION)
    centre = rng.uniform(margin, np.array(image_size) - margin)
    if crowd_centre is not None:
        centre = crowd_centre
    placed = [(polygon - (low + high) / 2) * scale + centre for polygon in turned]
    # Two decimals, as in COCO. Rounded before drawing, so that image and annotation agree.
    clipped = [_clip(polygon, image_size).round(2) for polygon in placed]
    polygons = [polygon for polygon in clipped if len(polygon) >= 3]
    return _Layer(category, crowd_centre is not None, polygons, _coverage(polygons, image_size), colour)


def _clip(polygon: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Clips a polygon [N, 2] at the image's four borders (Sutherland-Hodgman); [M, 2], where M may be 0."""
    for axis, bound, sign in ((0, 0, 1), (0, image_size[0], -1), (1, 0, 1), (1, image_size[1], -1)):
        depth = sign * (polygon[:, axis] - bound)  # [N], positive inside
        kept = []
        for here in range(len(polygon)):
            if (depth[here - 1] < 0) != (depth[here] < 0):
                part = depth[here - 1] / (depth[here - 1] - depth[here])
                kept.append(polygon[here - 1] + part * (polygon[here] - polygon[here - 1]))
            if depth[here] >= 0:
                kept.append(polygon[here])
        polygon = np.array(kept).reshape(-1, 2)
    return polygon


def _coverage(polygons: Polygons, image_size: tuple[int, int]) -> np.ndarray:
    """Share of each pixel, [H, W] in [0, 1], inside the union of the polygons."""
    width, height = image_size
    mask = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(mask)
    for polygon in polygons:
        # Pillow's coordinates are those of pixel centres, COCO's those of pixel corners.
        draw.polygon((polygon * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255)
    return np.asarray(mask.reduce(SUPERSAMPLING), dtype=np.float64) / 255


def _background(spec: DrawingSpec, rng: np.random.Generator) -> np.ndarray:
    """A near-grey texture with grey patches on it, [H, W, 3] in [0, 1]."""
    width, height = spec.image_size
    canvas = rng.uniform(0.3, 0.75) + rng.normal(0, 0.015, (1, 1, 3)) + np.zeros((height, width, 1))
    for cells, strength in ((3, 0.06), (8, 0.03), (24, 0.02)):
        texture = Image.fromarray(rng.normal(0, strength, (cells, cells)).astype(np.float32))
        canvas += np.asarray(texture.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    for _ in range(rng.poisson(spec.clutter_per_image)):
        shape = _CLUTTER[rng.integers(len(_CLUTTER))]
        grey = rng.uniform(0.2, 0.85) + rng.normal(0, 0.02, 3)
        side = _log_uniform(rng, *CLUTTER_SIDE)
        patch = _place(spec.image_size, rng, shape, side, grey, category=None)
        opacity = rng.uniform(0.15, 0.5) * patch.coverage[..., None]
        canvas += opacity * (grey - canvas)
    return canvas


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


def _paint(canvas: np.ndarray, layer: _Layer, rng: np.random.Generator) -> None:
    """Lays a shape on the canvas [H, W, 3], in place, lit from a random side."""
    height, width = layer.coverage.shape
    x, y = rng.normal(0, 0.25, 2)
    light = 1 + x * np.linspace(-0.5, 0.5, width) + y * np.linspace(-0.5, 0.5, height)[:, None]
    canvas += layer.coverage[..., None] * (layer.colour * light[..., None] - canvas)


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
