"""How figures look: colours that the colour-blind can tell apart, and beside each colour a dash and a marker.

A figure is also read in grey, so no two series differ by colour alone. The colours are Okabe and Ito's.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
BESIDE = "0.55"  # of what is drawn for comparison; its contrast with the page is above 3

AS_DRAWN = "as drawn"  # gid of an artist that has the same colours on a dark page


class Series(NamedTuple):
    """How the values of one series are drawn."""

    colour: str
    dashes: Literal["-", "--", "-.", ":"]
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


# The four methods of Table 6 look the same in all figures, and nothing else has their colours.
_METHODS = dict(
    zip(
        ("Parallel head + ATSS", "T-head + ATSS", "Parallel head + TAL", "T-head + TAL"),
        _SERIES,
        strict=False,
    )
)
_ALSO = {"ATSS": "Parallel head + ATSS", "TAL": "Parallel head + TAL", "TOOD": "T-head + TAL"}


def of_methods(names: Iterable[str]) -> dict[str, Series]:
    """The look of each method by its name in a figure; others have one that no method of Table 6 has."""
    others = series()
    known = {name: _METHODS.get(_ALSO.get(name, name)) for name in names}
    return {name: look or next(others) for name, look in known.items()}


def series() -> Iterator[Series]:
    """A look for each series that is no method, in turn; the first three differ in more than the colour."""
    return itertools.cycle(_SERIES[len(_METHODS) :])
