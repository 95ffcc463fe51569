"""Where labels of boxes have room in a picture."""

from collections.abc import Sequence

import numpy as np

FARTHEST = 6  # heights of a label between a label and its box


def free_place(
    box: Sequence[float],
    extent: tuple[float, float],
    image: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[tuple[float, float, float, float], tuple[float, float] | None] | None:
    """Where a label of a box may be: its place, and the corner to lead a line to if it is away from the box.

    Preferred are places above the upper side of the box, then inside of it, below it, and ever farther away;
    None if all of them are taken.

    Args:
        box: (x1, y1, x2, y2) in pixels.
        extent: width and height of the label.
        image: width and height of the image.
        taken: places (left, top, right, bottom) of other labels.
    """
    x1, y1, x2, y2 = box
    width, height = extent
    farther = [sign * step * height for step in range(2, 2 + FARTHEST) for sign in (-1, 1)]
    corners = [
        *((x, y, False) for y in (y1 - height, y1, y2, y2 - height) for x in (x1, x2 - width)),
        *((x1, y1 + step, True) for step in farther),
    ]
    lowest, rightmost = max(image[1] - height, 0), max(image[0] - width, 0)
    on_image = [(x, y, away) for x, y, away in corners if 0 <= y <= lowest]
    for x, y, away in on_image or [(x1, min(max(y1, 0), lowest), False)]:
        left = min(max(x, 0), rightmost)
        place = (left, y, left + width, y + height)
        if not any(_overlap(place, other) for other in taken):
            return place, (x1, y1) if away else None
    return None


def free_corner(
    box: np.ndarray, size: np.ndarray, taken: Sequence[np.ndarray], image: tuple[int, int]
) -> tuple[float, float] | None:
    """Where in a corner of a box something has room: its upper left point (x, y), or None.

    In a left corner it may be wider than the box.

    Args:
        box: (x1, y1, x2, y2); only its part on the image counts.
        size: width and height of what is to be placed.
        taken: boxes that it must not touch.
        image: height and width.
    """
    x1, y1, x2, y2 = np.clip(box, 0, [image[1], image[0]] * 2)
    right = max(x1, x2 - size[0])
    for x, y in ((x1, y1), (x1, y2 - size[1]), (right, y1), (right, y2 - size[1])):
        place = (x, y, x + size[0], y + size[1])
        on_image = x >= 0 and y >= 0 and place[2] <= image[1] and place[3] <= image[0]
        if on_image and not any(_overlap(place, other) for other in taken):
            return float(x), float(y)
    return None


def _overlap(place: Sequence[float], other: Sequence[float] | np.ndarray) -> bool:
    return place[0] < other[2] and other[0] < place[2] and place[1] < other[3] and other[1] < place[3]
