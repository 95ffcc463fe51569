"""Silhouettes of the generated images: the classes, what is no class, and where a shape covers an image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Polygons = Sequence[np.ndarray]  # each [N, 2], (x, y); their union is the shape

SUPERSAMPLING = 8  # sub-pixels along a pixel's side


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


# Upright, y down, in any unit: `turned` and the drawing move and scale a silhouette.
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
SILHOUETTES = OFF_CENTRE | CENTRED
CLASSES = tuple(name for pair in zip(OFF_CENTRE, CENTRED, strict=True) for name in pair)
DISTRACTORS: tuple[Polygons, ...] = (
    (_star(5, 0.42),),
    (_star(4, 0.3),),
    (_band(0.7, turn=0.4),),
    (_bar(0, 0, 0.1, 1),),
)
PLATE: Polygons = (_arc(),)
NAPKIN: Polygons = (_bar(0, 0, 1, 0.8),)


def turned(shape: Polygons, rng: np.random.Generator, tilt: float) -> list[np.ndarray]:
    """The shape mirrored and stretched at random, and turned by at most `tilt` turns to either side."""
    angle, stretch = 2 * np.pi * rng.uniform(-tilt, tilt), np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
    mirror = rng.choice([-1, 1])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return [polygon * (mirror * stretch, 1) @ turn.T for polygon in shape]


def extent(shape: Polygons) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest (x, y) of a shape."""
    corners = np.concatenate(list(shape))
    return corners.min(axis=0), corners.max(axis=0)


def clip(polygon: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
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


def coverage(shape: Polygons, image_size: tuple[int, int]) -> np.ndarray:
    """Share of each pixel, [H, W] in [0, 1], inside the union of the polygons."""
    width, height = image_size
    mask = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(mask)
    for polygon in shape:
        # Pillow's coordinates are those of pixel centres, COCO's those of pixel corners.
        draw.polygon((polygon * SUPERSAMPLING - 0.5).ravel().tolist(), fill=255)
    return np.asarray(mask.reduce(SUPERSAMPLING), dtype=np.float64) / 255
