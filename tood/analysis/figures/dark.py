"""A figure in the colours of a dark page: black, white and greys change places, dark colours become lighter.

What is drawn on a photograph or on a map of values stays as it is, because its background does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from tood.analysis.figures.style import AS_DRAWN

PAGE, INK = np.array(to_rgba("#0d1117")), np.array(to_rgba("#e6edf3"))  # those of `page.html.j2`
_LUMINANCE, _BRIGHT = np.array([0.299, 0.587, 0.114]), 0.48  # blue and vermilion are darker
_GREY = 0.1  # largest difference between red, green and blue of what counts as grey
_PARTS: dict[type[Artist], tuple[str, ...]] = {
    Text: ("color",),
    Line2D: ("color", "markerfacecolor", "markeredgecolor"),
    Patch: ("facecolor", "edgecolor"),
    Collection: ("facecolor", "edgecolor"),
}


@contextmanager
def on_dark(figure: Figure) -> Iterator[None]:
    """Draw a figure in the colours of a dark page; afterwards it has its own again.

    Args:
        figure: was drawn before, so that it has its ticks.
    """
    kept = _as_drawn(figure)
    # All are read before any is changed, as a marker has the colour of its line.
    before: list[tuple[Callable[[Any], object], Any]] = [
        (getattr(artist, f"set_{part}"), own)
        for artist in figure.findobj()
        if id(artist) not in kept
        for kind, parts in _PARTS.items()
        if isinstance(artist, kind)
        for part in parts
        if _is_seen(own := getattr(artist, f"get_{part}")())
    ]
    for change, own in before:
        change(flipped(own))
    try:
        yield
    finally:
        for change, own in before:
            change(own)


def _is_seen(colours: Any) -> bool:
    """Whether something is drawn in a colour; a word such as "none" or "face" is no colour of its own."""
    if isinstance(colours, str) and colours in ("none", "face", "auto"):
        return False
    return bool(to_rgba_array(colours)[:, 3].any())


def flipped(colours: Any) -> Any:
    """A colour, or an array of colours [N, 4], for a dark page: greys go from `INK` to `PAGE`."""
    several = np.ndim(np.asarray(colours, dtype=object)) > 1 or len(np.atleast_1d(colours)) == 0
    rgba = to_rgba_array(colours) if several else np.array([to_rgba(colours)])  # [N, 4]
    grey = np.ptp(rgba[:, :3], axis=1, keepdims=True) <= _GREY  # [N, 1]
    lightness = rgba[:, :3].mean(axis=1, keepdims=True)  # [N, 1]
    changed = rgba.copy()
    bright = rgba[:, :3] @ _LUMINANCE > _BRIGHT  # [N]
    lighter = np.where(bright[:, None], rgba[:, :3], 0.7 * rgba[:, :3] + 0.3 * INK[:3])
    changed[:, :3] = np.where(grey, INK[:3] + lightness * (PAGE[:3] - INK[:3]), lighter)
    return changed if several else tuple(changed[0].tolist())


def _as_drawn(figure: Figure) -> set[int]:
    """The artists that keep their colours, by `id`."""
    marked = [artist for artist in figure.findobj() if artist.get_gid() == AS_DRAWN]
    on_pictures = [
        artist
        for axes in figure.axes
        if axes.images
        for artist in (*axes.lines, *axes.patches, *axes.texts, *axes.collections)
    ]
    # Its colours are values.
    mapped = [artist for artist in figure.findobj(Collection) if artist.get_array() is not None]
    return {id(inner) for artist in (*marked, *on_pictures, *mapped) for inner in artist.findobj()}
