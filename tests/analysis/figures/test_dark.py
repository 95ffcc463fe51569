"""A figure on a dark page: greys change places, colours and pictures stay; afterwards all is as before."""

import numpy as np
import pytest
from helpers.figures import pixels
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

from tood.analysis.figures.dark import INK, PAGE, flipped, on_dark
from tood.analysis.figures.files import save, save_captioned
from tood.analysis.figures.style import AS_DRAWN, BLUE, ORANGE


def drawing() -> Figure:
    """A panel of lines, and one with an image and marks on it."""
    figure = Figure(figsize=(4, 2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="black", label="black")
    left.fill_between([0, 1], [0, 0], [1, 1], color=ORANGE)
    left.axhspan(0.2, 0.4, facecolor=BLUE, alpha=0.3)  # without an edge
    left.errorbar([0.5], [0.5], [0.1], capsize=3)
    left.set_title("a title")
    right.imshow(np.full((4, 4, 3), 40, np.uint8))
    right.plot([1], [1], "o", color="white", markeredgecolor="black")
    handle = figure.legend(handles=[left.lines[0]]).legend_handles[0]
    handle.set_gid(AS_DRAWN)
    return figure


def test_black_and_white_change_places_and_colours_do_not():
    assert flipped("black") == pytest.approx(tuple(INK))
    assert flipped("white") == pytest.approx(tuple(PAGE))
    middle = flipped((0.5, 0.5, 0.5, 0.3))
    assert middle == pytest.approx((*(INK[:3] + PAGE[:3]) / 2, 0.3))
    assert flipped(ORANGE) == to_rgba(ORANGE)
    lighter = flipped(BLUE)  # too dark for a dark page
    assert sum(lighter[:3]) > sum(to_rgba(BLUE)[:3])
    several = flipped(np.array([to_rgba("black"), to_rgba(ORANGE)]))
    assert several == pytest.approx(np.array([INK, to_rgba(ORANGE)]))


def test_what_is_on_a_picture_stays():
    figure = drawing()
    save_to_nowhere(figure)
    left, right = figure.axes
    with on_dark(figure):
        assert to_hex(figure.patch.get_facecolor()) == to_hex(PAGE)
        assert to_hex(left.lines[0].get_color()) == to_hex(INK)
        assert left.patches[0].get_edgecolor()[3] == 0
        assert to_hex(left.title.get_color()) == to_hex(INK)
        assert to_hex(left.collections[0].get_facecolor()[0]) == ORANGE.lower()
        assert to_hex(right.lines[0].get_color()) == "#ffffff"
        assert to_hex(right.lines[0].get_markeredgecolor()) == "#000000"
        assert to_hex(figure.legends[0].legend_handles[0].get_color()) == "#000000"
        assert {to_hex(tick.label1.get_color()) for tick in right.xaxis.get_major_ticks()} == {to_hex(INK)}


def test_afterwards_the_figure_is_as_before(tmp_path):
    figure = drawing()
    save_captioned(figure, tmp_path / "figure", "**A figure.**")
    save(figure, tmp_path / "after.png")
    assert np.array_equal(pixels(tmp_path / "after.png"), pixels(tmp_path / "figure.png"))
    dark = pixels(tmp_path / "figure_dark.png")
    assert dark.shape == pixels(tmp_path / "figure.png").shape
    assert dark[0, 0].tolist() == [round(255 * part) for part in PAGE[:3]]
    assert (tmp_path / "figure.md").read_text() == "**A figure.**\n"


def save_to_nowhere(figure: Figure) -> None:
    """Draw it once, as `save_captioned` does before."""
    figure.canvas.draw()
