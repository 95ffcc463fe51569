"""How the generated images are painted: surfaces, and things that lie on them under one soft light.

Canvases are [H, W, 3] of RGB in [0, 1] and are painted in place.
"""

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

SHADOW = 0.45  # how much of the light a shadow takes
RELIEF = 1.6  # how much brighter an edge towards the light is


@dataclass(frozen=True)
class Light:
    """Where the light of an image comes from: a unit vector (x, y), y down."""

    x: float
    y: float


def soft_light(rng: np.random.Generator) -> Light:
    """Light from anywhere above the picture's middle."""
    angle = rng.uniform(-np.pi, 0)
    return Light(float(np.cos(angle)), float(np.sin(angle)))


def vivid(rng: np.random.Generator) -> np.ndarray:
    """RGB [3] of any hue, as objects of all classes and of none have it."""
    return _rgb(rng.uniform(), rng.uniform(0.5, 0.85), rng.uniform(0.6, 0.95))


def pale(rng: np.random.Generator) -> np.ndarray:
    """RGB [3] that is nearly white, of plates and napkins."""
    return _rgb(rng.uniform(), rng.uniform(0.0, 0.08), rng.uniform(0.75, 0.95))


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def surface(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A table of wood, cloth or stone, muted in colour, [H, W, 3]; size is (width, height)."""
    texture = (_wood, _cloth, _stone)[rng.integers(3)](size, rng)  # [H, W]
    x, y = _grid(size)
    fall = rng.normal(0, 0.08, 2) @ np.stack([x.ravel(), y.ravel()])  # light falls off to one side
    base = _rgb(rng.uniform(), rng.uniform(0.03, 0.14), rng.uniform(0.35, 0.75))
    return base * (1 + texture + fall.reshape(texture.shape))[..., None]


def _grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels, [H, W] each, from -1 to 1 along the longer side."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    return (2 * x - width) / max(size), (2 * y - height) / max(size)


def _turned_grid(size: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x, y = _grid(size)
    angle = rng.uniform(0, np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _smooth(size: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """Noise [H, W] of mean 0 and variance 1 in so many cells, smooth between them."""
    noise = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(noise.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)


def _wood(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Boards with grain."""
    along, across = _turned_grid(size, rng)
    across = across + 0.04 * _smooth(size, 4, rng)
    boards = rng.uniform(2, 4) * across + rng.uniform()
    grain = np.sin(40 * across + 3 * np.sin(2 * along)) + np.sin(97 * across + 2 * _smooth(size, 3, rng))
    shades = rng.normal(0, 0.06, 16)[np.floor(boards).astype(int) % 16]
    return shades + 0.03 * grain - 0.2 * (boards % 1 < 0.05)


def _cloth(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Stripes in two directions."""
    stripes = sum(np.sin(rng.uniform(6, 14) * axis) > 0.2 for axis in _turned_grid(size, rng))
    return 0.12 * (stripes - 0.8) + 0.02 * _smooth(size, 24, rng)


def _stone(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Clouds of three sizes."""
    return 0.1 * _smooth(size, 3, rng) + 0.06 * _smooth(size, 8, rng) + 0.04 * _smooth(size, 24, rng)


def lay(canvas: np.ndarray, coverage: np.ndarray, colour: np.ndarray, light: Light, height: float) -> None:
    """Lay a thing with rounded edges on the canvas, with its shadow.

    Args:
        canvas: [H, W, 3].
        coverage: [H, W] share of each pixel that it covers.
        colour: [3].
        light: of the image.
        height: of the thing, in pixels.
    """
    cast = _moved(_blurred(coverage, height / 2), -light.x * height, -light.y * height)
    canvas *= 1 - SHADOW * (cast * (1 - coverage))[..., None]
    slope_y, slope_x = np.gradient(_blurred(coverage, height))
    # An edge faces the light where the thing rises away from it.
    facing = height * (slope_x * -light.x + slope_y * -light.y)
    shade = (1 + RELIEF * facing).clip(0.75, 1.3)
    canvas += coverage[..., None] * (colour * shade[..., None] - canvas)


def lay_plate(
    canvas: np.ndarray, whole: np.ndarray, inner: np.ndarray, colour: np.ndarray, light: Light
) -> None:
    """Lay a flat thing with a sunken middle, such as a plate.

    Args:
        canvas: [H, W, 3].
        whole, inner: [H, W] coverage of the thing and of its middle.
        colour: [3].
        light: of the image, whose shades the rim of the middle has the other way round.
    """
    lay(canvas, whole, colour, light, 2.0)
    lay(canvas, inner, 0.96 * colour, Light(-light.x, -light.y), 1.0)


def _blurred(mask: np.ndarray, radius: float) -> np.ndarray:
    """[H, W] in [0, 1], blurred by a Gaussian of this radius in pixels."""
    image = Image.fromarray((mask * 255).round().astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64) / 255


def _moved(mask: np.ndarray, right: float, down: float) -> np.ndarray:
    """[H, W] moved by whole pixels; what comes from outside is what was at the border."""
    rows, columns = (np.arange(length) for length in mask.shape)
    return mask[
        (rows - round(down)).clip(0, len(rows) - 1)[:, None],
        (columns - round(right)).clip(0, len(columns) - 1),
    ]
