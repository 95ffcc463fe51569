"""How figures look: colours that the colour-blind can tell apart, and beside each colour a dash and a marker.

A figure is also read in grey, so no two series differ by colour alone. The colours are Okabe and Ito's.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
BESIDE = "0.78"  # of what is drawn for comparison

AS_DRAWN = "as drawn"  # gid of an artist that has the same colours on a dark page


class Series(NamedTuple):
    """How the values of one series are drawn."""

    colour: str
    dashes: str
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Options of a line without markers."""
        return {"color": self.colour, "linestyle": self.dashes}


_SERIES = (
    Series(BLUE, "-", "o"),
    Series(ORANGE, "--", "s"),
    Series(GREEN, "-.", "^"),
    Series(PURPLE, ":", "D"),
    Series(VERMILION, "-", "v"),
    Series(SKY, "--", "P"),
    Series(BLACK, "-.", "X"),
)


def series() -> Iterator[Series]:
    """A look for each series, in turn; the first seven differ in more than the colour."""
    return itertools.cycle(_SERIES)
